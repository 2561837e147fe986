"""How large an evaluation must be, and what a given one could have seen.

>>> n = required_items(0.03, omega2=1 / 9)
>>> print(f"{n:.1f}")
969.0
>>> print(f"{minimum_detectable(100, omega2=0.16):.4f}")
0.1121
"""

import numpy as np
from scipy.special import nctdtr, ndtri, stdtrit

_BRACKET = 60


def required_items(
    delta: float,
    *,
    omega2: float,
    repeat_variance: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """How many items a paired comparison needs to see a difference of `delta`.

    n = (z(1 - alpha/2) + z(power))² (omega² + r) / delta², the sample-size formula of
    E. Miller (2024), Adding Error Bars to Evals, arXiv:2411.00640, sec. 5.

    Args:
        delta: The true difference of means to be found.
        omega2: Variance over items of the difference between the models' expected scores.
        repeat_variance: `repeat_variance` of the design: what sampling each answer adds.
        alpha: Two-sided test level.
        power: Chance to find it.

    Returns:
        The number, not rounded; round up.
    """
    z = ndtri(1 - alpha / 2) + ndtri(power)
    return float(z**2 * (omega2 + repeat_variance) / delta**2)


def minimum_detectable(
    n: float,
    *,
    omega2: float,
    repeat_variance: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """The smallest difference that `n` items find with the given power (same formula)."""
    z = ndtri(1 - alpha / 2) + ndtri(power)
    return float(z * np.sqrt((omega2 + repeat_variance) / n))


def repeat_variance(
    sigma2_a: float, sigma2_b: float, samples_a: int = 1, samples_b: int = 1
) -> float:
    """Variance that answering at random adds to one item's difference: s²a/Ka + s²b/Kb.

    Args:
        sigma2_a: Mean within-item variance of the first model's scores.
        sigma2_b: The same for the second model.
        samples_a: Answers averaged per item for the first model.
        samples_b: The same for the second model.
    """
    return sigma2_a / samples_a + sigma2_b / samples_b


def paired_t_power(n: float, delta: float, sd_diff: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t test finds a difference, both tails counted.

    Noncentral t with n - 1 degrees of freedom and noncentrality delta sqrt(n) / sd
    (J. Cohen 1988, ch. 2; R's `power.t.test(strict = TRUE)`).

    Args:
        n: Number of pairs, at least 2.
        delta: The true mean difference.
        sd_diff: Standard deviation of the differences.
        alpha: Test level.
    """
    df = n - 1
    critical = stdtrit(df, 1 - alpha / 2)
    shift = delta / sd_diff * np.sqrt(n)
    return float(1 - nctdtr(df, shift, critical) + nctdtr(df, shift, -critical))


def paired_t_items(delta: float, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The number of pairs at which `paired_t_power` reaches `power`, by bisection.

    Not rounded; round up. Never less than 2 pairs.
    """
    low, high = 2.0, 4.0
    while paired_t_power(high, delta, sd_diff, alpha) < power:
        low, high = high, 2 * high
    for _ in range(_BRACKET):
        middle = (low + high) / 2
        reached = paired_t_power(middle, delta, sd_diff, alpha) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high
