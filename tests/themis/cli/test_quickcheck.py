"""`themis quickcheck`: failures, scores and latency of a store, and nothing is ever written."""

import hashlib
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from themis.cli import main

Themis = Callable[..., Result]


@pytest.fixture
def store(project: Path, themis: Themis) -> Path:
    """The store of the example benchmark, which has run."""
    assert themis("run", "benchmark.toml").exit_code == 0
    return project / "store"


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_scores_are_lines_with_what_was_planned(store: Path, themis: Themis) -> None:
    lines = themis("quickcheck", "scores", "--db", store).stdout.splitlines()

    assert lines == ["ev:accuracy\tarithmetic\tsums\tnumeric_match\t0.6750\t80\t80"]


def test_scores_can_be_narrowed_by_metric_slice_dimension_and_pass(
    store: Path, themis: Themis
) -> None:
    def scores(*options: str) -> list[str]:
        found = themis("quickcheck", "scores", "--db", store, *options)
        assert found.exit_code == 0, found.stderr
        return found.stdout.splitlines()

    assert len(scores("--metric", "numeric_match", "--slice", "sums")) == 1
    assert scores("--slice", "other") == []
    assert len(scores("--evaluation-hash", "accuracy")) == 1
    (narrowed,) = scores("--dimension", "kind=addition")
    assert narrowed.endswith("\t58\t58")


def test_a_filter_that_cannot_be_is_bad_usage(store: Path, themis: Themis) -> None:
    malformed = themis("quickcheck", "scores", "--db", store, "--dimension", "kind")
    unknown = themis("quickcheck", "scores", "--db", store, "--dimension", "colour=red")

    assert (malformed.exit_code, unknown.exit_code) == (2, 2)
    assert "write it as KEY=VALUE" in malformed.stderr
    assert "colour" in unknown.stderr


def test_failures_name_their_cause_and_share_its_fingerprint(project: Path, themis: Themis) -> None:
    text = (project / "benchmark.toml").read_text()
    (project / "benchmark.toml").write_text(
        text.replace('metrics = ["numeric_match"]', 'metrics = ["reasoning_gym"]')
    )
    themis("run", "benchmark.toml")

    found = themis("quickcheck", "failures", "--db", "store", "--limit", 3)
    rows = [line.split("\t") for line in found.stdout.splitlines()]

    assert len(rows) == 3
    assert {(row[1], row[2], row[3]) for row in rows} == {("ev:accuracy", "arithmetic", "sums")}
    assert {len(row) for row in rows} == {7}
    assert len({row[5] for row in rows}) == len({row[6] for row in rows})


def test_what_was_never_generated_is_listed_as_such(project: Path, themis: Themis) -> None:
    assert project.exists()
    themis("plan", "benchmark.toml")

    found = json.loads(themis("quickcheck", "failures", "--db", "store", "--json").stdout)

    assert len(found["failures"]) == 10
    assert {row["message"] for row in found["failures"]} == {"no result yet"}


def test_latency_counts_answers_and_tokens(store: Path, themis: Themis) -> None:
    found = json.loads(themis("quickcheck", "latency", "--db", store, "--json").stdout)
    lines = themis("quickcheck", "latency", "--db", store / "themis.sqlite3").stdout

    assert found["count"] == 80
    assert 0 < found["p50_ms"] <= found["p95_ms"]
    assert found["completion_tokens"] > 0
    assert lines.startswith("count\t80\naverage_ms\t")


@pytest.mark.parametrize("command", ["failures", "scores", "latency"])
def test_nothing_is_written_to_a_store(store: Path, themis: Themis, command: str) -> None:
    before = contents(store)
    folder = store.stat().st_mode
    store.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        found = themis("quickcheck", command, "--db", store)
    finally:
        store.chmod(folder)

    assert found.exit_code == 0, found.stderr
    assert contents(store) == before


def test_a_file_that_is_no_store_is_named(project: Path, themis: Themis) -> None:
    found = themis("quickcheck", "scores", "--db", project / "benchmark.toml")

    assert found.exit_code == 4
    assert "benchmark.toml: not a Themis store" in found.stderr


def test_the_console_script_is_the_same_command(store: Path) -> None:
    script = Path(sys.executable).with_name("themis-quickcheck")
    code = "from themis.cli.quickcheck import standalone; standalone()"
    command = [str(script)] if script.exists() else [sys.executable, "-c", code]

    done = subprocess.run(
        [*command, "latency", "--db", str(store)], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("count\t80\n")
    assert "quickcheck" in main.list_commands(None)  # type: ignore[arg-type]
