"""Our formulas against those of scipy and of plain counting, on data of all shapes."""

from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from themis.statistics import (
    equivalence,
    means,
    multiplicity,
    paired_binary,
    power,
    proportions,
    repeats,
    wilcoxon,
)
from themis.statistics.arrays import ALTERNATIVES, Alternative
from themis.statistics.sign_flip import sampled_p_values, sign_flip

counts = st.integers(0, 40)
alternatives = st.sampled_from(ALTERNATIVES)
irregular = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=3, max_size=8).map(
    lambda values: np.array(values) + np.sqrt(np.arange(2, len(values) + 2)) / 100
)
p_lists = st.lists(st.floats(1e-12, 1.0), min_size=1, max_size=30)


@given(irregular, alternatives)
def test_the_paired_t_test_is_scipys(d: Any, alternative: Alternative) -> None:
    summary = means.summarise(d)
    if summary.stderr < 1e-6:
        return

    ours = means.t_p_value(summary.mean / summary.stderr, summary.n - 1, alternative)

    theirs = stats.ttest_1samp(d, 0, alternative=alternative)
    assert float(ours) == pytest.approx(theirs.pvalue, rel=1e-8)


@given(counts, counts, alternatives)
def test_the_exact_mcnemar_and_sign_tests_are_scipys_binomial_test(
    wins: int, losses: int, alternative: Alternative
) -> None:
    theirs = 1.0
    if wins + losses:
        theirs = stats.binomtest(wins, wins + losses, 0.5, alternative=alternative).pvalue

    for test in (paired_binary.mcnemar_exact, paired_binary.sign_test):
        assert float(test(wins, losses, alternative)) == pytest.approx(theirs, rel=1e-9)


@given(counts, counts, st.sampled_from(["greater", "less"]))
def test_one_sided_mid_p_is_the_tail_with_half_of_what_was_seen(
    wins: int, losses: int, alternative: Alternative
) -> None:
    n, at = wins + losses, losses if alternative == "greater" else wins
    expected = sum(comb(n, k) for k in range(at)) / 2**n + comb(n, at) / 2 ** (n + 1)

    p = float(paired_binary.mcnemar_midp(wins, losses, alternative))

    assert p == pytest.approx(expected if n else 1.0, rel=1e-9)


@given(counts, counts)
def test_the_asymptotic_mcnemar_test_is_the_chi_squared_one(wins: int, losses: int) -> None:
    p = float(paired_binary.mcnemar_asymptotic(wins, losses))
    upper = float(paired_binary.mcnemar_asymptotic(wins, losses, "greater"))
    lower = float(paired_binary.mcnemar_asymptotic(wins, losses, "less"))

    if not wins + losses:
        assert (p, upper, lower) == (1, 1, 1)
        return
    chi2 = (wins - losses) ** 2 / (wins + losses)
    assert p == pytest.approx(stats.chi2.sf(chi2, 1), rel=1e-9)
    assert upper + lower == pytest.approx(1)
    assert min(upper, lower) == pytest.approx(p / 2, rel=1e-9)


@settings(max_examples=40)
@given(irregular, alternatives)
def test_the_enumerated_sign_flip_is_scipys_permutation_test(
    d: Any, alternative: Alternative
) -> None:
    theirs = stats.permutation_test(
        (d, np.zeros(len(d))),
        lambda x, y, axis: np.sum(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        alternative=alternative,
    )

    assert sign_flip(d, alternative).p_value == pytest.approx(theirs.pvalue, rel=1e-9)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.sampled_from(["greater", "less"]))
def test_the_one_sided_lattice_counts_like_brute_force(
    steps: list[int], alternative: Alternative
) -> None:
    sign = 1 if alternative == "greater" else -1
    patterns = np.array(list(product((-1, 1), repeat=len(steps)))) @ np.abs(steps)

    p = sign_flip(np.array(steps) / 4, alternative).p_value

    assert p == pytest.approx(np.mean(patterns >= sign * sum(steps)), rel=1e-12)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_sampled_sign_flips_meet_the_exact_answer(alternative: Alternative) -> None:
    d = np.random.default_rng(8).integers(-4, 6, 60) / 4
    exact, draws = sign_flip(d, alternative), 20_000

    sampled = float(sampled_p_values(d[:, None], draws, 1, alternative)[0])

    assert exact.exact
    error = np.sqrt(exact.p_value * (1 - exact.p_value) / draws)
    assert sampled == pytest.approx(exact.p_value, abs=4 * error + 2 / draws)


@given(
    st.lists(st.integers(-9, 9), min_size=4, max_size=12, unique_by=abs).filter(any), alternatives
)
def test_wilcoxon_without_ties_is_scipys_exact_test(
    steps: list[int], alternative: Alternative
) -> None:
    d = np.array([step for step in steps if step], float)
    ours = wilcoxon.signed_rank(d, alternative)

    theirs = stats.wilcoxon(d, method="exact", alternative=alternative)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_of_many_ties_is_scipys_normal_limit(alternative: Alternative) -> None:
    d = np.random.default_rng(9).integers(-3, 5, 400).astype(float)

    ours = wilcoxon.signed_rank(d, alternative)

    theirs = stats.wilcoxon(d, method="asymptotic", correction=False, alternative=alternative)
    assert not ours.exact
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-8)


@given(p_lists, st.sampled_from(["bh", "by"]))
def test_false_discovery_rates_are_scipys(p: list[float], method: Any) -> None:
    ours = multiplicity.adjust_p_values(p, method)

    assert ours == pytest.approx(stats.false_discovery_control(p, method=method), rel=1e-12)


@given(p_lists)
def test_family_wise_corrections_follow_their_definitions(p: list[float]) -> None:
    m, ordered = len(p), np.sort(p)
    holm = [max(min(1.0, (m - j) * ordered[j]) for j in range(i + 1)) for i in range(m)]
    hochberg = [min(min(1.0, (m - j) * ordered[j]) for j in range(i, m)) for i in range(m)]

    for method, expected in (("holm", holm), ("hochberg", hochberg)):
        adjusted = multiplicity.adjust_p_values(p, method)  # type: ignore[arg-type]
        assert np.sort(adjusted) == pytest.approx(expected, rel=1e-12)


@given(p_lists, st.integers(0, 29), st.floats(0, 1))
def test_a_smaller_p_never_raises_an_adjusted_one(p: list[float], place: int, cut: float) -> None:
    smaller = np.array(p)
    smaller[place % len(p)] *= cut

    for method in multiplicity.CORRECTIONS:
        before = multiplicity.adjust_p_values(p, method)
        after = multiplicity.adjust_p_values(smaller, method)
        assert (after <= before + 1e-12).all()
        assert (after >= smaller - 1e-12).all()


@given(st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_of_proportions_are_scipys(data: tuple[int, int]) -> None:
    k, n = data
    test = stats.binomtest(k, n)

    for name, interval in (
        ("wilson", proportions.wilson),
        ("exact", proportions.clopper_pearson),
    ):
        theirs = test.proportion_ci(0.9, method=name)
        assert [float(end) for end in interval(k, n, 0.9)] == pytest.approx(
            [theirs.low, theirs.high], abs=1e-9
        )


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
    )
)
def test_repeats_count_every_way_to_pick(data: tuple[int, int, int]) -> None:
    n, c, k = data
    ways = {r: comb(c, r) * comb(n - c, k - r) / comb(n, k) for r in range(k + 1)}

    assert float(repeats.pass_at_k(n, c, k)) == pytest.approx(1 - ways[0], abs=1e-12)
    assert float(repeats.pass_hat_k(n, c, k)) == pytest.approx(ways[k], abs=1e-12)
    assert float(repeats.maj_at_k(n, c, k)) == pytest.approx(
        sum(w * (1.0 if 2 * r > k else 0.5 if 2 * r == k else 0.0) for r, w in ways.items()),
        abs=1e-12,
    )


@given(irregular, st.floats(0.1, 2))
def test_equivalence_is_two_one_sided_t_tests(d: Any, margin: float) -> None:
    summary = means.summarise(d)
    if summary.stderr < 1e-6:
        return

    ours = equivalence.tost(summary.mean, summary.stderr, summary.n - 1, margin)

    lower = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(d, margin, alternative="less").pvalue
    assert float(ours.p_lower) == pytest.approx(lower, rel=1e-7)
    assert float(ours.p_upper) == pytest.approx(upper, rel=1e-7)
    inside = -margin < ours.lower and ours.upper < margin
    if abs(ours.p_value - 0.05) > 1e-9:
        assert inside == (ours.p_value < 0.05)


@given(st.integers(3, 60), st.floats(0.01, 0.8))
def test_the_power_of_a_t_test_is_a_noncentral_t(n: int, effect: float) -> None:
    critical = stats.t.ppf(0.975, n - 1)
    shift = effect * np.sqrt(n)
    expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)

    assert power.paired_t_power(n, effect, 1.0) == pytest.approx(expected, abs=1e-7)
    assert power.paired_t_power(n, -effect, 1.0) == power.paired_t_power(n, effect, 1.0)
