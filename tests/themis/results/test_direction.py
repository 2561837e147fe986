"""What a metric declares about its scores decides what rankings, verdicts, flips and gates say."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from themis.records.metric_scale import Direction, MetricScale
from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.aggregate import aggregate
from themis.results.comparability import Comparability
from themis.results.compare import PairedRow, paired_compare
from themis.results.flips import flips
from themis.results.gate import judge
from themis.results.gate_policy import GatePolicy
from themis.results.leaderboard import leaderboard
from themis.results.macro import macro_difference
from themis.results.report.findings import sentence
from themis.results.report.tables import leaderboard_table, paired_table
from themis.results.two_runs import join_runs

Build = Callable[..., ScoreTable]

LOWER = MetricScale("lower", unit=False)
NEITHER = MetricScale("none", unit=False)
LOSSES = [3.0, 3.5, 4.0, 2.5, 3.25, 3.75, 4.25, 2.75]
SMALLER = [value - 0.9 - 0.01 * place for place, value in enumerate(LOSSES)]


def compare(scores: ScoreTable, **asked: Any) -> PairedRow:
    (row,) = paired_compare(scores, baseline="base", treatment="new", **asked)
    return row


@pytest.mark.parametrize(
    ("direction", "verdict", "words"),
    [
        ("higher", "worse", "new scores lower than base"),
        ("lower", "better", "new scores lower (better) than base"),
        ("none", "different", "new scores lower than base"),
    ],
)
def test_a_smaller_score_is_what_its_metric_says(
    pairs: Build, direction: Direction, verdict: str, words: str
) -> None:
    row = compare(pairs(LOSSES, SMALLER, scale=MetricScale(direction, unit=False)))

    assert (row.verdict, row.direction) == (verdict, direction)
    assert sentence(row, ()).startswith(words)
    assert paired_table([row]).strong == {0}


def test_a_metric_of_an_early_plan_is_taken_as_better_when_higher_and_that_is_said(
    table: Build,
) -> None:
    rows = [
        {"model": model, "item": str(item), "value": value}
        for model, values in (("base", LOSSES), ("new", SMALLER))
        for item, value in enumerate(values)
    ]
    scores = table(rows, scales={})

    row = compare(scores)

    assert (row.verdict, row.direction) == ("worse", None)
    said = "Taken as better when higher, as the plan does not say: default."
    assert said in paired_table([row]).notes
    assert said in leaderboard_table(leaderboard(scores)).notes


def test_a_macro_difference_keeps_the_direction(table: Build) -> None:
    scores = table(
        [
            {"model": model, "slice": name, "item": f"{name}{item}", "value": value}
            for name in ("a", "b")
            for model, values in (("base", LOSSES), ("new", SMALLER))
            for item, value in enumerate(values)
        ],
        scales={"default": LOWER},
    )

    row = macro_difference(paired_compare(scores, baseline="base", treatment="new"))

    assert (row.delta_mean or 0) < 0
    assert row.verdict == "better"


@pytest.mark.parametrize(("direction", "expected"), [("higher", False), ("lower", True)])
def test_not_inferior_looks_at_the_bad_side(
    pairs: Build, direction: Direction, *, expected: bool
) -> None:
    scores = pairs(LOSSES, SMALLER, scale=MetricScale(direction, unit=False))

    assert compare(scores, margin=0.2).not_inferior is expected


def test_a_measure_without_direction_is_never_inferior_or_not(pairs: Build) -> None:
    assert compare(pairs(LOSSES, SMALLER, scale=NEITHER), margin=0.2).not_inferior is None


def test_the_lowest_mean_is_first_where_lower_is_better(pairs: Build) -> None:
    rows = leaderboard(pairs(LOSSES, SMALLER, scale=LOWER))

    assert [(row.rank, row.model_id) for row in rows] == [(1, "new"), (2, "base")]
    assert rows[1].behind is not None
    assert rows[1].behind.verdict == "worse"
    assert "Lower is better: default." in leaderboard_table(rows).notes


def test_a_measure_without_direction_has_no_ranks(pairs: Build) -> None:
    rows = leaderboard(pairs(LOSSES, SMALLER, scale=NEITHER))

    assert [(row.rank, row.model_id, row.behind) for row in rows] == [
        (None, "base", None), (None, "new", None),
    ]  # fmt: skip
    assert "Neither higher nor lower is better: default." in leaderboard_table(rows).notes


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("higher", ["gained", "lost"]),
        ("lower", ["lost", "gained"]),
        ("none", ["changed", "changed"]),
    ],
)
def test_a_flip_is_gained_or_lost_by_its_metric(
    pairs: Build, direction: Direction, expected: list[str]
) -> None:
    scores = pairs([1, 3, 2], [4, 1, 2], scale=MetricScale(direction, unit=False))

    found = flips(scores, baseline="base", treatment="new")

    assert [flip.change for flip in found] == expected


def gate(
    base: Any, new: Any, table: Build, rule: dict[str, Any], scale: MetricScale = LOWER
) -> tuple[str, str, float | None]:
    def scores(values: Any) -> ScoreTable:
        rows = [
            {"model": "m", "metric": "loss", "item": str(item)}
            | ({"status": ScoreStatus.GENERATION_FAILED} if np.isnan(value) else {"value": value})
            for item, value in enumerate(values)
        ]
        return table(rows, scales={"loss": scale})

    policy = GatePolicy.model_validate({"rules": [{"metric": "loss", **rule}]})
    report = judge(policy, scores(base), scores(new), Comparability("a", "b", "comparable", ()))
    (finding,) = report.findings
    return finding.verdict, finding.reason, finding.threshold


@pytest.mark.parametrize(
    ("rule", "fewer", "more"),
    [
        (
            {"check": "superior", "margin": 0.1},
            ("pass", "shown to be below -0.1", -0.1),
            ("fail", "shown to be above -0.1", -0.1),
        ),
        (
            {"check": "non_inferior", "margin": 0.1},
            ("pass", "shown to be below +0.1", 0.1),
            ("fail", "shown to be above +0.1", 0.1),
        ),
        (
            {"check": "no_regression"},
            ("pass", "not shown to be above +0", 0.0),
            ("fail", "shown to be above +0", 0.0),
        ),
    ],
    ids=["superior", "non_inferior", "no_regression"],
)
def test_a_gate_on_a_loss_passes_a_smaller_one_and_fails_a_larger_one(
    table: Build,
    rule: dict[str, Any],
    fewer: tuple[str, str, float],
    more: tuple[str, str, float],
) -> None:
    assert gate(LOSSES, SMALLER, table, rule) == fewer
    assert gate(SMALLER, LOSSES, table, rule) == more


def test_a_gate_on_errors_is_not_passed_by_leaving_them_out(table: Build) -> None:
    """Scores of 0 and 1 where 1 is an error: what is absent could be one."""
    base = [0.0] * 200
    new = [float("nan")] * 20 + [0.0] * 180
    rule = {"check": "non_inferior", "margin": 0.05}
    errors = MetricScale("lower")

    verdict, reason, _ = gate(base, new, table, rule, errors)

    assert verdict == "inconclusive"
    assert reason == "20 items without both scores could move it to +0.1000"
    assert gate(base, new, table, {**rule, "absent": "ignore"}, errors)[0] == "pass"


def test_a_gate_refuses_to_judge_what_has_no_direction(table: Build) -> None:
    with pytest.raises(ValueError, match=r"rules\[0\]: loss is neither better when higher"):
        gate(LOSSES, SMALLER, table, {"check": "non_inferior", "margin": 0.1}, NEITHER)


def test_scores_that_could_leave_0_to_1_have_no_bounds_even_while_they_do_not(
    pairs: Build,
) -> None:
    absent = float("nan")
    bits = pairs([0.7, 0.8, 0.9], [0.6, absent, 0.8], scale=LOWER)
    share = pairs([0.7, 0.8, 0.9], [0.6, absent, 0.8])

    def bounds(scores: ScoreTable) -> list[float | None]:
        mean = aggregate(scores, ["model_id"])[1]
        row = compare(scores)
        return [
            mean.bound_lower, mean.bound_upper, mean.mean_failed_as_zero,
            row.delta_lower_bound, row.delta_upper_bound,
        ]  # fmt: skip

    assert bounds(bits) == [None] * 5
    assert None not in bounds(share)


def test_zero_is_not_the_worst_share_where_lower_is_better(pairs: Build) -> None:
    scores = pairs([0, 1, 1], [1, float("nan"), 0], scale=MetricScale("lower"))

    (row,) = (row for row in aggregate(scores, ["model_id"]) if row.n_failed)

    assert row.mean_failed_as_zero is None
    assert row.bound_upper == pytest.approx(2 / 3)


def test_two_runs_keep_what_their_metrics_declared(pairs: Build) -> None:
    scores = pairs(LOSSES, SMALLER, scale=LOWER)

    assert join_runs(scores, scores).direction("default") == "lower"
