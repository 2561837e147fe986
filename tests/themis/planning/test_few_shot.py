"""Worked examples: where they stand, where they come from, and never the question itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis.errors import SpecValidationError
from themis.planning.planner import PlannedTrial, plan_trials
from themis.specs import BenchmarkSpec

Make = Callable[..., BenchmarkSpec]
TRAIN = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(10, 16)]


@pytest.fixture
def data(project_dir: Path) -> Path:
    """The questions as the test split of a directory, beside a train split."""
    folder = project_dir / "data"
    folder.mkdir()
    (project_dir / "questions.jsonl").rename(folder / "test.jsonl")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRAIN))
    return project_dir


def plan(
    benchmark: Make, body: Callable[..., dict[str, Any]], base_dir: Path, **few_shot: Any
) -> list[PlannedTrial]:
    shots = {
        "count": 2,
        "messages": [
            {"role": "user", "content": "{item.question}"},
            {"role": "assistant", "content": "{item.answer}"},
        ],
        **few_shot,
    }
    variant = {
        "id": "shots",
        "messages": [
            {"role": "system", "content": "You add."},
            {"role": "user", "content": "{item.question}"},
        ],
        "few_shot": shots,
    }
    part = {**body()["slices"][0], "dataset": {"source": "local", "data_dir": "data"}}
    spec = benchmark(prompt_variants=[variant], slices=[part])
    return list(plan_trials(spec, base_dir=base_dir, global_seed=7, providers={}))


def turns(trial: PlannedTrial) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in json.loads(trial.messages)]


def test_examples_stand_between_the_system_message_and_the_question(
    data: Path, benchmark: Make, body: Callable[..., dict[str, Any]]
) -> None:
    trials = plan(benchmark, body, data)

    assert turns(trials[0]) == [
        ("system", "You add."),
        ("user", "What is 10 + 10?"),
        ("assistant", "20"),
        ("user", "What is 11 + 11?"),
        ("assistant", "22"),
        ("user", "What is 1 + 1?"),
    ]
    assert {tuple(turns(trial)[:-1]) for trial in trials} == {tuple(turns(trials[0])[:-1])}


def test_a_seed_draws_others_and_always_the_same(
    data: Path, benchmark: Make, body: Callable[..., dict[str, Any]]
) -> None:
    first, again, other = (
        [trial.hash for trial in plan(benchmark, body, data, seed=seed)] for seed in (1, 1, 3)
    )

    assert first == again
    assert not set(first) & set(other), "the examples are part of a prompt's identity"


def test_an_item_that_is_an_example_is_left_out_of_its_own_prompt(
    data: Path, benchmark: Make, body: Callable[..., dict[str, Any]]
) -> None:
    lines = (data / "data" / "test.jsonl").read_text()
    (data / "data" / "train.jsonl").write_text(lines)

    first, second, third = plan(benchmark, body, data)[:3]

    assert [content for role, content in turns(first) if role == "user"] == [
        "What is 1 + 2?",
        "What is 1 + 3?",
        "What is 1 + 1?",
    ]
    assert turns(second)[1][1] == "What is 1 + 1?"
    assert turns(second)[3][1] == "What is 1 + 3?"
    assert turns(third)[3][1] == "What is 1 + 2?"


def test_examples_may_lie_elsewhere(
    data: Path, benchmark: Make, body: Callable[..., dict[str, Any]]
) -> None:
    trials = plan(benchmark, body, data, data_dir="data/train.jsonl", count=6)

    assert len(turns(trials[0])) == 1 + 2 * 6 + 1


@pytest.mark.parametrize(
    ("few_shot", "message"),
    [
        ({"split": "test"}, "the examples would be the questions themselves"),
        ({"count": 7}, "there are 6 examples, and count is 7"),
        ({"split": "dev"}, "no file of the split 'dev'"),
        (
            {"messages": [{"role": "user", "content": "{item.nothing}"}]},
            r"the field \{item.nothing\} does not exist",
        ),
    ],
)
def test_examples_that_cannot_be_are_refused(
    data: Path,
    benchmark: Make,
    body: Callable[..., dict[str, Any]],
    few_shot: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(SpecValidationError, match=message):
        plan(benchmark, body, data, **few_shot)


def test_the_one_file_of_the_questions_gives_no_examples(
    project_dir: Path, benchmark: Make, body: Callable[..., dict[str, Any]]
) -> None:
    (project_dir / "questions.jsonl").rename(project_dir / "data")
    (project_dir / "data").rename(project_dir / "data.jsonl")
    variant = {
        **body()["prompt_variants"][0],
        "few_shot": {"count": 1, "messages": [{"role": "user", "content": "{item.question}"}]},
    }
    part = {**body()["slices"][0], "dataset": {"source": "local", "data_dir": "data.jsonl"}}
    spec = benchmark(prompt_variants=[variant], slices=[part])

    with pytest.raises(SpecValidationError, match="the examples would be the questions"):
        next(plan_trials(spec, base_dir=project_dir, global_seed=7, providers={}))
