"""The commands that read results: tables for a person, JSON and CSV for a program."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]


@pytest.fixture
def ran(project: Path, themis: Themis) -> Path:
    """The scaffold's benchmark with two models, done."""
    text = Path("benchmark.toml").read_text()
    second = '[[models]]\nmodel_id = "echo"\nprovider = "demo"\n\n[[slices]]'
    Path("benchmark.toml").write_text(text.replace("[[slices]]", second, 1))
    assert themis("run", "benchmark.toml").exit_code == 0
    return project


@pytest.mark.parametrize("command", ["results", "compare", "leaderboard"])
def test_json_and_csv_hold_the_same_rows(ran: Path, themis: Themis, command: str) -> None:
    rows = json.loads(themis(command, "--json").stdout)["rows"]
    table = list(csv.DictReader(io.StringIO(themis(command, "--csv").stdout)))

    assert len(rows) == len(table) > 0
    assert list(table[0]) == sorted(rows[0], key=list(table[0]).index)
    assert table[0]["n_planned"] == str(rows[0]["n_planned"])


def test_json_and_csv_together_are_refused(ran: Path, themis: Themis) -> None:
    done = themis("results", "--json", "--csv")

    assert done.exit_code == 2
    assert "cannot be given together" in done.stderr


def test_failures_are_listed_for_a_program(ran: Path, themis: Themis) -> None:
    assert themis("failures").stdout == "Nothing failed and nothing is missing.\n"
    assert json.loads(themis("failures", "--json").stdout)["rows"] == []
    assert themis("plan", _longer(ran)).exit_code == 0

    rows = json.loads(themis("failures", "--json", "--limit", "3").stdout)
    table = list(csv.DictReader(io.StringIO(themis("failures", "--csv").stdout)))

    assert (len(rows["rows"]), rows["more"]) == (3, True)
    assert {row["status"] for row in table} == {"missing"}
    assert {row["message"] for row in table} == {"no result yet"}


def _longer(ran: Path) -> Path:
    text = (ran / "benchmark.toml").read_text()
    (ran / "longer.toml").write_text(text.replace("num_samples = 1", "num_samples = 2"))
    return ran / "longer.toml"


def test_scores_group_by_a_field_of_the_items(ran: Path, themis: Themis) -> None:
    rows = json.loads(themis("results", "--by", "kind", "--json").stdout)["rows"]
    refused = themis("results", "--by", "topic")

    assert len({row["kind"] for row in rows}) > 1
    assert refused.exit_code == 2
    assert "cannot group by 'topic'; known keys: model_id" in refused.stderr


def test_models_are_compared_with_a_verdict_on_their_provenance(ran: Path, themis: Themis) -> None:
    shown = themis("compare").stdout
    body = json.loads(themis("compare", "--json").stdout)

    assert re.search(r"run_\w+ arithmetic and run_\w+ echo: comparable", shown)
    assert [entry["verdict"] for entry in body["comparability"]] == ["comparable"]


def test_two_runs_are_compared_and_what_was_asked_otherwise_is_shown(
    ran: Path, themis: Themis
) -> None:
    text = Path("benchmark.toml").read_text()
    Path("warm.toml").write_text(text.replace("temperature = 0.0", "temperature = 0.5"))
    first = json.loads(themis("results", "--json").stdout)["run_id"]
    second = json.loads(themis("run", "warm.toml", "--json").stdout)["run_id"]

    shown = themis("compare", first, second).stdout
    body = json.loads(themis("compare", first, second, "--json").stdout)
    paired = themis(
        "compare", first, second, "--baseline", "echo", "--treatment", "arithmetic", "--json"
    )
    refused = themis("compare", first, second, "--treatment", "echo")

    assert f"{first} and {second}: caution" in shown
    assert "parameters" in shown
    assert [(row["model_id"], row["compare"], row["delta_mean"]) for row in body["rows"]] == [
        ("arithmetic", "run", 0.0), ("echo", "run", 0.0),
    ]  # fmt: skip
    (row,) = json.loads(paired.stdout)["rows"]
    assert row["model_id"] == "echo → arithmetic"
    assert row["delta_mean"] > 0
    assert refused.exit_code == 2


def test_flipped_items_are_listed_with_both_outputs(ran: Path, themis: Themis) -> None:
    Path("warm.toml").write_text(Path("benchmark.toml").read_text().replace("0.0", "0.5"))
    assert themis("run", "warm.toml").exit_code == 0

    shown = themis("compare", "--flips", "1").stdout
    one = json.loads(themis("compare", "--flips", "2", "--json").stdout)["flips"]
    two = json.loads(
        themis(
            "compare", "my-eval", "latest", "--baseline", "echo", "--treatment", "arithmetic",
            "--flips", "2", "--json",
        ).stdout
    )["flips"]  # fmt: skip

    assert re.search(
        r"^sums/\w+ numeric_match: [01] → [01] \((gained|lost)\)$", shown, re.MULTILINE
    )
    assert "  arithmetic: " in shown
    assert len(one) == 2
    assert [(flip["model_id"], flip["new_model_id"]) for flip in two] == [
        ("echo", "arithmetic")
    ] * 2
    assert all(flip["baseline_outputs"] and flip["treatment_outputs"] for flip in (*one, *two))


def test_a_trial_is_shown_with_its_history_and_its_proof(ran: Path, themis: Themis) -> None:
    from themis.results import BenchmarkResult

    with BenchmarkResult.open(ran / "store") as result:
        trial = next(result.iter_trial_summaries()).trial_hash

    candidate = themis("show", f"{trial[:10]}:0")
    whole = json.loads(themis("show", trial, "--json").stdout)
    unknown = themis("show", "0123abcd")

    assert candidate.exit_code == 0, candidate.output
    assert "where it comes from:" in candidate.stdout
    assert candidate.stdout.count("proved") == 9
    assert "CHANGED" not in candidate.stdout
    assert (whole["record_type"], whole["trial_hash"]) == ("trial", trial)
    assert unknown.exit_code == 2
    assert "no item or trial '0123abcd'" in unknown.stderr


def on_terminal(*arguments: str, columns: int = 80) -> list[str]:
    """Return the lines that a terminal of this width shows, without their colours."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from themis.cli import main; main()", *arguments],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


@pytest.mark.parametrize(
    "command", [("results",), ("compare",), ("compare", "--by", "prompt_variant_id"),
                ("leaderboard",), ("gate", "policy.toml", "latest", "latest")],
    ids=" ".join,
)  # fmt: skip
def test_a_long_model_name_leaves_80_columns_readable(
    ran: Path, themis: Themis, command: tuple[str, ...]
) -> None:
    """Names fold; numbers and intervals stay whole, each on one line."""
    _rename_model(ran / "store", "organisation/a-model-with-a-rather-long-name-70b-instruct-v1.5")
    Path("policy.toml").write_text(
        '[[rules]]\ncheck = "min_value"\nmetric = "numeric_match"\nvalue = -1.0\n'
    )

    # A sentence before or after a table may be longer; a terminal wraps it.
    lines = [line for line in on_terminal(*command) if not line.startswith(("my-eval", "run_"))]

    assert max(map(len, lines)) <= 80
    intervals = [line for line in lines if re.search(r"\[-?\d\.\d{3}, -?\d\.\d{3}\]", line)]
    assert len(intervals) >= 1
    assert not any(line.rstrip().endswith(",") and "[" in line for line in lines)


def _rename_model(store: Path, name: str) -> None:
    """Give a model of a store another name; the demo engine has short ones only."""
    from themis.storage import open_store

    with open_store(store) as opened:
        opened.db.execute(
            "UPDATE specs SET body = json_set(body, '$.model_id', ?)"
            " WHERE kind = 'model' AND json_extract(body, '$.model_id') = 'echo'",
            (name,),
        )


def test_a_difference_that_the_data_support_is_marked(ran: Path, themis: Themis) -> None:
    lines = themis("compare").stdout.splitlines()

    (row,) = (line for line in lines if "echo" in line and "[" in line)
    assert row.startswith("►")
    assert "► a difference that the data support." in lines


def test_the_example_of_the_documentation_prints_what_it_says(
    project: Path,
    themis: Themis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "results-in-python.md").read_text()
    code, printed = (
        block
        for kind in ("python", "text")
        for block in re.findall(f"```{kind}\n(.*?)```", page, re.DOTALL)
    )
    assert themis("run", "benchmark.toml").exit_code == 0
    monkeypatch.chdir(project.parent)

    exec(code, {})  # noqa: S102 - the documentation's own code

    assert capsys.readouterr().out == printed
