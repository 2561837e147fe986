"""Algebra that holds for all data, not only for the golden numbers."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.statistics import (
    clusters,
    means,
    multiplicity,
    paired_binary,
    power,
    proportions,
    repeats,
    resampling,
    wilcoxon,
)
from themis.statistics.sign_flip import lattice, sampled_p_values, sign_flip

counts = st.integers(0, 60)
p_lists = st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=30)
numbers = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 6))
samples = st.lists(numbers, min_size=2, max_size=30)


class TestPairedBinary:
    """Only disagreements count, and swapping the models mirrors the answer."""

    @given(counts, counts, counts, counts)
    def test_swapping_the_models_mirrors_every_interval(
        self, a: int, b: int, c: int, d: int
    ) -> None:
        n = a + b + c + d + 1

        for interval in (paired_binary.bonett_price, paired_binary.tango, paired_binary.wald):
            there, back = interval(b, c, n), interval(c, b, n)
            assert there.lower == pytest.approx(-back.upper, abs=1e-12)
            assert there.upper == pytest.approx(-back.lower, abs=1e-12)
        there = paired_binary.newcombe(a, b, c, d + 1)
        back = paired_binary.newcombe(a, c, b, d + 1)
        assert there.lower == pytest.approx(-back.upper, abs=1e-12)

    @given(counts, counts)
    def test_swapping_the_models_keeps_p(self, b: int, c: int) -> None:
        for test in (
            paired_binary.mcnemar_exact,
            paired_binary.mcnemar_midp,
            paired_binary.mcnemar_asymptotic,
        ):
            assert test(b, c) == test(c, b)
            assert 0 < test(b, c) <= 1

    @given(counts, counts)
    def test_mid_p_is_never_above_the_exact_p(self, b: int, c: int) -> None:
        assert paired_binary.mcnemar_midp(b, c) <= paired_binary.mcnemar_exact(b, c)

    def test_mid_p_of_as_many_wins_as_losses_is_the_published_one(self) -> None:
        assert paired_binary.mcnemar_midp(3, 3) == pytest.approx(1 - 20 / 64 / 2)
        assert paired_binary.mcnemar_midp(0, 0) == 1

    @given(counts, counts)
    def test_sign_flip_on_right_and_wrong_is_the_exact_mcnemar_test(self, b: int, c: int) -> None:
        differences = np.repeat([1.0, -1.0, 0.0], [b, c, 7])

        flipped = sign_flip(differences)

        assert flipped.exact
        assert flipped.p_value == pytest.approx(float(paired_binary.mcnemar_exact(b, c)), rel=1e-9)

    @given(counts, counts, st.integers(0, 50))
    def test_every_interval_of_the_difference_holds_the_estimate(
        self, b: int, c: int, agree: int
    ) -> None:
        n = b + c + agree + 1
        delta = (b - c) / n

        lower, upper = paired_binary.tango(b, c, n)

        assert -1 <= lower <= delta + 1e-12
        assert delta - 1e-12 <= upper <= 1

    @given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 50))
    def test_tango_and_the_asymptotic_test_agree_about_zero(
        self, b: int, c: int, agree: int
    ) -> None:
        lower, upper = paired_binary.tango(b, c, b + c + agree)
        p = paired_binary.mcnemar_asymptotic(b, c)

        if abs(p - 0.05) > 1e-6:
            assert (lower > 0 or upper < 0) == (p < 0.05)


class TestSignFlip:
    """Fast ways to count sign patterns give what counting them one by one gives."""

    @given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.sampled_from([1, 2, 4, 5, 8]))
    def test_the_lattice_counts_like_brute_force(self, steps: list[int], q: int) -> None:
        differences = np.array(steps) / q

        result = sign_flip(differences)

        patterns = [
            sum(s * d for s, d in zip(signs, steps, strict=True))
            for signs in product((-1, 1), repeat=len(steps))
        ]
        extreme = sum(abs(total) >= abs(sum(steps)) for total in patterns)
        assert result.exact
        assert result.p_value == pytest.approx(extreme / len(patterns), rel=1e-12)

    @given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
    def test_enumeration_counts_like_brute_force(self, values: list[float]) -> None:
        irregular = np.array(values) + np.pi / 1e4 * np.arange(1, len(values) + 1)

        result = sign_flip(irregular)

        bar = abs(irregular.sum()) - 1e-9 * np.abs(irregular).sum()
        patterns = np.array(list(product((-1, 1), repeat=len(values)))) @ irregular
        assert result.p_value == pytest.approx(np.mean(np.abs(patterns) >= bar), rel=1e-12)

    def test_many_irregular_differences_are_sampled_and_say_so(self) -> None:
        differences = np.random.default_rng(1).normal(0.2, 1, 40)

        result = sign_flip(differences, n_resamples=20_000, seed=3)

        again = sign_flip(differences, n_resamples=20_000, seed=3)
        reference = means.summarise(differences)
        t_p = float(means.t_p_value(reference.mean / reference.stderr, 39))
        assert not result.exact
        assert result == again
        assert result.p_value == pytest.approx(t_p, abs=0.02)

    def test_sampled_totals_that_differ_by_rounding_are_ties(self) -> None:
        balanced = np.pi / 10 * np.repeat([1.0, -1.0, 0.3, -0.3], 9)

        result = sign_flip(balanced, n_resamples=500)

        assert not result.exact
        assert result.p_value == 1

    def test_a_sampled_p_is_never_zero(self) -> None:
        p = sampled_p_values(np.ones((60, 1)) + np.pi / 1e3, 99, seed=0)

        assert p.tolist() == [0.01]

    @given(samples, st.floats(0.5, 4), st.booleans())
    def test_scaling_the_scores_keeps_the_p_value(
        self,
        values: list[float],
        scale: float,
        negate: bool,  # noqa: FBT001
    ) -> None:
        d = np.array(values[:12])
        factor = -scale if negate else scale

        assert sign_flip(d * factor).p_value == pytest.approx(sign_flip(d).p_value, rel=1e-9)

    def test_thousands_of_repeats_stay_exact(self) -> None:
        rng = np.random.default_rng(0)
        d = rng.integers(-4, 5, 3000) / 4

        result = sign_flip(d)

        summary = means.summarise(d)
        t_p = float(means.t_p_value(summary.mean / summary.stderr, 2999))
        assert result.exact
        assert result.p_value == pytest.approx(t_p, abs=0.01)

    def test_large_and_continuous_scores_are_not_taken_for_a_lattice(self) -> None:
        assert lattice(np.array([0.1234567, 0.7654321])) is None
        assert lattice(np.array([2.0**60, 1.0])) is None


class TestMultiplicity:
    """Adjusted values keep the order and rank the methods by strictness."""

    @given(p_lists)
    def test_bh_is_at_most_hochberg_at_most_holm_at_most_bonferroni(self, p: list[float]) -> None:
        bh, hochberg, holm, bonferroni = (
            multiplicity.adjust_p_values(p, method)
            for method in ("bh", "hochberg", "holm", "bonferroni")
        )

        slack = 1e-12
        assert (np.array(p) <= bh + slack).all()
        assert (bh <= hochberg + slack).all()
        assert (hochberg <= holm + slack).all()
        assert (holm <= bonferroni + slack).all()
        assert (bonferroni <= 1).all()

    @given(p_lists, st.integers(0, 999))
    def test_order_does_not_matter(self, p: list[float], seed: int) -> None:
        shuffle = np.random.default_rng(seed).permutation(len(p))

        for method in multiplicity.CORRECTIONS:
            straight = multiplicity.adjust_p_values(p, method)
            shuffled = multiplicity.adjust_p_values(np.array(p)[shuffle], method)
            assert np.allclose(straight[shuffle], shuffled, rtol=1e-12)

    def test_an_unknown_method_names_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match="bonferroni, holm"):
            multiplicity.adjust_p_values([0.1], "sidak")  # type: ignore[arg-type]


class TestMeansAndClusters:
    """Repeats, clusters and strata are one arithmetic."""

    @given(samples, st.floats(-50, 50), st.floats(0.5, 9))
    def test_shifting_and_scaling_carries_over(
        self, x: list[float], shift: float, scale: float
    ) -> None:
        plain = means.summarise(x)

        moved = means.summarise(shift + scale * np.array(x))

        assert moved.mean == pytest.approx(shift + scale * plain.mean, abs=1e-8)
        assert moved.stderr == pytest.approx(scale * plain.stderr, rel=1e-6, abs=1e-8)

    @given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10**6))
    def test_equal_repeats_make_clusters_and_averages_the_same(
        self, items: int, repeated: int, seed: int
    ) -> None:
        x = np.random.default_rng(seed).random((items, repeated))

        by_item = means.summarise(x.mean(axis=1))
        sums = (x - x.mean()).sum(axis=1)
        sizes = np.full(items, repeated)

        for kind in ("cr1", "cr2"):
            error = clusters.cluster_error(sums, sizes, kind=kind)
            assert error.stderr == pytest.approx(by_item.stderr, rel=1e-9)
            assert error.df == pytest.approx(items - 1, rel=1e-9)

    @given(st.lists(st.integers(1, 9), min_size=2, max_size=12))
    def test_the_closed_form_df_is_satterthwaites_over_the_matrices(self, sizes: list[int]) -> None:
        m = np.array(sizes)
        n, member = int(m.sum()), np.repeat(np.arange(len(m)), m)
        hat = np.full((n, n), 1 / n)
        columns = []
        for g in range(len(m)):
            own = member == g
            # Under independence the variance estimate is sum_g (c_g' e)^2; its two moments
            # give the Satterthwaite df.
            weight = np.zeros(n)
            weight[own] = np.sqrt(1 / (1 - m[g] / n)) / n
            columns.append((np.eye(n) - hat) @ weight)
        inner = np.array(columns) @ np.array(columns).T
        expected = np.trace(inner) ** 2 / np.trace(inner @ inner)

        assert clusters.bell_mccaffrey_df(m) == pytest.approx(expected, rel=1e-9)

    def test_many_groups_at_once_equal_one_group_at_a_time(self) -> None:
        rng = np.random.default_rng(2)
        group = np.sort(rng.integers(0, 6, 40))
        sums, sizes = rng.normal(size=40), rng.integers(1, 9, 40).astype(float)

        stderr, df = clusters.grouped_cr2(sums, sizes, group, 7)

        for g in range(6):
            one = clusters.cluster_error(sums[group == g], sizes[group == g])
            assert stderr[g] == pytest.approx(one.stderr, rel=1e-12)
            assert df[g] == pytest.approx(one.df, rel=1e-12)
        assert np.isnan(stderr[6])
        assert np.isnan(df[6])

    def test_one_value_or_one_cluster_has_no_error(self) -> None:
        assert np.isnan(means.summarise([0.5]).stderr)
        assert np.isnan(clusters.cluster_error([0.0], [4]).stderr)


class TestProportions:
    """Intervals stay inside [0, 1], hold the estimate, and mirror."""

    @given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_successes_and_failures_mirror(self, data: tuple[int, int]) -> None:
        k, n = data

        for interval in (proportions.wilson, proportions.clopper_pearson):
            there, mirror = interval(k, n), interval(n - k, n)
            assert 0 <= there.lower <= k / n <= there.upper <= 1
            assert there.lower == pytest.approx(1 - mirror.upper, abs=1e-9)

    def test_exact_coverage_of_wilson_at_n_30_is_what_the_table_says(self) -> None:
        n, grid = 30, np.arange(0.01, 1, 0.01)
        k = np.arange(n + 1)
        lower, upper = proportions.wilson(k, n)
        chance = np.exp(repeats._log_binomial(np.full(n + 1, float(n)), k))

        coverage = [
            float((chance * p**k * (1 - p) ** (n - k))[(lower <= p) & (p <= upper)].sum())
            for p in grid
        ]

        assert np.mean(coverage) == pytest.approx(0.952, abs=0.001)
        assert min(coverage) == pytest.approx(0.930, abs=0.001)

    def test_no_items_give_no_interval(self) -> None:
        lower, upper = proportions.wilson([0, 1], [0, 2])

        assert np.isnan(lower[0])
        assert np.isnan(upper[0])
        assert lower[1] < 0.5 < upper[1]


class TestRepeats:
    """pass@k rises with k, pass^k falls, and both are the plain rate at k = 1."""

    @given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
    def test_one_pick_is_the_rate_and_more_picks_are_ordered(self, data: tuple[int, int]) -> None:
        n, c = data

        some = [float(repeats.pass_at_k(n, c, k)) for k in range(1, n + 1)]
        every = [float(repeats.pass_hat_k(n, c, k)) for k in range(1, n + 1)]

        assert some[0] == pytest.approx(c / n, abs=1e-9)
        assert every[0] == pytest.approx(c / n, abs=1e-9)
        assert (np.diff(some) >= -1e-9).all()
        assert (np.diff(every) <= 1e-9).all()

    def test_too_few_answers_give_no_estimate(self) -> None:
        estimates = (repeats.pass_at_k, repeats.pass_hat_k, repeats.maj_at_k)

        assert all(np.isnan(estimate([2], [1], 3)).all() for estimate in estimates)


class TestPowerAndBootstrap:
    """Round trips, and resampling that depends on nothing but its own data."""

    @given(st.floats(0.01, 0.3), st.floats(0.05, 1.0))
    def test_the_detectable_difference_of_the_required_items_is_the_difference(
        self, delta: float, omega2: float
    ) -> None:
        n = power.required_items(delta, omega2=omega2)

        assert power.minimum_detectable(n, omega2=omega2) == pytest.approx(delta, rel=1e-9)

    def test_a_column_does_not_depend_on_its_neighbours(self) -> None:
        data = np.random.default_rng(5).random((50, 3))

        together = resampling.percentile_interval(resampling.bootstrap_means(data, n_resamples=500))
        alone = resampling.percentile_interval(
            resampling.bootstrap_means(data[:, 1:2], n_resamples=500)
        )

        assert together.lower[1] == pytest.approx(alone.lower[0], rel=1e-12)

    def test_a_thousand_normal_values_give_the_t_interval_again(self) -> None:
        x = np.random.default_rng(6).normal(size=(1000, 1))
        summary = means.summarise(x[:, 0])
        t = means.t_interval(summary.mean, summary.stderr, 999)

        draws = resampling.bootstrap_means(x, n_resamples=9999)
        percentile = resampling.percentile_interval(draws)
        bca = resampling.bca_interval(draws, x.mean(axis=0), resampling.jackknife_acceleration(x))

        assert percentile.lower[0] == pytest.approx(float(t.lower), abs=0.005)
        assert bca.upper[0] == pytest.approx(float(t.upper), abs=0.005)
        assert draws.stderr[0] == pytest.approx(summary.stderr, rel=0.03)

    def test_clusters_are_resampled_whole(self) -> None:
        sums, sizes = np.array([[3.0], [0.0], [6.0]]), np.array([[3.0], [3.0], [6.0]])

        draws = resampling.bootstrap_means(sums, sizes)

        assert draws.means.min() == 0
        assert draws.means.max() == 1


def test_ties_and_zeros_keep_wilcoxon_exact() -> None:
    result = wilcoxon.signed_rank([1, 1, -1, 2, 0, 3])

    ranks = np.array([2, 2, 2, 4, 5])
    totals = np.array(list(product((0, 1), repeat=5))) @ ranks
    observed = 2 + 2 + 4 + 5
    share = np.mean(np.abs(totals - 7.5) >= abs(observed - 7.5))
    assert result.statistic == observed
    assert result.exact
    assert result.p_value == pytest.approx(float(share))


def test_the_normal_limit_of_wilcoxon_meets_the_exact_value() -> None:
    d = np.random.default_rng(4).normal(0.1, 1, 201)

    limit, exact = wilcoxon.signed_rank(d), wilcoxon.signed_rank(d[:200])

    assert not limit.exact
    assert exact.exact
    assert limit.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert wilcoxon.signed_rank([0.0, 0.0]).p_value == 1
