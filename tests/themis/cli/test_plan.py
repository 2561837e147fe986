"""`themis plan`: the matrix, an estimate, and what a change would cost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
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

    assert found["estimated_completion_tokens"] == 80 * 64
    assert found["gpu_hours"] == 80 / 3600
    assert (found["shards"], found["shard_minutes"]) == (4, 20 / 60)


def test_what_is_done_is_no_part_of_the_estimate(project: Path, themis: Themis) -> None:
    assert project.exists()
    themis("run", "benchmark.toml")

    found = json.loads(themis("plan", "benchmark.toml", "--json").stdout)

    assert found["pending"] == 0
    assert found["estimate"]["estimated_completion_tokens"] == 0


def test_prices_bound_the_cost_of_the_open_work(project: Path, themis: Themis) -> None:
    assert project.exists()
    command = ("plan", "benchmark.toml", "--price", "arithmetic=2,10")

    found = json.loads(themis(*command, "--json").stdout)["estimate"]
    shown = themis(*command).stdout

    expected = (2 * found["estimated_prompt_tokens"] + 10 * 80 * 64) / 1_000_000
    assert found["estimated_total_cost"] == expected
    assert found["work_items_by_stage"] == {"generation": 80, "evaluation": 80}
    assert "the open work costs at most 0.0" in shown


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("arithmetic=2", "write it as MODEL=PROMPT,ANSWER"),
        ("arithmetic=2,-1", "write it as MODEL=PROMPT,ANSWER"),
        ("other=1,1", "no model 'other' generates in this plan; its models are arithmetic"),
    ],
)
def test_a_price_that_says_nothing_is_refused(
    project: Path, themis: Themis, price: str, message: str
) -> None:
    assert project.exists()

    refused = themis("plan", "benchmark.toml", "--price", price)

    assert refused.exit_code == 2
    assert message in refused.stderr


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


def test_a_diff_names_the_fields_and_the_answers_that_lose_their_use(
    project: Path, themis: Themis
) -> None:
    themis("run", "benchmark.toml")
    text = (project / "benchmark.toml").read_text()
    (project / "new.toml").write_text(
        text.replace('"Answer with the number alone."', '"Only the number."')
    )

    found = json.loads(themis("plan", "new.toml", "--diff", "benchmark.toml", "--json").stdout)

    assert found["changed_fields"] == ["prompt_variants[terse].messages"]
    assert (found["added"], found["candidates_added"], found["answers_unused"]) == (40, 40, 40)


def test_prompts_are_shown_as_models_would_be_asked_and_nothing_is_planned(
    project: Path, themis: Themis
) -> None:
    shown = themis("plan", "benchmark.toml", "--show-prompts", 2)
    lines = themis("plan", "benchmark.toml", "--show-prompts", 2, "--json").stdout.splitlines()
    found = [json.loads(line) for line in lines]

    assert shown.exit_code == 0, shown.stderr
    assert [row["prompt_variant_id"] for row in found] == ["plain", "plain", "terse", "terse"]
    for row in found:
        assert f"sums / {row['prompt_variant_id']} / {row['item_id']}" in shown.stdout
        assert row["messages"][-1]["content"].splitlines()[0] in shown.stdout
    assert themis("results").exit_code != 0, "no run was planned"


def test_a_prompt_that_cannot_be_rendered_is_named_when_it_is_shown(
    project: Path, themis: Themis
) -> None:
    path = project / "benchmark.toml"
    path.write_text(path.read_text().replace("{item.question}", "{item.qestion}"))

    refused = themis("plan", "benchmark.toml", "--show-prompts", 1)

    assert refused.exit_code == 2
    assert "did you mean 'question'?" in refused.stderr
