"""`themis import` tells people and programs what it took, what it refused, and where."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Themis = Callable[..., Result]

ITEMS = 80


@pytest.fixture
def bundle(project: Path, themis: Themis) -> Path:
    """A bundle of four shards, all of them done."""
    out = project / "bundle"
    themis("export", "generation", "benchmark.toml", "--out", out, "--shard-items", 20)
    assert themis("work", out, "--all").exit_code == 0
    return out


def damage(bundle: Path) -> Path:
    path = next((bundle / "results/00001").glob("*.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_a_good_import_reports_its_census(themis: Themis, bundle: Path) -> None:
    done = themis("import", bundle, "--json")
    report = json.loads(done.stdout)

    assert done.exit_code == 0
    assert report["census"]["complete"]
    assert report["census"]["counts"]["ok"] == report["stored"] == ITEMS
    assert (report["shards_imported"], report["shards_known"], report["held"]) == (4, 0, 0)
    assert report["census"]["problems"] == []
    assert report["signed_by"] is None


def test_a_refused_import_reports_each_problem_with_its_place(
    project: Path, themis: Themis, bundle: Path
) -> None:
    path = damage(bundle)

    refused = themis("import", bundle, "--json")
    said = themis("import", bundle)
    report = json.loads(refused.stdout)

    assert refused.exit_code == said.exit_code == 3
    assert report["stored"] == 0
    problem = report["census"]["problems"][0]
    assert problem["path"] == str(path.relative_to(bundle))
    assert (problem["frame"], problem["rule"], problem["kind"]) == (1, "frame-checksum", "corrupt")
    assert problem["line"] is None, "a frame that cannot be inflated has no lines"
    assert f"{problem['path']}: frame 1: frame-checksum" in said.stderr
    assert "census" in report
    assert str(project / "store") not in report["error"]


def test_an_incomplete_import_reports_what_is_missing(themis: Themis, bundle: Path) -> None:
    for path in (bundle / "results/00002").iterdir():
        path.unlink()

    refused = themis("import", bundle, "--json")
    partial = themis("import", bundle, "--allow-partial", "--json")

    assert refused.exit_code == partial.exit_code == 1
    assert json.loads(refused.stdout)["census"]["shards"]["2"]["missing"] == 20
    assert json.loads(refused.stdout)["stored"] == 0
    assert json.loads(partial.stdout)["stored"] == ITEMS - 20


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--max-bytes", 1000), 3, "at most 1,000 are allowed (--max-bytes)"),
        (("--max-ratio", 1), 3, "frame-limit"),
        (("--require-signature",), 2, "nobody is allowed to sign"),
        (("--signed-results",), 2, "nobody is allowed to sign"),
        (("--max-bytes", 0), 2, "0 is not in the range"),
        (("--in-place", "--dry-run"), 0, "dry run: nothing was stored"),
        (("--in-place",), 0, "stored 80 records"),
    ],
    ids=lambda value: str(value[0]).strip("-") if isinstance(value, tuple) else None,
)
def test_every_policy_is_an_option(
    themis: Themis, bundle: Path, options: tuple[object, ...], exit_code: int, words: str
) -> None:
    done = themis("import", bundle, *options)

    assert done.exit_code == exit_code, done.output
    assert words in done.output


def test_quarantine_exits_with_three_and_says_where(
    project: Path, themis: Themis, bundle: Path
) -> None:
    damage(bundle)

    done = themis("import", bundle, "--allow-partial", "--quarantine", project / "aside", "--json")
    report = json.loads(done.stdout)

    assert done.exit_code == 3
    assert 0 < report["stored"] < ITEMS
    assert list((project / "aside").rglob("problems.jsonl"))
