"""Power formulas against simulated evaluations, and each against its own inverse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.statistics import means, power
from themis.statistics.arrays import FloatArray
from themis.statistics.paired_binary import mcnemar_midp

REPETITIONS = 20_000


def error_of(share: float) -> float:
    """Four Monte-Carlo standard errors of a simulated share."""
    return float(4 * np.sqrt(share * (1 - share) / REPETITIONS))


def t_p_values(d: FloatArray) -> FloatArray:
    """The paired t test of each row of differences."""
    n = d.shape[1]
    return means.t_p_value(d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(n)), n - 1)


@pytest.mark.parametrize(("n", "delta", "sd"), [(10, 0.4, 0.4), (100, 0.1, 0.4)])
def test_simulated_t_tests_find_as_often_as_the_formula_says(
    n: int, delta: float, sd: float
) -> None:
    d = np.random.default_rng(1).normal(delta, sd, (REPETITIONS, n))

    expected = power.paired_t_power(n, delta, sd)

    assert np.mean(t_p_values(d) <= 0.05) == pytest.approx(expected, abs=error_of(expected))


@pytest.mark.parametrize(
    ("n", "delta", "disagree"), [(20, 0.3, 0.4), (200, 0.08, 0.2), (1000, 0.03, 0.12)]
)
def test_simulated_mcnemar_tests_find_as_often_as_the_formula_says(
    n: int, delta: float, disagree: float
) -> None:
    chances = [(disagree + delta) / 2, (disagree - delta) / 2, 1 - disagree]
    wins, losses, _ = np.random.default_rng(2).multinomial(n, chances, REPETITIONS).T

    expected = power.mcnemar_power(n, delta, disagree)

    found = np.mean(mcnemar_midp(wins, losses) <= 0.05)
    assert found == pytest.approx(expected, abs=error_of(expected))


def test_required_items_reach_the_power_asked_for_with_repeated_answers() -> None:
    rng = np.random.default_rng(3)
    omega2, sigma2, answers, delta = 0.04, 0.16, 4, 0.05
    noise = power.repeat_variance(sigma2, sigma2, answers, answers)
    n = round(power.required_items(delta, omega2=omega2, repeat_variance=noise))

    found = []
    for _ in range(20):  # one part at a time, to hold memory
        d = rng.normal(delta, np.sqrt(omega2), (REPETITIONS // 20, n))
        for sign in (1, -1):
            d += sign * rng.normal(0, np.sqrt(sigma2 / answers), d.shape)
        found.append(t_p_values(d) <= 0.05)

    assert np.mean(found) == pytest.approx(0.8, abs=error_of(0.8) + 0.002)


def test_the_spread_of_a_pilot_is_split_into_items_and_answers() -> None:
    rng = np.random.default_rng(4)
    items = 20_000
    skill, gap = rng.normal(0.5, 0.2, (items, 1)), rng.normal(0.02, 0.1, (items, 1))
    a = skill + rng.normal(0, 0.3, (items, 3))
    b = skill + gap + rng.normal(0, 0.5, (items, 5))

    spread = power.paired_spread(a, b)

    assert spread.sigma2_a == pytest.approx(0.09, rel=0.05)
    assert spread.sigma2_b == pytest.approx(0.25, rel=0.05)
    # Four standard errors of a variance of .09 from 20,000 items.
    assert spread.omega2 == pytest.approx(0.01, abs=0.004)


def test_one_answer_per_item_leaves_the_spread_in_one_piece() -> None:
    a, b = np.array([[0.0], [1.0], [1.0]]), np.array([[1.0], [1.0], [0.0]])

    spread = power.paired_spread(a, b)

    assert spread.omega2 == pytest.approx(1.0)
    assert np.isnan([spread.sigma2_a, spread.sigma2_b]).all()
    with pytest.raises(ValueError, match="same two or more items"):
        power.paired_spread(a, b[:2])


def test_a_pilot_scales_to_the_items_that_are_needed() -> None:
    n = power.items_after_pilot(0.02, stderr=0.021, n=200)

    assert power.minimum_detectable(n, omega2=200 * 0.021**2) == pytest.approx(0.02)


@given(st.floats(0.02, 0.3), st.floats(0.0, 0.5))
def test_exact_and_approximate_numbers_of_items_agree(delta: float, more: float) -> None:
    disagree = min(1.0, delta + more)

    exact = power.mcnemar_items(delta, disagree)

    rough = power.required_items(delta, omega2=power.binary_omega2(delta, disagree))
    assert exact == pytest.approx(rough, rel=0.15, abs=8)
    assert power.mcnemar_power(exact, delta, disagree) >= 0.8


@given(st.floats(0.05, 1.5), st.floats(0.1, 0.95))
def test_paired_t_items_are_where_the_power_is_reached(effect: float, wanted: float) -> None:
    n = power.paired_t_items(effect, 1.0, power=wanted)

    reached = power.paired_t_power(n, effect, 1.0)
    assert reached == pytest.approx(wanted, abs=1e-6) or (
        n == pytest.approx(2) and reached > wanted
    )


def test_huge_and_zero_differences_have_an_answer() -> None:
    assert power.paired_t_power(200, 5.0, 1.0) == 1
    assert power.paired_t_power(98, 1.0, 1.0) == pytest.approx(1)
    assert power.mcnemar_power(4, 1.0, 1.0) == 0
    assert power.mcnemar_power(5, 1.0, 1.0) == 1
    assert power.mcnemar_power(10, 0.0, 0.0) == 0
    for impossible in (
        lambda: power.required_items(0.0, omega2=0.1),
        lambda: power.paired_t_items(0.0, 1.0),
        lambda: power.mcnemar_items(0.0, 0.1),
        lambda: power.binary_omega2(0.3, 0.2),
    ):
        with pytest.raises(ValueError, match="difference of"):
            impossible()
