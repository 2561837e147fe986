import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import replace
from gzip import decompress
from json import loads
from typing import Any

from themis.results.report.data import ItemDetail, ReportData
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
