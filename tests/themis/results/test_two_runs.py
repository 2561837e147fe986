"""Two runs are compared like two models: item by item, with nothing hidden."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.compare import paired_compare
from themis.results.two_runs import compare_runs

Build = Callable[..., ScoreTable]


def run_of(table: Build, values: list[float], **same: Any) -> ScoreTable:
    return table(
        [
            {"item": str(item), "model": "m", **same}
            | ({"status": ScoreStatus.GENERATION_MISSING} if np.isnan(value) else {"value": value})
            for item, value in enumerate(values)
        ]
    )


def test_two_runs_of_one_model_give_what_two_models_of_one_run_give(
    table: Build, pairs: Build
) -> None:
    before = [0.0, 1, 0, 0, 1, 0, 1, 0, 0, np.nan]
    after = [1.0, 1, 1, 0, 1, 1, 0, 1, 1, 1]

    (found,) = compare_runs(run_of(table, before), run_of(table, after), margin=0.2)
    (expected,) = paired_compare(pairs(before, after), baseline="base", margin=0.2)

    shared = set(found.to_dict()) - {"model_id", "compare", "treatment", "baseline"}
    assert {name: found.to_dict()[name] for name in shared} == {
        name: expected.to_dict()[name] for name in shared
    }
    assert (found.keys["model_id"], found.compare, found.unpaired_treatment) == ("m", "run", 1)


def test_models_are_kept_apart_and_items_of_one_run_alone_are_counted(table: Build) -> None:
    base = table(
        [
            {"model": model, "item": str(item), "value": 0.0}
            for model in ("a", "b")
            for item in range(4)
        ]
    )
    new = table(
        [
            {"model": model, "item": str(item), "value": float(model == "a")}
            for model in ("b", "a")
            for item in range(1, 5)
        ]
    )

    rows = compare_runs(base, new)

    assert [(row.keys["model_id"], row.pair_count, row.delta_mean) for row in rows] == [
        ("a", 3, 1.0),
        ("b", 3, 0.0),
    ]
    assert {(row.unpaired_baseline, row.unpaired_treatment) for row in rows} == {(1, 1)}


def test_a_changed_prompt_or_temperature_is_what_is_compared(table: Build) -> None:
    base = run_of(table, [0, 0, 1], prompt="plain", param="t=0")
    new = run_of(table, [1, 1, 1], prompt="steps", param="t=0.7")

    (row,) = compare_runs(base, new)

    assert row.pair_count == 3
    assert row.delta_mean == pytest.approx(2 / 3)


def test_several_prompts_are_paired_by_name(table: Build) -> None:
    def run(order: tuple[str, str], plain: float) -> ScoreTable:
        values = {"plain": plain, "steps": 1.0}
        return table(
            [
                {"model": "m", "item": str(item), "prompt": prompt, "value": values[prompt]}
                for prompt in order
                for item in range(2)
            ]
        )

    (row,) = compare_runs(run(("plain", "steps"), 0.0), run(("steps", "plain"), 1.0))

    assert (row.pair_count, row.delta_mean) == (2, 0.5)


def test_runs_of_one_model_each_are_compared_though_the_models_differ(table: Build) -> None:
    base = run_of(table, [0, 0, 1])
    new = run_of(table, [1, 0, 1], model="m-tuned")

    (row,) = compare_runs(base, new)

    assert row.keys["model_id"] == "m → m-tuned"
    assert row.delta_mean == pytest.approx(1 / 3)


def test_runs_without_a_common_model_are_refused_until_they_are_paired(table: Build) -> None:
    base = table([{"model": m, "item": "1", "value": 0.0} for m in ("a", "b")])
    new = table([{"model": m, "item": "1", "value": 1.0} for m in ("c", "d")])

    with pytest.raises(ValueError, match="no model in common: a, b and c, d"):
        compare_runs(base, new)
    with pytest.raises(ValueError, match="the new run has no model 'b'; it has: c, d"):
        compare_runs(base, new, models=[("a", "b")])
    (row,) = compare_runs(base, new, models=[("a", "d")])

    assert row.keys["model_id"] == "a → d"


def test_dimensions_of_slices_and_items_remain_keys(table: Build) -> None:
    dimensions = {
        "slice_dimensions": {"skill": {"s1": "sum", "s2": "product"}},
        "item_dimensions": {"level": {"0": "easy", "1": "hard"}},
    }
    rows = [
        {"model": "m", "slice": part, "item": str(item), "value": float(item)}
        for part in ("s1", "s2")
        for item in range(2)
    ]

    found = compare_runs(
        table(rows, **dimensions), table(rows[::-1], **dimensions), group_by=("skill", "level")
    )

    assert [(row.keys["skill"], row.keys["level"], row.baseline_mean) for row in found] == [
        ("product", "easy", 0.0),
        ("product", "hard", 1.0),
        ("sum", "easy", 0.0),
        ("sum", "hard", 1.0),
    ]
