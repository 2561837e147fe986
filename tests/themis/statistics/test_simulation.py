"""What the methods promise, held against thousands of simulated evaluations.

Every simulation is seeded and goes through the same functions as real results: each slice of
a table is one evaluation. A share of 2,000 evaluations has a Monte-Carlo standard error of
half a percent at 95 %; four of those are allowed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from themis.records.score_table import Dimension, ScoreTable
from themis.results.aggregate import AggregateRow, aggregate
from themis.results.compare import PairedRow, paired_compare
from themis.statistics import proportions
from themis.statistics.arrays import Interval
from themis.statistics.beyond_means import bootstrap_interval, of_sums, quantile
from themis.statistics.equivalence import tost
from themis.statistics.multiplicity import Correction, adjust_p_values

EVALUATIONS = 2000
ERROR = 4 * np.sqrt(0.95 * 0.05 / EVALUATIONS)
Scores = npt.NDArray[Any]


def simulated(*arms: Scores, documents: Scores | None = None) -> ScoreTable:
    """Put arms of scores, (evaluations, items, samples), into one table, a slice each."""
    scores = np.stack([arm.reshape(*arm.shape[:2], -1) for arm in arms]).astype(np.float64)
    models, slices, items, _ = scores.shape
    model, slice_, item, sample = np.indices(scores.shape).reshape(4, -1)
    zero = np.zeros(scores.size, np.int32)
    dimensions = {}
    if documents is not None:
        names = tuple(f"d{number}" for number in range(documents.max() + 1))
        dimensions["document"] = Dimension(names, documents.astype(np.int32))
    return ScoreTable(
        models=tuple("ab"[:models]),
        slices=tuple(f"{number:05}" for number in range(slices)),
        prompts=("p",),
        params=("greedy",),
        metrics=("m",),
        evaluations=("default",),
        items=tuple(str(number) for number in range(items)),
        model=model.astype(np.int32),
        slice=slice_.astype(np.int32),
        prompt=zero,
        param=zero,
        metric=zero,
        evaluation=zero,
        item=item.astype(np.int32),
        sample=sample.astype(np.int32),
        value=scores.ravel(),
        status=zero.astype(np.int8),
        item_dimensions=dimensions,
    )


def covered(rows: list[AggregateRow] | list[PairedRow], truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean([(row.ci_lower or 0.0) <= truth <= (row.ci_upper or 0.0) for row in rows]))


def rejected(rows: list[PairedRow]) -> float:
    """The share of tests with p at most .05."""
    return float(np.mean([row.p_value is not None and row.p_value <= 0.05 for row in rows]))


def documents(count: int) -> Scores:
    """Three to seven items per document."""
    return np.repeat(np.arange(count), [3 + number % 5 for number in range(count)])


@pytest.mark.parametrize("n", [10, 200])
@pytest.mark.parametrize(
    ("ci", "interval"),
    [
        ("wilson", proportions.wilson),
        ("bayes", proportions.beta_interval),
        ("clopper_pearson", proportions.clopper_pearson),
    ],
)
def test_intervals_of_a_proportion_cover_it_as_often_as_all_outcomes_say(
    n: int, ci: Any, interval: Callable[..., Interval]
) -> None:
    table = simulated(np.random.default_rng(1).random((EVALUATIONS, n)) < 0.3)
    k = np.arange(n + 1)
    lower, upper = interval(k, n)
    exact = stats.binom.pmf(k, n, 0.3)[(lower <= 0.3) & (upper >= 0.3)].sum()

    share = covered(aggregate(table, ["slice_id"], ci=ci), 0.3)

    assert share == pytest.approx(exact, abs=ERROR)
    assert exact >= 0.92  # counts are few, so coverage jumps as p moves


@pytest.mark.parametrize(
    ("ci", "n", "least", "most"),
    [
        ("t", 10, 0.95 - ERROR, 0.95 + ERROR),
        ("t", 200, 0.95 - ERROR, 0.95 + ERROR),
        # Few items are what the bootstrap is bad at, which is why nobody gets it unasked.
        ("bootstrap", 10, 0.88, 0.93),
        ("bootstrap", 200, 0.95 - ERROR, 0.95 + ERROR),
        ("bca", 10, 0.88, 0.935),
        ("bca", 200, 0.95 - ERROR, 0.95 + ERROR),
    ],
)
def test_intervals_of_a_mean_cover_it(ci: Any, n: int, least: float, most: float) -> None:
    table = simulated(np.random.default_rng(2).beta(2, 1, (EVALUATIONS, n)))

    share = covered(aggregate(table, ["slice_id"], ci=ci, n_resamples=999), 2 / 3)

    assert least <= share <= most


@pytest.mark.parametrize("count", [8, 50])
def test_the_clustered_interval_covers_where_the_plain_one_does_not(count: int) -> None:
    rng, of = np.random.default_rng(3), documents(count)
    scores = 0.5 * rng.random((EVALUATIONS, count))[:, of]
    scores += 0.5 * rng.random((EVALUATIONS, len(of)))
    table = simulated(scores, documents=of)

    clustered = covered(aggregate(table, ["slice_id"], cluster_by="document"), 0.5)
    plain = covered(aggregate(table, ["slice_id"]), 0.5)

    assert clustered == pytest.approx(0.95, abs=ERROR)
    assert plain < 0.8


def test_the_interval_of_pass_at_k_covers_it() -> None:
    rng = np.random.default_rng(4)
    chance = rng.random((EVALUATIONS, 60, 1))  # so pass@3 is 1 - E(1 - p)^3 = 3/4
    table = simulated(rng.random((EVALUATIONS, 60, 5)) < chance)

    rows = aggregate(table, ["slice_id"], estimator="pass@3")

    assert np.mean([row.mean for row in rows]) == pytest.approx(0.75, abs=0.005)
    assert covered(rows, 0.75) == pytest.approx(0.95, abs=ERROR)


@pytest.mark.parametrize("n", [10, 200])
@pytest.mark.parametrize("method", ["auto", "tango", "newcombe"])
def test_intervals_of_a_difference_of_proportions_cover_it(method: Any, n: int) -> None:
    rng = np.random.default_rng(5)
    ease = rng.beta(2, 2, (EVALUATIONS, n))
    arms = [rng.random((EVALUATIONS, n)) < 0.8 * ease + gain for gain in (0.0, 0.1)]

    rows = paired_compare(simulated(*arms), baseline="a", method=method)

    assert covered(rows, 0.1) == pytest.approx(0.95, abs=ERROR)


@pytest.mark.parametrize(
    ("method", "n", "least"),
    [
        ("auto", 10, 0.95 - ERROR),
        ("auto", 200, 0.95 - ERROR),
        ("bootstrap", 10, 0.85),
        ("bootstrap", 200, 0.95 - ERROR),
        ("bca", 10, 0.85),
        ("bca", 200, 0.95 - ERROR),
    ],
)
def test_intervals_of_a_difference_of_means_cover_it(method: Any, n: int, least: float) -> None:
    rng = np.random.default_rng(6)
    ease = rng.random((EVALUATIONS, n))
    arms = [0.6 * ease + 0.4 * rng.beta(a, 2, (EVALUATIONS, n)) for a in (2, 3)]

    rows = paired_compare(simulated(*arms), baseline="a", method=method, n_resamples=999)

    assert least <= covered(rows, 0.04) <= 0.95 + ERROR


@pytest.mark.parametrize("n", [10, 200])
@pytest.mark.parametrize("method", ["auto", "mcnemar_exact", "mcnemar", "sign_flip"])
def test_equal_models_are_told_apart_no_more_often_than_allowed(method: Any, n: int) -> None:
    rng = np.random.default_rng(7)
    ease = rng.beta(2, 2, (EVALUATIONS, n))
    arms = [rng.random((EVALUATIONS, n)) < 0.8 * ease for _ in "ab"]

    assert rejected(paired_compare(simulated(*arms), baseline="a", method=method)) <= 0.05 + ERROR


@pytest.mark.parametrize("n", [10, 200])
@pytest.mark.parametrize("method", ["auto", "sign_flip", "sign", "wilcoxon"])
def test_equal_graded_models_are_told_apart_no_more_often_than_allowed(method: Any, n: int) -> None:
    rng = np.random.default_rng(8)
    ease = rng.random((EVALUATIONS // 4, n))
    arms = [0.6 * ease + 0.4 * rng.beta(2, 1, ease.shape) for _ in "ab"]

    rows = paired_compare(simulated(*arms), baseline="a", method=method, n_resamples=499)

    assert rejected(rows) <= 0.05 + 2 * ERROR


@pytest.mark.parametrize("count", [8, 50])
def test_clusters_keep_the_size_of_the_test(count: int) -> None:
    rng, of = np.random.default_rng(9), documents(count)
    shape = (EVALUATIONS, len(of))
    turn = rng.random((EVALUATIONS, count))[:, of] - 0.5  # documents suit one model or other
    table = simulated(0.5 * rng.random(shape), 0.5 * rng.random(shape) + 0.5 * turn, documents=of)

    clustered = paired_compare(table, baseline="a", cluster_by="document")
    plain = paired_compare(table, baseline="a")

    assert rejected(clustered) == pytest.approx(0.05, abs=ERROR)
    assert covered(clustered, 0.0) == pytest.approx(0.95, abs=ERROR)
    assert rejected(plain) > 0.15


def test_a_model_worse_by_just_the_margin_is_rarely_called_equivalent() -> None:
    d = np.random.default_rng(10).normal(-0.05, 0.2, (EVALUATIONS, 400))
    stderr = d.std(axis=1, ddof=1) / 20

    result = tost(d.mean(axis=1), stderr, 399, 0.05)

    assert np.mean(result.p_value <= 0.05) == pytest.approx(0.05, abs=ERROR)


@pytest.mark.parametrize("correction", ["bonferroni", "holm", "hochberg", "bh", "by"])
def test_a_family_without_any_difference_is_rarely_given_one(correction: Correction) -> None:
    families = np.random.default_rng(11).random((EVALUATIONS, 20))

    found = [adjust_p_values(family, correction).min() <= 0.05 for family in families]

    assert np.mean(found) <= 0.05 + ERROR


def test_false_discoveries_stay_a_small_share_among_true_ones() -> None:
    rng = np.random.default_rng(12)
    p = rng.random((EVALUATIONS, 40))
    p[:, :10] **= 8  # ten real differences

    false = []
    for family in p:
        claimed = adjust_p_values(family, "bh") <= 0.05
        false.append(claimed[10:].sum() / max(1, claimed.sum()))

    assert np.mean(false) == pytest.approx(0.05 * 30 / 40, abs=0.01)


def test_intervals_of_a_median_and_of_a_ratio_cover_them() -> None:
    rng = np.random.default_rng(13)
    evaluations, items = 500, 100
    per_right = of_sums(lambda sums: sums[:, 1] / np.maximum(sums[:, 0], 1.0))
    median, ratio = 0, 0
    for _ in range(evaluations):
        tokens, right = rng.lognormal(5, 1, items), rng.random(items) < 0.3
        lower, upper = bootstrap_interval(tokens, quantile(0.5), n_resamples=499)
        median += bool(lower <= np.exp(5) <= upper)
        lower, upper = bootstrap_interval(
            np.column_stack([right, tokens]), per_right, n_resamples=499
        )
        ratio += bool(lower <= np.exp(5.5) / 0.3 <= upper)

    error = 4 * np.sqrt(0.95 * 0.05 / evaluations)
    assert median / evaluations == pytest.approx(0.95, abs=error)
    assert ratio / evaluations == pytest.approx(0.95, abs=error)
