"""What a person sees and does in the page, in Chromium without a network."""

import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.results.report.data import ItemDetail, ItemScore, Message, ReportData
from themis.results.report.html import render_html


@pytest.fixture
def page(browser: Any, data: ReportData, tmp_path: Path) -> Any:
    path = tmp_path / "report.html"
    path.write_text(render_html(data), encoding="utf-8")
    browser.open(path)
    browser.wait("document.getElementById('browser').dataset.ready === 'true'")
    return browser


class TestInABrowser:
    """What a person would see and do, in Chromium without a network."""

    def count(self, page: Any) -> str:
        return str(page.run("return document.getElementById('count').textContent"))

    def choose(self, page: Any, name: str, value: str) -> None:
        page.run(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event(e.tagName === 'INPUT' ? 'input' : 'change'));",
            name,
            value,
        )

    def test_it_opens_without_errors_or_requests(self, page: Any) -> None:
        assert page.logs() == []
        assert page.run("return performance.getEntriesByType('resource').length") == 0
        assert page.run("return document.title") == "Tuning & <tests>"
        assert self.count(page) == "361 of 361 answers; page 1 of 8"

    def test_a_hostile_output_is_shown_as_text(self, page: Any) -> None:
        self.choose(page, "search", "gsm8k-7")
        page.wait("document.getElementById('count').textContent.startsWith('3 of')")
        page.run("document.querySelector('#list tbody button').click()")
        page.wait("!document.getElementById('detail').hidden")

        text = page.run(
            "return [...document.querySelectorAll('#detail pre')].map(p => p.textContent).join()"
        )
        assert '</script><script>document.title="owned"</script>' in text
        assert "⟨U+001B⟩[31m⟨U+202E⟩" in text
        assert page.run("return document.title") == "Tuning & <tests>"
        assert page.run("return document.querySelectorAll('img').length") == 0
        assert page.logs() == []

    def test_nothing_hostile_runs_whatever_is_opened(self, page: Any) -> None:
        before = page.run("return document.scripts.length")
        for show in ("all", "wrong", "failed", "flipped"):
            self.choose(page, "show", show)
            page.run("const b = document.querySelector('#list tbody button'); if (b) b.click()")
        self.choose(page, "show", "all")
        self.choose(page, "search", "gsm8k-7")
        page.wait("document.getElementById('count').textContent.startsWith('3 of')")
        page.run("document.querySelector('#list tbody button').click()")
        page.wait("document.getElementById('detail').textContent.includes('What is')")
        page.run(
            "for (const e of document.querySelectorAll('#detail *')) {"
            " e.dispatchEvent(new Event('focus')); e.dispatchEvent(new MouseEvent('mouseover')); }"
        )
        time.sleep(0.2)

        assert page.run("return document.title") == "Tuning & <tests>"
        assert page.run("return document.scripts.length") == before
        assert (
            page.run(
                "return [...document.querySelectorAll('*')].filter(e =>"
                " [...e.attributes].some(a => /^on/.test(a.name) || /^javascript:/i.test(a.value))"
                " || ['IMG', 'IFRAME', 'OBJECT', 'EMBED', 'FORM'].includes(e.tagName)).length"
            )
            == 0
        )
        shown = page.run("return document.getElementById('detail').textContent")
        assert "⟨U+200B⟩⟨U+2066⟩⟨U+E0041⟩ <!-- ]]> {{7*7}}" in shown
        assert page.logs() == []

    def test_a_script_that_got_in_anyway_would_not_run(self, page: Any) -> None:
        page.run(
            "const s = document.createElement('div');"
            "s.innerHTML = '<img src=x onerror=\"document.title=1\">';"
            "document.body.append(s);"
            "const t = document.createElement('script'); t.textContent = 'document.title = 2';"
            "document.body.append(t);"
        )
        time.sleep(0.3)

        assert page.run("return document.title") == "Tuning & <tests>"
        assert any("Content Security Policy" in entry["message"] for entry in page.logs())

    def test_items_can_be_narrowed_to_failed_and_flipped(self, page: Any) -> None:
        self.choose(page, "show", "failed")
        page.wait("document.getElementById('count').textContent.startsWith('1 of 361')")
        shown = "return document.getElementById('arms').getClientRects().length > 0"
        assert not page.run(shown)
        self.choose(page, "show", "flipped")
        assert page.run(shown)
        self.choose(page, "baseline", page.run(_CODE_OF, "base"))
        self.choose(page, "treatment", page.run(_CODE_OF, "tuned_v2"))
        page.wait("document.getElementById('count').textContent.startsWith('17 of 361')")
        self.choose(page, "slice", "1")
        page.wait("document.getElementById('count').textContent.startsWith('2 of 361')")

        page.run("document.querySelector('#list tbody button').click()")
        page.wait("document.querySelectorAll('#detail section').length === 2")

        names = page.run(
            "return [...document.querySelectorAll('#detail section')].map(s => s.ariaLabel)"
        )
        assert names == ["tuned_v2", "base"]

    def test_flips_between_prompts_are_found_too(self, browser: Any, tmp_path: Path) -> None:
        items = [
            ItemDetail("s", "m", prompt, f"q{n}", output="x", scores=(ItemScore("em", "d", value),))
            for prompt, values in (("plain", (0.0, 1.0, 1.0)), ("cot", (1.0, 1.0, 0.0)))
            for n, value in enumerate(values)
        ]
        path = tmp_path / "prompts.html"
        path.write_text(render_html(ReportData("t", "r", "d", items=items)), encoding="utf-8")
        browser.open(path)
        browser.wait("document.getElementById('browser').dataset.ready === 'true'")

        self.choose(browser, "what", "prompt")
        self.choose(browser, "show", "gained")
        browser.wait("document.getElementById('count').textContent.startsWith('1 of 6')")
        self.choose(browser, "show", "lost")
        browser.wait("document.getElementById('count').textContent.startsWith('1 of 6')")

        assert browser.run("return document.querySelector('#list td').textContent") == "q2"
        assert browser.logs() == []

    def test_a_smaller_score_is_a_gain_where_lower_is_better(
        self, browser: Any, tmp_path: Path
    ) -> None:
        items = [
            ItemDetail("s", m, "p", f"q{n}", output="x", scores=(ItemScore("bits", "d", value),))
            for m, values in (("base", (0.9, 0.5, 0.7)), ("new", (0.8, 0.5, 0.9)))
            for n, value in enumerate(values)
        ]
        data = ReportData("t", "r", "d", items=items, directions={"bits": "lower"})
        path = tmp_path / "bits.html"
        path.write_text(render_html(data), encoding="utf-8")
        browser.open(path)
        browser.wait("document.getElementById('browser').dataset.ready === 'true'")

        self.choose(browser, "show", "gained")
        browser.wait("document.getElementById('count').textContent.startsWith('1 of 6')")

        assert browser.run("return document.querySelector('#list td').textContent") == "q0"
        assert (
            browser.run("return document.querySelector('#list td.gain').textContent") == "▼ 0.800"
        )
        assert browser.logs() == []

    def test_items_can_be_put_in_order(self, page: Any) -> None:
        score = "[...document.querySelectorAll('#list tbody tr')].map(r => r.cells[5].textContent)"
        self.choose(page, "order", "high")
        page.wait(f"{score}.every(s => s === '1')")
        self.choose(page, "order", "low")
        page.wait(f"{score}.every(s => s === '0')")
        self.choose(page, "order", "item")
        page.wait("document.querySelector('#list td').textContent === 'gsm8k-0'")
        names = page.run(
            "return [...document.querySelectorAll('#list tbody tr')].map(r => r.cells[0].innerText)"
        )

        assert names[:7] == ["gsm8k-0"] * 3 + ["gsm8k-1"] * 3 + ["gsm8k-2"]
        assert page.logs() == []

    def test_a_changed_item_opens_beside_what_it_changed_from(self, page: Any) -> None:
        self.choose(page, "show", "gained")
        self.choose(page, "baseline", page.run(_CODE_OF, "base"))
        self.choose(page, "treatment", page.run(_CODE_OF, "tuned_v2"))
        page.run("document.querySelector('#list tbody button').click()")
        page.wait("document.querySelectorAll('#detail .candidate').length === 2")
        names = page.run(
            "return [...document.querySelectorAll('#detail section')].map(s => s.ariaLabel)"
        )
        heading = page.run("return document.querySelector('#detail h3').textContent")
        page.press("j")
        page.wait(f"document.querySelector('#detail h3').textContent !== {heading!r}")
        page.press("k")
        page.wait(f"document.querySelector('#detail h3').textContent === {heading!r}")

        assert names == ["tuned_v2", "base"]
        assert page.logs() == []

    def test_text_inside_outputs_can_be_searched(self, page: Any) -> None:
        page.run("document.getElementById('intext').checked = true")
        self.choose(page, "search", "IT IS 42.")
        page.wait("document.getElementById('count').textContent.startsWith('1 of 361')")

        assert page.logs() == []

    def test_it_works_from_the_keyboard(self, page: Any) -> None:
        down, enter, escape = "\ue015", "\ue007", "\ue00c"
        page.run("document.querySelector('#list tbody button').focus()")
        page.press(down, down, enter)
        page.wait("!document.getElementById('detail').hidden")

        chosen = page.run("return document.querySelector('tr[aria-selected=true]').rowIndex")
        focused = page.run("return document.activeElement.tagName")
        page.press(escape)
        page.wait("document.getElementById('detail').hidden")
        back = page.run("return document.activeElement.closest('tr').rowIndex")
        page.press("/")
        searching = page.run("return document.activeElement.id")

        assert (chosen, focused, back, searching) == (3, "H3", 3, "search")

    def test_tables_sort_by_number(self, page: Any) -> None:
        heading = "document.querySelectorAll('#scores th button')[1].click()"
        order = (
            "return [...document.querySelectorAll('#scores tbody tr')]"
            ".map(r => r.cells[0].innerText)"
        )
        page.run(heading)
        upwards = page.run(order)
        page.run(heading)

        assert upwards[-1] == "tuned_v2"
        assert page.run(order)[0] == "tuned_v2"

    def test_the_theme_can_be_chosen_and_follows_the_system_else(self, page: Any) -> None:
        paper = "return getComputedStyle(document.body).backgroundColor"
        seen = {}
        for scheme in ("light", "dark"):
            page.prefer(color_scheme=scheme)
            seen[scheme] = page.run(paper)
        chosen = []
        for _ in range(3):
            page.run("document.getElementById('theme').click()")
            chosen.append(
                (page.run("return document.getElementById('theme').innerText"), page.run(paper))
            )

        assert seen["light"] != seen["dark"]
        assert chosen == [
            ("Theme: light", seen["light"]),
            ("Theme: dark", seen["dark"]),
            ("Theme: auto", seen["dark"]),
        ]

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_text_stands_out_from_what_is_behind_it(self, page: Any, scheme: str) -> None:
        page.prefer(color_scheme=scheme)
        self.choose(page, "show", "failed")
        page.run("for (const d of document.querySelectorAll('details')) d.open = true")
        page.run("document.querySelector('#list tbody button').click()")
        page.wait("!document.getElementById('detail').hidden")

        weak = page.run(_WEAK_TEXTS)

        assert weak == []

    def test_everything_has_a_name_and_headings_are_in_order(self, page: Any) -> None:
        nameless = page.run(
            "return [...document.querySelectorAll("
            "'input, select, button, a, summary, svg, [role=region]')]"
            ".filter(e => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        levels = page.run(
            "return [...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))"
        )

        assert nameless == []
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert page.run("return [...document.querySelectorAll('th')].every(t => t.scope)")
        assert page.run("return document.documentElement.lang") == "en"

    def test_tab_goes_through_the_page_and_shows_where_it_is(self, page: Any) -> None:
        stops = []
        for _ in range(12):
            page.press("\ue004")
            stops.append(
                page.run(
                    "const e = document.activeElement;"
                    "return [e.textContent.trim() || e.id, getComputedStyle(e).outlineStyle]"
                )
            )

        names = [name for name, _ in stops]
        assert names[:4] == ["Skip to the results", "Theme: auto", "Census", "Scores"]
        assert {style for _, style in stops} == {"solid"}

    def test_nothing_moves_for_people_who_do_not_want_it(self, page: Any) -> None:
        how = "return getComputedStyle(document.documentElement).scrollBehavior"
        page.prefer(reduced_motion="reduce")
        still = page.run(how)
        page.prefer(reduced_motion="no-preference")

        assert (still, page.run(how)) == ("auto", "smooth")
        assert page.run("return document.getAnimations().length") == 0

    def test_it_prints_with_everything_open_and_without_controls(
        self, page: Any, tmp_path: Path, require: Any
    ) -> None:
        require(which("pdftotext"), "needs poppler-utils")
        folded = page.run("return document.querySelectorAll('details:not([open])').length")
        (tmp_path / "page.pdf").write_bytes(page.pdf())
        words = subprocess.run(
            ["pdftotext", "-layout", tmp_path / "page.pdf", "-"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

        assert folded
        assert page.run("return document.querySelectorAll('details:not([open])').length") == folded
        assert words.index("Census") < words.index("Paired differences") < words.index("Provenance")
        assert words.count("Numbers") >= 3
        assert "bounds" in words.split("By slice")[1]
        assert "search" not in words

    def test_a_narrow_screen_never_scrolls_sideways(self, page: Any) -> None:
        page.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=390, height=800, deviceScaleFactor=1, mobile=True,
        )  # fmt: skip

        assert page.run("return document.documentElement.scrollWidth") <= 390

    def test_the_report_of_a_real_run_shows_every_section(
        self, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = CliRunner()
        monkeypatch.chdir(tmp_path)
        for command in (
            ["init", "my-eval"],
            ["run", "my-eval/benchmark.toml"],
            ["report", "my-eval", "--project", "my-eval/project.toml", "--out", "report.html"],
        ):
            done = runner.invoke(main, command)
            assert done.exit_code == 0, done.output
        print(f"report.html: {(tmp_path / 'report.html').stat().st_size:,} bytes")
        browser.open(tmp_path / "report.html")
        browser.wait("document.getElementById('browser').dataset.ready === 'true'")
        self.choose(browser, "show", "wrong")
        browser.wait("document.getElementById('count').textContent.startsWith('26 of 80')")
        browser.run("document.querySelector('#list tbody button').click()")
        browser.wait("document.querySelectorAll('#detail .candidate').length === 1")

        shown = browser.run(
            "return [...document.querySelectorAll('main > section')].map(s => s.id)"
        )
        assert shown == [
            "census", "scores", "differences", "tokens", "items", "timeline",
            "provenance", "configuration",
        ]  # fmt: skip
        assert browser.run("return document.querySelectorAll('#timeline rect.bar').length") >= 1
        assert "comparable" in browser.run("return document.querySelector('.badge').textContent")
        assert browser.logs() == []
        assert browser.run("return performance.getEntriesByType('resource').length") == 0

    def test_fifty_thousand_items_stay_fast(
        self, browser: Any, plain_data: ReportData, tmp_path: Path
    ) -> None:
        path = tmp_path / "big.html"
        started = time.process_time()
        path.write_text(render_html(replace(plain_data, items=_many(50_000))), encoding="utf-8")
        measured = {"CPU s to write": time.process_time() - started}

        def timed(what: str, condition: str) -> None:
            began = time.monotonic()
            browser.wait(condition, 60)
            measured[what] = time.monotonic() - began

        browser.open(path)
        timed("waited", "document.getElementById('browser').dataset.ready === 'true'")
        measured["s to open"] = 0.001 * browser.run(
            "return Number(document.getElementById('browser').dataset.after)"
        )
        count = "document.getElementById('count').textContent"
        self.choose(browser, "search", "q24999")
        timed("s to search ids", f"{count}.startsWith('2 of 50,000')")
        browser.run("document.querySelector('#list tbody button').click()")
        timed("s to open an item", "!document.getElementById('detail').hidden")
        self.choose(browser, "search", "")
        self.choose(browser, "show", "gained")
        timed("s to find what changed", f"!{count}.startsWith('2 of')")
        self.choose(browser, "show", "all")
        browser.run("document.getElementById('intext').checked = true")
        self.choose(browser, "search", "unique-49998")
        timed("s to search all texts", f"{count}.startsWith('1 of 50,000')")
        size = path.stat().st_size
        print(f"{size / 1e6:.1f} MB", {name: round(value, 2) for name, value in measured.items()})

        assert size < 40_000_000
        assert measured["s to open"] < 15
        assert measured["s to search ids"] < 8
        assert measured["s to open an item"] < 8
        assert browser.logs() == []


def _many(count: int) -> Iterator[ItemDetail]:
    """Yield answers of two models, with prompts of about 700 and outputs of about 500 letters."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(3000)]
    for n in range(count):
        yield ItemDetail(
            slice_id="gsm8k",
            model_id=("base", "tuned_v2")[n % 2],
            prompt_variant_id="plain",
            item_id=f"q{n // 2}",
            messages=(Message("user", " ".join(rng.choices(words, k=110))),),
            output=f"{' '.join(rng.choices(words, k=80))} unique-{n}",
            finish_reason="stop",
            completion_tokens=100,
            scores=(ItemScore("em", "default", float(rng.random() < 0.5)),),
            expected=str(n),
        )


_WEAK_TEXTS = """
const parse = (c) => {
  const m = c.match(/[\\d.]+/g).map(Number);
  return m.length < 4 ? [...m, 1] : m;
};
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => {
  const s = v / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (e) => {
  const stack = [];
  for (let n = e; n; n = n.parentElement) stack.push(parse(getComputedStyle(n).backgroundColor));
  return stack.reverse().reduce((under, top) => [...over(top, under), 1], [255, 255, 255, 1]);
};
const weak = [];
for (const e of document.querySelectorAll("body *")) {
  if (!e.checkVisibility() || e.closest("script, title, desc, option") || e.disabled) continue;
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  const style = getComputedStyle(e);
  const drawn = e instanceof SVGElement;
  const ink = parse(drawn ? style.fill : style.color);
  const bar = e.classList.contains("inside") ? e.parentElement.querySelector("rect") : null;
  const under = drawn ? e.closest("svg").parentElement : e;
  const paper = bar ? parse(getComputedStyle(bar).fill) : behind(under);
  const [a, b] = [light(over(ink, paper)), light(paper)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const name = e.className.baseVal ?? e.className;
  if (ratio < 4.5) weak.push([e.tagName, name, e.textContent.slice(0, 20), ratio].join(" "));
}
return weak;
"""
_CODE_OF = (
    "return [...document.getElementById('baseline').options]"
    ".find(o => o.textContent === arguments[0]).value"
)
