"""The drawings of the page: well-formed, one mark for each number, times where they belong."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace

import pytest

from themis.results.report import numbers
from themis.results.report.charts import scores_svg, timeline_svg, tokens_svg
from themis.results.report.data import ReportData
from themis.results.report.findings import findings
from themis.results.report.svg import Scale
from themis.results.report.tables import attempt_table, token_table
from themis.storage.timeline import AttemptTiming
from themis.storage.usage import TokenUse

SVG = "{http://www.w3.org/2000/svg}"
START = 1_700_000_000.0


def timing(shard: int, start: float, seconds: float | None, **changes: object) -> AttemptTiming:
    made = AttemptTiming(
        stage="generation",
        bundle="b" * 64,
        shard=shard,
        attempt=f"a{shard}",
        host="node01",
        started=START + start,
        ended=None if seconds is None else START + start + seconds,
        outcome=None if seconds is None else "complete",
        cause="",
        records=10,
        prompt_tokens=100,
        completion_tokens=500,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def groups(svg: str) -> Iterator[ET.Element]:
    return ET.fromstring(svg).iter(f"{SVG}g")  # noqa: S314 -- our own output


def titles(svg: str) -> list[str]:
    return [group.findtext(f"{SVG}title") or "" for group in groups(svg)]


def test_every_mean_is_drawn_with_its_interval(data: ReportData) -> None:
    rows = data.breakdowns["slice_id"]

    svg = scores_svg(rows)

    said = titles(svg)
    assert len(said) == len(rows)
    for row in rows:
        words = f"{numbers.score(row.mean)} {numbers.interval(row.ci_lower, row.ci_upper)}"
        assert any(words in title for title in said)


def test_scores_are_drawn_over_the_tokens_of_their_answers(data: ReportData) -> None:
    rows = data.breakdowns["slice_id"]
    use = [
        TokenUse(
            row.keys["model_id"] or "",
            row.keys["slice_id"] or "",
            row.keys["prompt_variant_id"] or "",
            row.keys["params"] or "",
            answers=10,
            prompt_tokens=100,
            completion_tokens=10 * (place + 1),
            cut_short=place,
        )
        for place, row in enumerate(rows)
    ]

    said = titles(tokens_svg(rows, use))

    assert len(said) == len(rows)
    assert said[0].endswith("1.0 tokens")
    assert tokens_svg(rows, []) == ""
    table = token_table(use)
    assert [row[-1] for row in table.rows] == [str(place) for place in range(len(rows))]


def test_the_timeline_has_a_bar_from_start_to_end() -> None:
    svg = timeline_svg([timing(0, 0, 50), timing(1, 50, 50), timing(2, 0, None)])

    bars = [bar for bar in ET.fromstring(svg).iter(f"{SVG}rect")]  # noqa: C416, S314
    assert len(bars) == 2
    first, second = ({k: float(bar.attrib[k]) for k in ("x", "width")} for bar in bars)
    assert first["x"] + first["width"] == pytest.approx(second["x"], abs=0.02)
    assert first["width"] == pytest.approx(second["width"], abs=0.02)
    assert "10 items in 50.0 s, 10 tokens/s, complete" in titles(svg)[0]


def test_many_attempts_share_lanes_when_they_do_not_overlap() -> None:
    many = [timing(n, (n // 20) * 100, 100) for n in range(200)]

    svg = timeline_svg(many)

    lanes = {bar.attrib["y"] for bar in ET.fromstring(svg).iter(f"{SVG}rect")}  # noqa: S314
    assert len(lanes) == 20


def test_attempts_without_times_are_in_the_table_alone() -> None:
    unknown = timing(0, 0, None, started=None, host=None, completion_tokens=0)

    assert timeline_svg([unknown]) == ""
    ((*_, start, end, took, items, speed, outcome),) = attempt_table([unknown]).rows
    assert (start, end, took, items, speed, outcome) == ("-", "-", "-", "10", "-", "unknown")


def test_a_clock_that_went_backwards_gives_no_speed() -> None:
    assert timing(0, 0, -5).seconds is None
    assert timing(0, 0, -5).tokens_per_second is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.04, 0.3), (-7.0, 120.0), (0, 1e-4)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = Scale(low, high, 0, 100).ticks()

    assert 0 in ticks
    assert 3 <= len(ticks) <= 14
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_a_finding_says_difference_interval_p_items_and_what_is_missing(data: ReportData) -> None:
    said = [sentence for sentence, _ in findings(data.paired)]

    assert re.fullmatch(
        r"tuned_v2 scores higher than base on gsm8k: default \+0\.250 \(95% CI \+0\.\d+ to "
        r"\+0\.\d+\), Holm-adjusted p \S+, on the same 60 items, 1 on neither\.",
        said[0],
    )
    supported = [shown for _, shown in findings(data.paired)]
    assert supported == sorted(supported, reverse=True)
