import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import themis.results
from themis.records.score_table import ScoreTable
from themis.results.aggregate import aggregate
from themis.results.leaderboard import leaderboard
from themis.results.report.data import ReportData
from themis.results.report.files import render_csv, render_json, render_parquet
from themis.results.report.latex import render_latex
from themis.results.report.markdown import render_markdown
from themis.results.report.tables import (
    FLAG_MEANINGS,
    Column,
    TextTable,
    aggregate_table,
    leaderboard_table,
    report_tables,
)
from themis.results.report.terminal import fit, render_terminal

Require = Callable[[object, str], None]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class TestTerminal:
    """Readable at 80 columns, plain in a pipe, and deaf to control characters."""

    def test_no_line_is_wider_than_80_columns(self, data: ReportData) -> None:
        drawn = render_terminal(report_tables(data), tty=True, width=80)

        assert max(len(ANSI.sub("", line)) for line in drawn.splitlines()) <= 80

    def test_what_does_not_fit_is_named(self) -> None:
        table = TextTable(
            "t",
            (Column("a" * 30), Column("b" * 30), Column("c" * 30, optional=True)),
            (("1", "2", "3"),),
        )

        narrow = fit(table, 70)

        assert [column.title for column in narrow.columns] == ["a" * 30, "b" * 30]
        assert narrow.rows == (("1", "2"),)
        assert narrow.notes == (f"Left out at this width: {'c' * 30}.",)
        assert fit(table, 100) == table

    def test_a_pipe_gets_no_escape_codes(self, data: ReportData) -> None:
        text = render_terminal(report_tables(data), tty=False)

        assert "\x1b" not in text
        # base: one of 121 planned answers failed
        assert re.search(r"^base .* 121 +120 +1 +0 ", text, re.MULTILINE)
        assert text.index("Census") < text.index("Scores") < text.index("Paired differences")

    def test_control_characters_are_shown_not_sent(self) -> None:
        table = TextTable("t", (Column("model"),), (("red\x1b[31m\u202e",),))

        for tty in (True, False):
            text = render_terminal([table], tty=tty)
            assert "\\x1b[31m\\u202e" in text
            assert "\u202e" not in text

    def test_the_leaderboard_marks_doubt(self, scores: ScoreTable) -> None:
        text = render_terminal([leaderboard_table(leaderboard(scores))], tty=False)

        assert re.search(r"1  tuned_v2 +0\.558 .* 120/120\n", text)
        assert re.search(r"2  base +0\.417 .* 120/121 +-0\.142\n", text)

    def test_rich_stays_unloaded_for_a_pipe(self) -> None:
        code = (
            "import sys; from themis.results.report.terminal import render_terminal; "
            "render_terminal([], tty=False); sys.exit('rich' in sys.modules)"
        )

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestMarkdown:
    """Tables that parse, whatever things are called."""

    def test_every_row_of_a_table_has_as_many_cells_as_its_head(self, data: ReportData) -> None:
        text = render_markdown(data)

        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(cells) == 1

    def test_no_html_and_no_markup_comes_through(self, data: ReportData) -> None:
        text = render_markdown(data)

        assert "<b>" not in text
        assert re.search(r"(?<!\\)<", text) is None
        assert "Tuning \\& \\<tests\\>" in text

    def test_supported_differences_are_bold_and_provenance_is_listed(
        self, data: ReportData
    ) -> None:
        text = render_markdown(data)

        assert "| **gsm8k** | **tuned\\_v2** |" in text
        assert "- engine.version: 1" in text
        assert "- gpu: -" in text
        assert "> One item could not be generated." in text

    def test_the_same_results_give_the_same_bytes(self, plain_data: ReportData) -> None:
        for render in (render_markdown, render_latex, render_json):
            assert render(plain_data) == render(plain_data)


class TestLatex:
    """booktabs, escaped in one pass."""

    def test_braces_balance_and_specials_are_escaped(self, data: ReportData) -> None:
        text = render_latex(data)

        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert r"50\% \textless{}b\textgreater{}\textbar{}\$\&\textbackslash{}\{x\}" in text
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 4
        body = [line for line in text.splitlines() if not line.startswith("%")]
        assert not re.search(r"(?<!\\)[%$#_]", "\n".join(body))


class TestFiles:
    """For programs: all digits, and no formula."""

    def test_json_holds_every_digit(self, data: ReportData) -> None:
        document = json.loads(render_json(data))

        assert document["aggregates"][0] == json.loads(json.dumps(data.aggregates[0].to_dict()))
        assert document["census"][0]["planned"] == 60
        assert document["paired"][0]["p_value"] == data.paired[0].p_value

    def test_csv_reads_back(self, data: ReportData) -> None:
        rows = list(csv.DictReader(io.StringIO(render_csv(data.paired))))

        assert len(rows) == len(data.paired)
        assert float(rows[0]["p_value"]) == data.paired[0].p_value
        assert rows[0]["slice_id"] == data.paired[0].keys["slice_id"]

    def test_parquet_reads_back(self, data: ReportData, require: Require) -> None:
        require(find_spec("pyarrow"), "needs pyarrow")
        from pyarrow import parquet

        table = parquet.read_table(io.BytesIO(render_parquet(data.paired))).to_pylist()

        assert table == [row.to_dict() for row in data.paired]

    @pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "-2", "+x"])
    def test_a_spreadsheet_does_not_run_a_name(self, name: str) -> None:
        class Named:
            def to_dict(self) -> dict[str, object]:
                return {"model": name, "mean": -0.5, "none": None}

        text = render_csv([Named()])

        assert text.splitlines()[1] == f"'{name},-0.5,"


def test_repeated_answers_show_how_many_items_they_are(table: Callable[..., ScoreTable]) -> None:
    scores = table(
        [{"item": str(i), "sample": s, "value": i / 4} for i in range(3) for s in range(2)]
    )

    text = render_terminal([aggregate_table(aggregate(scores, ["model_id"]))], tty=False)

    assert re.search(r"6/6 +3$", text, re.MULTILINE)
    assert "so each counts once" in text


def test_every_flag_that_can_be_raised_is_explained(data: ReportData) -> None:
    folder = Path(next(iter(themis.results.__path__)))
    source = "".join(path.read_text() for path in folder.glob("*.py"))

    for flag in FLAG_MEANINGS:
        assert f'"{flag}"' in source, flag
    table = aggregate_table(data.aggregates)
    assert all(len(row) == len(table.columns) for row in table.rows)
