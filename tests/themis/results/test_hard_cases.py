"""Data on which a careless formula would claim certainty that nobody has."""

from collections.abc import Callable

import numpy as np
import pytest

from themis.records.score_table import ScoreTable
from themis.results.aggregate import aggregate
from themis.results.compare import paired_compare
from themis.results.leaderboard import leaderboard
from themis.results.macro import macro_difference

Build = Callable[..., ScoreTable]
TWO_PER_DOCUMENT = {str(item): f"d{item // 2}" for item in range(12)}


def two_models(table: Build, gain: Callable[[int], float], documents: dict[str, str]) -> ScoreTable:
    """`base` scores 0.2 everywhere, and `new` scores better by `gain` of the item."""
    return table(
        [
            {"model": model, "item": str(item), "value": 0.2 + (gain(item) if new else 0.0)}
            for new, model in enumerate(("base", "new"))
            for item in range(12)
        ],
        item_dimensions={"document": documents},
    )


def test_documents_that_all_gain_the_same_prove_no_more_than_their_signs(table: Build) -> None:
    scores = two_models(table, lambda item: 0.5 * (item % 2), TWO_PER_DOCUMENT)

    (row,) = paired_compare(scores, baseline="base", group_by=None, cluster_by="document")
    new = aggregate(scores, ["model_id"], cluster_by="document")[1]

    assert (row.p_value, row.method) == (2 / 2**6, "sign_flip_exact")
    assert (row.ci_lower, row.ci_upper) == (None, None)
    assert "degenerate" in row.flags
    assert (new.ci_lower, new.method, new.flags) == (None, "none", ("degenerate",))


def test_documents_that_gain_and_lose_alike_differ_by_nothing(table: Build) -> None:
    scores = two_models(table, lambda item: 0.1 if item % 2 else -0.1, TWO_PER_DOCUMENT)

    (row,) = paired_compare(scores, baseline="base", group_by=None, cluster_by="document")

    assert row.p_value == 1
    assert row.verdict == "inconclusive"


@pytest.mark.parametrize("method", ["auto", "sign", "wilcoxon", "sign_flip"])
def test_the_same_samples_in_another_order_are_a_tie(table: Build, method: str) -> None:
    orders = {"base": (0.1, 0.2, 0.3), "new": (0.3, 0.2, 0.1)}
    scores = table(
        [
            {"model": model, "item": str(item), "sample": sample, "value": value}
            for model, values in orders.items()
            for item in range(12)
            for sample, value in enumerate(values)
        ]
    )

    (row,) = paired_compare(scores, baseline="base", group_by=None, method=method)  # type: ignore[arg-type]

    assert (row.wins, row.losses, row.ties) == (0, 0, 12)
    assert (row.p_value, row.delta_mean) == (1, 0)


def test_a_single_cluster_says_why_there_is_no_test(table: Build) -> None:
    scores = two_models(table, lambda item: item / 20, {str(item): "one" for item in range(12)})

    (row,) = paired_compare(scores, baseline="base", group_by=None, cluster_by="document")

    assert (row.p_value, row.cluster_count) == (None, 1)
    assert "few_clusters" in row.flags


def test_items_without_a_document_are_clusters_of_their_own(table: Build) -> None:
    scores = two_models(table, lambda item: item / 20, {"0": "d", "1": "d", "2": "d"})

    (row,) = paired_compare(scores, baseline="base", group_by=None, cluster_by="document")
    rows = aggregate(scores, ["model_id"], cluster_by="document")

    assert row.cluster_count == 10
    assert [row.cluster_count for row in rows] == [10, 10]


def test_models_in_one_group_are_averaged_after_their_own_samples(table: Build) -> None:
    scores = table(
        [
            {"model": model, "item": str(item), "sample": sample, "value": value}
            for model, value, samples in (("a", 1.0, 4), ("b", 0.0, 2))
            for item in range(3)
            for sample in range(samples)
        ]
    )

    (some,) = aggregate(scores, ["slice_id"], estimator="pass@2")
    (mean,) = aggregate(scores, ["slice_id"])

    assert (some.mean, mean.mean) == (0.5, 0.5)


def test_equal_models_are_rarely_told_from_the_one_that_came_first(table: Build) -> None:
    rng = np.random.default_rng(0)
    rankings, models, items = 150, 8, 30
    values = rng.random((rankings, models, items))
    scores = table(
        [
            {"slice": f"{r:03}", "model": f"m{m}", "item": str(i), "value": values[r, m, i]}
            for r in range(rankings)
            for m in range(models)
            for i in range(items)
        ]
    )

    rows = leaderboard(scores, group_by=["slice_id"])

    wrong = {
        row.score.keys["slice_id"]
        for row in rows
        if row.behind is not None and not row.level_with_first
    }
    # Correcting over the seven comparisons with the first alone gives 13 %.
    assert len(wrong) / rankings <= 0.05 + 0.03
    assert all(row.behind.family_size == 28 for row in rows if row.behind is not None)


def test_a_ranking_of_equal_slices_compares_with_equal_slices(table: Build) -> None:
    gained = {("a", "big"): 60, ("b", "big"): 70, ("a", "small"): 18, ("b", "small"): 2}
    sizes = {"big": 100, "small": 20}
    scores = table(
        [
            {"model": model, "slice": name, "item": str(item), "value": float(item < right)}
            for (model, name), right in gained.items()
            for item in range(sizes[name])
        ]
    )

    micro, macro = leaderboard(scores), leaderboard(scores, weights="macro")

    assert [row.model_id for row in micro] == ["a", "b"]
    assert micro[1].behind is not None
    assert micro[1].behind.delta_mean == pytest.approx(-6 / 120)
    behind = macro[1].behind
    assert behind is not None
    assert behind.delta_mean == pytest.approx((0.1 - 0.8) / 2)
    assert behind.delta_mean == pytest.approx(
        (macro[1].score.mean or 0) - (macro[0].score.mean or 0)
    )
    parts = paired_compare(scores, baseline="a")
    assert behind.stderr == pytest.approx(np.linalg.norm([row.stderr or 0 for row in parts]) / 2)
    assert (behind.method, behind.pair_count, behind.verdict) == ("stratified_t", 120, "worse")
    assert not macro[1].level_with_first
    (p, mde) = (behind.p_value, behind.mde)
    one_sided = macro_difference(paired_compare(scores, baseline="a", alternative="less"))
    assert one_sided.p_value == pytest.approx((p or 0) / 2)
    assert one_sided.mde is not None
    assert one_sided.mde < (mde or 0)


def test_equal_models_over_equal_slices_are_told_apart_no_more_often_than_allowed(
    table: Build,
) -> None:
    rng = np.random.default_rng(1)
    ease = {"hard": 0.2, "easy": 0.9, "graded": None}
    claims, evaluations = 0, 300
    for _ in range(evaluations):
        scores = table(
            [
                {
                    "model": model, "slice": name, "item": str(item),
                    "value": rng.random() if share is None else float(rng.random() < share),
                }
                for model in "ab"
                for name, share in ease.items()
                for item in range(12)
            ]
        )  # fmt: skip
        row = macro_difference(paired_compare(scores, baseline="a"))
        claims += row.p_value is not None and row.p_value <= 0.05

    assert claims / evaluations <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / evaluations)


def test_a_slice_without_pairs_is_left_out_and_one_without_spread_leaves_no_test(
    table: Build,
) -> None:
    scores = table(
        [
            {"model": model, "slice": name, "item": str(item), "value": value + new * gain * item}
            for new, model in enumerate("ab")
            for name, value, gain in (("x", 0.1, 0.02), ("y", 0.3, 0.0))
            for item in range(8)
        ]
        + [{"model": "a", "slice": "z", "item": "0", "value": 0.5}]
    )

    row = macro_difference(paired_compare(scores, baseline="a"))
    alone = macro_difference(paired_compare(scores, baseline="a")[:1])

    assert "slice_without_scores" in row.flags
    assert (row.p_value, row.method, row.verdict) == (None, "none", "inconclusive")
    assert row.delta_mean == pytest.approx(0.07 / 2)
    assert alone.method == "stratified_t"
    assert alone.df == pytest.approx(7)


def test_models_with_the_same_scores_in_another_order_share_a_rank(table: Build) -> None:
    values = [0.1, 0.2, 0.3]  # in this order they add up to one digit more
    scores = table(
        [
            {"model": model, "item": str(item), "value": value}
            for model, order in (("a", 1), ("b", -1))
            for item, value in enumerate(values[::order])
        ]
    )

    assert [row.rank for row in leaderboard(scores)] == [1, 1]
