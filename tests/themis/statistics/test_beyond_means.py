"""Intervals of medians, quantiles and ratios; and what no resampling may depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from themis.statistics.arrays import FloatArray
from themis.statistics.beyond_means import Statistic, bootstrap_interval, of_sums, quantile
from themis.statistics.resampling import interval_of_means, percentile_interval, resample
from themis.statistics.sign_flip import sampled_p_values

halves = st.integers(-20, 20).map(lambda x: x / 2)
columns = nps.arrays(np.float64, st.integers(2, 14), elements=halves)
tables = nps.arrays(np.float64, st.tuples(st.integers(2, 14), st.just(2)), elements=halves)


def f1(sums: FloatArray) -> FloatArray:
    """F1 of a corpus from its true positives, false positives and false negatives."""
    hit, false, missed = sums.T
    return np.asarray(2 * hit / (2 * hit + false + missed))


def difference_of_medians(rows: FloatArray, counts: FloatArray) -> FloatArray:
    return quantile(0.5, 1)(rows, counts) - quantile(0.5, 0)(rows, counts)


@given(columns, st.floats(0, 1), st.integers(0, 999))
def test_a_resampled_quantile_is_numpys_quantile_of_the_rows_drawn(
    values: FloatArray, q: float, seed: int
) -> None:
    counts = np.random.default_rng(seed).multinomial(
        len(values), np.ones(len(values)) / len(values), 5
    )

    ours = quantile(q)(values[:, None], counts.astype(float))

    theirs = [np.quantile(np.repeat(values, drawn), q) for drawn in counts]
    assert ours == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=50)
@given(tables, st.integers(0, 999), st.sampled_from([quantile(0.9), difference_of_medians]))
def test_neither_the_order_of_rows_nor_the_names_of_clusters_matter(
    rows: FloatArray, seed: int, statistic: Statistic
) -> None:
    rng = np.random.default_rng(seed)
    shuffle = rng.permutation(len(rows))
    clusters = rng.integers(0, 4, len(rows))

    plain = bootstrap_interval(rows, statistic, n_resamples=60)
    shuffled = bootstrap_interval(rows[shuffle], statistic, n_resamples=60)
    assert plain == shuffled

    if len(np.unique(clusters)) > 1:
        named = np.array(["d", "a", "c", "b"])[clusters]
        plain = bootstrap_interval(rows, statistic, clusters=clusters, n_resamples=20)
        assert plain == bootstrap_interval(
            rows[shuffle], statistic, clusters=named[shuffle], n_resamples=20
        )


@given(columns, st.integers(0, 999), st.sampled_from(["bootstrap", "bca"]))
def test_resampled_means_do_not_depend_on_order_and_mirror_exactly(
    values: FloatArray, seed: int, method: str
) -> None:
    shuffle = np.random.default_rng(seed).permutation(len(values))
    ones = np.ones((len(values), 1))

    def ends(d: FloatArray) -> tuple[float, float]:
        lower, upper = interval_of_means(d[:, None], ones, method=method, n_resamples=99)  # type: ignore[arg-type]
        return float(lower[0]), float(upper[0])

    lower, upper = ends(values)
    assert ends(values[shuffle]) == (lower, upper)
    assert ends(-values) == (-upper, -lower)
    assert lower <= upper


@given(columns, st.integers(0, 999))
def test_resampled_clusters_do_not_depend_on_order_and_mirror(sums: FloatArray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, len(sums)).astype(float)
    shuffle = rng.permutation(len(sums))

    def ends(d: FloatArray, m: FloatArray) -> list[float]:
        return [
            float(end[0])
            for end in interval_of_means(d[:, None], m[:, None], method="bootstrap", n_resamples=99)
        ]

    there = ends(sums, sizes)
    assert ends(sums[shuffle], sizes[shuffle]) == there
    if sorted(sums) != sorted(-sums):  # else the sizes alone would have to break the symmetry
        assert ends(-sums, sizes) == [-there[1], -there[0]]


@given(columns, st.integers(0, 999))
def test_sampled_sign_flips_do_not_depend_on_order_or_direction(d: FloatArray, seed: int) -> None:
    shuffle = np.random.default_rng(seed).permutation(len(d))

    p = sampled_p_values(d[:, None], 50, 0)

    assert p == sampled_p_values(d[shuffle, None], 50, 0)
    assert p == sampled_p_values(-d[:, None], 50, 0)
    greater = sampled_p_values(d[:, None], 50, 0, "greater")
    assert greater == sampled_p_values(-d[shuffle, None], 50, 0, "less")
    assert 0 < p <= 1


def test_the_mean_as_a_ratio_gives_the_interval_of_means_again() -> None:
    x = np.random.default_rng(0).random(40)
    rows = np.column_stack([x, np.ones(40)])

    ratio = bootstrap_interval(rows, of_sums(lambda s: s[:, 0] / s[:, 1]), seed=3)

    draws = resample(lambda counts: counts @ np.sort(x)[:, None] / 40, 40, seed=3)
    expected = percentile_interval(draws)
    assert [float(end) for end in ratio] == pytest.approx([float(end[0]) for end in expected])


def test_whole_clusters_are_drawn() -> None:
    rows = np.repeat([[0.0], [1.0]], 50, axis=0)
    clusters = np.repeat([7, 3], 50)

    alone = bootstrap_interval(rows, of_sums(lambda s: s[:, 0] / 100), n_resamples=500)
    together = bootstrap_interval(rows, of_sums(lambda s: s[:, 0] / 100), clusters=clusters)

    assert alone.lower > 0.3
    assert [float(end) for end in together] == [0, 1]


def test_f1_of_a_corpus_is_resampled_with_its_items() -> None:
    counts = np.array([[3.0, 1.0, 0.0], [1.0, 0.0, 2.0], [2.0, 2.0, 2.0]] * 15)

    lower, upper = bootstrap_interval(counts, of_sums(f1))

    assert lower < f1(counts.sum(axis=0, keepdims=True))[0] < upper


def test_too_few_rows_or_a_value_that_may_not_exist_have_no_interval() -> None:
    over = of_sums(lambda s: s[:, 0] / s[:, 1])

    assert np.isnan(bootstrap_interval([0.5], quantile(0.5))).all()
    assert np.isnan(bootstrap_interval([0.5, 1.0], quantile(0.5), clusters=[1, 1])).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(bootstrap_interval([[1.0, 0.0], [1.0, 1.0]], over)).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        quantile(90)


def test_memory_stays_bounded_for_many_rows_in_few_clusters() -> None:
    rows = np.random.default_rng(0).random(300_000)
    widest = 0

    def watching(table: FloatArray, counts: FloatArray) -> FloatArray:
        nonlocal widest
        widest = max(widest, counts.size)
        return np.asarray((counts @ table)[:, 0])

    bootstrap_interval(rows, watching, clusters=np.arange(300_000) % 20, n_resamples=50)

    assert widest <= 4_000_000
