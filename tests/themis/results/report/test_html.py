import re
import time
import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import replace
from gzip import decompress
from json import loads
from pathlib import Path
from typing import Any

import pytest

from themis.results.report.data import ItemDetail, ItemScore, Message, ReportData
from themis.results.report.forest import forest_svg
from themis.results.report.html import render_html
from themis.results.report.html_items import pack_items


class TestFile:
    """One file, the same every time, safe before any script runs."""

    def test_the_same_results_give_the_same_bytes(self, data: ReportData) -> None:
        assert render_html(data) == render_html(data)

    def test_nothing_is_loaded_from_anywhere(self, data: ReportData) -> None:
        page = render_html(data)

        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
        assert policy
        assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy[1]
        assert not re.search(r"\b(?:src|href)=[\"']?[^\"'#]", page)
        assert "style=" not in page

    def test_names_and_outputs_cannot_become_markup(self, data: ReportData) -> None:
        page = render_html(data)

        assert "<b>|" not in page
        assert 'owned"' not in page
        assert "<title>Tuning &amp; &lt;tests&gt;</title>" in page
        tags = set(re.findall(r"<(/?[a-z]+)", page.split("<script type")[0]))
        assert "script" not in tags
        assert "img" not in tags

    def test_the_census_comes_first(self, data: ReportData) -> None:
        page = render_html(data)

        order = [
            page.index(f'<section id="{name}"')
            for name in ("census", "scores", "differences", "breakdowns", "items", "provenance")
        ]
        assert order == sorted(order)

    def test_without_items_there_is_no_browser(self, plain_data: ReportData) -> None:
        page = render_html(plain_data)

        assert 'id="items"' not in page
        assert 'id="chunk-0"' not in page

    def test_items_beyond_the_limit_are_counted(self, data: ReportData) -> None:
        page = render_html(data, max_items=10)

        assert "first 10 answers; 351 more are not in this file" in page

    def test_chunks_hold_every_item_in_order(self, items: tuple[ItemDetail, ...]) -> None:
        packed = pack_items(items, 10_000)

        blocks = dict(re.findall(r'id="([^"]+)">([^<]+)<', packed.scripts))
        index = _open(blocks.pop("index"))
        details = [entry for name in sorted(blocks) for entry in _open(blocks[name])]
        assert len(details) == len(items) == sum(index["chunks"]) == packed.kept
        assert [entry["output"] for entry in details] == [item.output for item in items]
        assert index["scores"][0] == [item.scores[0].value for item in items]
        assert sum(index["failed"]) == sum(item.failed for item in items) == 1

    def test_packing_does_not_write_the_time(self, items: tuple[ItemDetail, ...]) -> None:
        (head, *_) = re.findall(r'id="[^"]+">([^<]+)<', pack_items(items, 5).scripts)

        assert b64decode(head)[4:8] == b"\0\0\0\0"

    def test_a_lone_surrogate_in_an_output_survives(self) -> None:
        packed = pack_items([ItemDetail("s", "m", "p", "1", output="bad \ud800 end")], 5)

        blocks = dict(re.findall(r'id="([^"]+)">([^<]+)<', packed.scripts))
        assert _open(blocks["chunk-0"])[0]["output"] == "bad \ud800 end"


def _open(block: str) -> Any:
    return loads(decompress(b64decode(block)))


class TestForest:
    """An SVG that parses and shows every row."""

    def test_it_is_well_formed_and_has_a_row_per_comparison(self, data: ReportData) -> None:
        root = ET.fromstring(forest_svg(data.paired))  # noqa: S314 -- our own output

        space = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{space}g")) == len(data.paired)
        assert len(root.findall(f".//{space}rect")) == len(data.paired)
        zero = root.find(f"{space}line[@class='zero']")
        assert zero is not None
        for group, row in zip(root.findall(f"{space}g"), data.paired, strict=True):
            line = group.find(f"{space}line")
            assert line is not None
            assert row.ci_lower is not None
            left_of_zero = float(line.attrib["x1"]) < float(zero.attrib["x1"])
            assert left_of_zero == (row.ci_lower < 0)

    def test_rows_without_pairs_say_so(self, data: ReportData) -> None:
        empty = replace(data.paired[0], delta_mean=None, ci_lower=None, ci_upper=None)

        svg = forest_svg([empty])

        assert "no pairs" in svg
        ET.fromstring(svg)  # noqa: S314 -- our own output


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

    def test_fifty_thousand_items_stay_fast(
        self, browser: Any, plain_data: ReportData, tmp_path: Path
    ) -> None:
        words = "the quick brown fox jumps over the lazy dog "
        many = (
            ItemDetail(
                slice_id="gsm8k",
                model_id=("base", "tuned_v2")[n % 2],
                prompt_variant_id="plain",
                item_id=f"q{n // 2}",
                messages=(Message("user", f"{n} {words * 8}"),),
                output=f"{words * 8} {n * 7919 % 100_003}",
                scores=(ItemScore("em", "default", float(n * 7919 % 3 == 0)),),
            )
            for n in range(50_000)
        )
        path = tmp_path / "big.html"
        path.write_text(render_html(replace(plain_data, items=many)), encoding="utf-8")

        browser.open(path)
        browser.wait("document.getElementById('browser').dataset.ready === 'true'", 30)
        taken = browser.run(
            "return performance.now() - performance.getEntriesByType('navigation')[0].startTime"
        )
        started = time.monotonic()
        self.choose(browser, "search", "q24999")
        browser.wait("document.getElementById('count').textContent.startsWith('2 of 50,000')")

        assert path.stat().st_size < 12_000_000
        assert taken < 15_000
        assert time.monotonic() - started < 8
        assert browser.logs() == []


_CODE_OF = (
    "return [...document.getElementById('baseline').options]"
    ".find(o => o.textContent === arguments[0]).value"
)
