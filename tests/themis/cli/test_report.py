"""`themis report`: each ending gives its format, and a wrong one is refused before any work."""

import base64
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]


@pytest.fixture
def ran(project: Path, themis: Themis) -> Path:
    assert themis("run", "benchmark.toml").exit_code == 0
    return project


@pytest.mark.parametrize(
    ("suffix", "holds"),
    [
        (".html", b"<!doctype html>"),
        (".md", b"| plain |"),
        (".json", b'"aggregates"'),
        (".csv", b"model_id,slice_id"),
        (".tex", rb"\toprule"),
        (".parquet", b"PAR1"),
    ],
)
def test_the_ending_chooses_the_format(
    ran: Path, themis: Themis, suffix: str, holds: bytes
) -> None:
    out = ran / f"report{suffix}"

    done = themis("report", "my-eval", "--out", out)

    assert done.exit_code == 0, done.stderr
    assert holds in out.read_bytes()


def test_the_same_run_gives_the_same_bytes(ran: Path, themis: Themis) -> None:
    themis("report", "my-eval", "--out", "one.html")
    themis("report", "my-eval", "--out", "two.html")

    assert (ran / "one.html").read_bytes() == (ran / "two.html").read_bytes()


def test_an_unknown_ending_is_refused(ran: Path, themis: Themis) -> None:
    done = themis("report", "my-eval", "--out", "report.docx")

    assert done.exit_code == 2
    assert "must end in .html" in done.stderr
    assert not (ran / "report.docx").exists()


def test_results_say_what_was_planned_scored_failed_and_missing(ran: Path, themis: Themis) -> None:
    assert ran.exists()

    shown = themis("results", "my-eval").stdout
    rows = json.loads(themis("results", "my-eval", "--json").stdout)["rows"]

    assert "80 scores planned, 80 scored, 0 failed, 0 missing" in shown
    assert [row["n_planned"] for row in rows] == [40, 40]


def test_an_unknown_key_names_those_that_exist(ran: Path, themis: Themis) -> None:
    assert ran.exists()

    done = themis("results", "my-eval", "--by", "colour")

    assert done.exit_code == 2
    assert "skill" in done.stderr


def test_an_item_is_shown_from_the_prompt_to_the_score(ran: Path, themis: Themis) -> None:
    assert ran.exists()

    shown = themis("show", "q01")
    found = json.loads(themis("show", "q01", "--json").stdout)

    assert shown.exit_code == 0, shown.stderr
    for part in ("sums/q01", "What is 41 + 18?", "output (stop)", "expected", "numeric_match: "):
        assert part in shown.stdout
    assert [entry["prompt_variant_id"] for entry in found] == ["plain", "terse"]
    assert themis("show", "q99").exit_code == 2


def test_models_are_ranked_with_the_doubt_about_the_order(ran: Path, themis: Themis) -> None:
    text = (ran / "benchmark.toml").read_text()
    other = '[[models]]\nmodel_id = "echo"\nprovider = "demo"\n\n[[slices]]'
    (ran / "benchmark.toml").write_text(text.replace("[[slices]]", other, 1))
    assert themis("run", "benchmark.toml").exit_code == 0

    shown = themis("leaderboard", "my-eval")
    rows = json.loads(themis("leaderboard", "my-eval", "--json").stdout)["rows"]

    assert shown.stdout.index("arithmetic") < shown.stdout.index("echo")
    assert [(row["rank"], row["model_id"]) for row in rows] == [(1, "arithmetic"), (2, "echo")]
    assert rows[1]["behind_first"]["delta_mean"] < 0


def test_figures_are_written_beside_or_instead_of_a_report(ran: Path, themis: Themis) -> None:
    assert ran.exists()

    done = themis("report", "my-eval", "--figures", "figures")

    assert done.exit_code == 0, done.stderr
    assert done.stdout == "figures: scores.svg, scores.pdf, forest.svg, forest.pdf\n"
    assert (ran / "figures" / "forest.pdf").read_bytes().startswith(b"%PDF")
    assert themis("report", "my-eval").exit_code == 2


def test_a_report_says_whether_it_may_be_compared_with_another_run(
    ran: Path, themis: Themis
) -> None:
    text = (ran / "benchmark.toml").read_text()
    (ran / "benchmark.toml").write_text(text.replace("num_samples = 1 ", "num_samples = 2 "))
    first = json.loads(themis("results", "my-eval", "--json").stdout)["run_id"]
    assert themis("run", "benchmark.toml").exit_code == 0

    done = themis("report", "my-eval", "--against", first, "--out", "report.json")

    assert done.exit_code == 0, done.stderr
    alone, other = json.loads((ran / "report.json").read_text())["comparability"]
    assert alone["verdict"] == "comparable"
    assert other["left"] == first
    assert "samples" in [entry["field"] for entry in other["differences"]]


@pytest.mark.parametrize("suffix", [".md", ".tex", ".json", ".csv", ".parquet"])
def test_every_format_counts_planned_scored_failed_and_missing(
    ran: Path, themis: Themis, suffix: str
) -> None:
    out = ran / f"report{suffix}"
    assert themis("report", "my-eval", "--out", out).exit_code == 0

    if suffix == ".parquet":
        from pyarrow import parquet

        text = " ".join(parquet.read_table(out).column_names)
    else:
        text = out.read_text()

    for count in ("planned", "scored", "failed", "missing"):
        assert count in text


def test_parameters_that_look_alike_keep_their_own_name_everywhere(
    project: Path, themis: Themis
) -> None:
    text = (project / "benchmark.toml").read_text()
    alike = "[[inference_grid.params]]\ntemperature = 0.0\nmax_tokens = 64\ntop_k = 5\n"
    start = text.index("[[inference_grid.params]]")
    (project / "benchmark.toml").write_text(
        f"{text[:start]}{alike}{alike.replace('top_k = 5', 'top_k = 6')}"
    )
    assert themis("run", "benchmark.toml").exit_code == 0

    themis("report", "my-eval", "--out", "report.json")
    themis("report", "my-eval", "--out", "report.html")

    document = json.loads((project / "report.json").read_text())
    names = {row["params"] for row in document["aggregates"]}
    assert names == {"t=0 max=64 #1", "t=0 max=64 #2"}
    assert {row["params"] for row in document["tokens"]} == names
    page = (project / "report.html").read_text()
    (packed,) = re.findall(r'id="index">([^<]+)<', page)
    index = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert set(index["params"]) == names
