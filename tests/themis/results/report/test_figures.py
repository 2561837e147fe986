"""Figures for papers: the same bytes every time, and text that is text."""

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

from themis.results.report.data import ReportData
from themis.results.report.figures import render_figures

Require = Callable[[object, str], None]


@pytest.fixture(autouse=True)
def _needs_matplotlib(require: Require) -> None:
    require(find_spec("matplotlib"), "needs matplotlib")


def test_the_same_results_give_the_same_bytes(data: ReportData) -> None:
    first, second = dict(render_figures(data)), dict(render_figures(data))

    assert sorted(first) == ["forest.pdf", "forest.svg", "scores.pdf", "scores.svg"]
    assert first == second


def test_svg_text_is_text_and_hostile_names_stay_names(data: ReportData) -> None:
    (content,) = (content for name, content in render_figures(data) if name == "forest.svg")

    root = ET.fromstring(content)  # noqa: S314 -- our own output
    words = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("tuned_v2 vs base" in text for text in words)
    assert any("50% <b>|$&\\{x}* vs base" in text for text in words)


def test_pdf_embeds_its_fonts_and_its_text_can_be_copied(
    data: ReportData, tmp_path: Path, require: Require
) -> None:
    require(which("pdffonts") and which("pdftotext"), "needs poppler-utils")
    path = tmp_path / "forest.pdf"
    path.write_bytes(dict(render_figures(data))["forest.pdf"])

    fonts = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True).stdout
    words = subprocess.run(
        ["pdftotext", "-layout", path, "-"], capture_output=True, text=True, check=True
    ).stdout

    rows = fonts.splitlines()[2:]
    assert rows
    assert all("TrueType" in row and row.split()[-5] == "yes" for row in rows)
    assert "tuned_v2 vs base" in words


def test_nothing_to_draw_gives_no_figure() -> None:
    assert dict(render_figures(ReportData("t", "r", "d"))) == {}
