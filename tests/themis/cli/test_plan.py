"""`themis plan`: the matrix, an estimate, and what a change would cost."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Themis = Callable[..., Result]


def test_the_matrix_counts_every_cell(project: Path, themis: Themis) -> None:
    assert project.exists()

    found = json.loads(themis("plan", "benchmark.toml", "--json").stdout)

    assert (found["trials"], found["candidates"], found["pending"]) == (80, 80, 80)
    assert [cell["prompt_variant_id"] for cell in found["cells"]] == ["plain", "terse"]
    assert {cell["candidates"] for cell in found["cells"]} == {40}


def test_an_estimate_bounds_gpu_hours_and_shard_time(project: Path, themis: Themis) -> None:
    assert project.exists()
    options = ("--shard-items", 20, "--tokens-per-second", 64, "--json")

    found = json.loads(themis("plan", "benchmark.toml", *options).stdout)["estimate"]

    assert found["max_new_tokens"] == 80 * 64
    assert found["gpu_hours"] == 80 / 3600
    assert (found["shards"], found["shard_minutes"]) == (4, 20 / 60)


def test_what_is_done_is_no_part_of_the_estimate(project: Path, themis: Themis) -> None:
    assert project.exists()
    themis("run", "benchmark.toml")

    found = json.loads(themis("plan", "benchmark.toml", "--json").stdout)

    assert found["pending"] == 0
    assert found["estimate"]["max_new_tokens"] == 0


def test_a_diff_says_what_a_change_keeps_adds_and_removes(project: Path, themis: Themis) -> None:
    text = (project / "benchmark.toml").read_text()
    changed = text.replace('"Answer with the number alone."', '"Only the number."')
    changed = changed.replace('metrics = ["numeric_match"]', 'metrics = ["exact_match"]')
    (project / "new.toml").write_text(changed)

    found = themis("plan", "new.toml", "--diff", "benchmark.toml")

    assert found.exit_code == 0, found.stderr
    assert "40 trials kept, 40 added, 40 removed" in found.stdout
    assert "score sums/accuracy: added" in found.stdout
    assert "score sums/accuracy: removed" in found.stdout
