"""How large an evaluation must be, and what a given one could have seen.

>>> n = required_items(0.03, omega2=1 / 9)
>>> print(f"{n:.1f}")
969.0
>>> print(f"{minimum_detectable(100, omega2=0.16):.4f}")
0.1121

A pilot answers with its own spread: 200 items gave the difference a standard error of .021,
so seeing 2 points needs

>>> round(items_after_pilot(0.02, stderr=0.021, n=200))
1731
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaln, ncfdtr, ndtri, stdtrit, xlog1py, xlogy

from themis.statistics.arrays import FloatArray, floats
from themis.statistics.paired_binary import mcnemar_midp

_BRACKET = 60
_LARGEST_SHIFT = 37.0
"""Beyond it exp(-shift² / 2) is 0 in floating point; power is then .997 with 2 pairs, else 1."""


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

    Raises:
        ValueError: If delta is 0.
    """
    _refuse_zero(delta)
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
    """Give the smallest difference that n items find: `required_items`, solved for delta."""
    z = ndtri(1 - alpha / 2) + ndtri(power)
    return float(z * np.sqrt((omega2 + repeat_variance) / n))


def items_after_pilot(
    delta: float, *, stderr: float, n: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """How many items see `delta`, judged by the standard error that a pilot of n items had.

    `required_items` with n stderr² for the variance of one item's difference (E. Miller 2024).
    The answers per item, and the sizes of clusters, must stay as they were.

    Args:
        delta: The true difference of means to be found.
        stderr: The pilot's standard error of the mean difference.
        n: The pilot's items.
        alpha: Two-sided test level.
        power: Chance to find it.

    Returns:
        The number, not rounded; round up.
    """
    return required_items(delta, omega2=n * stderr**2, alpha=alpha, power=power)


class PairedSpread(NamedTuple):
    """What a paired difference varies by.

    Attributes:
        omega2: Variance over items of the difference between expected scores; 0 where the
            estimate fell below. With one answer per item it holds the noise of answers too.
        sigma2_a: Mean within-item variance of the first model's scores; NaN with one answer
            per item.
        sigma2_b: The same for the second model.
    """

    omega2: float
    sigma2_a: float
    sigma2_b: float


def paired_spread(scores_a: npt.ArrayLike, scores_b: npt.ArrayLike) -> PairedSpread:
    """Split the spread of a paired difference into items and answers, for `required_items`.

    The variance of item means less what averaging K answers leaves of their noise: the
    analysis-of-variance estimator (S. R. Searle, G. Casella and C. E. McCulloch 1992, Variance
    Components, ch. 3), as E. Miller (2024), arXiv:2411.00640, sec. 3.1, uses the split.

    Args:
        scores_a: The first model's scores, (items, answers).
        scores_b: The second model's, on the same items; may have another number of answers.

    Raises:
        ValueError: If the items differ in number, or are fewer than two.
    """
    a, b = floats(scores_a), floats(scores_b)
    if a.ndim != b.ndim or len(a) != len(b) or len(a) < 2:  # noqa: PLR2004 -- a variance
        raise ValueError("needs scores as (items, answers), on the same two or more items")
    total = float((b.mean(axis=1) - a.mean(axis=1)).var(ddof=1))
    within = [_within(scores) for scores in (a, b)]
    noise = sum(
        s / scores.shape[1] for s, scores in zip(within, (a, b), strict=True) if np.isfinite(s)
    )
    return PairedSpread(max(0.0, total - noise), *within)


def _within(scores: FloatArray) -> float:
    if scores.shape[1] < 2:  # noqa: PLR2004 -- one answer has no spread
        return float("nan")
    return float(scores.var(axis=1, ddof=1).mean())


def binary_omega2(delta: float, disagree: float) -> float:
    """Variance of one item's difference when scores are 0 or 1: disagree - delta².

    Source: R. J. Connor (1987), Biometrics 43:207-211.

    Args:
        delta: P(treatment right) - P(baseline right).
        disagree: Share of items on which exactly one of them is right, at least |delta|.

    Raises:
        ValueError: If no two models can disagree so little and differ so much.
    """
    if not abs(delta) <= disagree <= 1:
        raise ValueError(f"a difference of {delta} needs a disagreement between it and 1")
    return disagree - delta**2


def mcnemar_power(n: int, delta: float, disagree: float, alpha: float = 0.05) -> float:
    """Chance that McNemar's mid-p test of n items of 0 or 1 finds a difference.

    Counts every outcome: the number of disagreements is binomial, and so are the wins among
    them (S. W. Duffy 1984, Biometrics 40:1005-1015, for the exact test). Numbers of
    disagreements with a chance below about 1e-15 are left out.

    Args:
        n: Number of items.
        delta: P(treatment right) - P(baseline right).
        disagree: Share of items on which exactly one of them is right, at least |delta|.
        alpha: Two-sided test level.

    Raises:
        ValueError: If no two models can disagree so little and differ so much.
    """
    binary_omega2(delta, disagree)
    spread = 8 * np.sqrt(n * disagree * (1 - disagree)) + 1
    low, high = max(0, int(n * disagree - spread)), min(n, int(n * disagree + spread) + 1)
    m = np.arange(low, high + 1, dtype=np.float64)
    log = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    log += xlogy(m, disagree) + xlog1py(n - m, -disagree)
    last = _most_fewer(m, alpha)
    win = (1 + delta / disagree) / 2 if disagree else 0.5
    fewer, rest = np.maximum(last, 0), np.maximum(m - last, 1)
    found = betainc(rest, fewer + 1, 1 - win) + betainc(rest, fewer + 1, win)
    return float((np.exp(log) * np.where(last >= 0, found, 0.0)).sum())


def _most_fewer(m: FloatArray, alpha: float) -> FloatArray:
    """For m disagreements the largest smaller side that mid-p still rejects; -1 if none."""
    low, high = np.full(len(m), -1.0), np.floor(m / 2)
    while (high - low > 0).any():
        middle = np.ceil((low + high) / 2)
        rejects = mcnemar_midp(middle, m - middle) <= alpha
        low, high = np.where(rejects, middle, low), np.where(rejects, high, middle - 1)
    return low


def mcnemar_items(delta: float, disagree: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """A number of items at which `mcnemar_power` reaches `power`, by bisection.

    Exact power moves up and down by about a percent from one n to the next, so a few smaller
    numbers may reach it as well.

    Raises:
        ValueError: If delta is 0, or no two models can disagree so little.
    """
    _refuse_zero(delta)
    low, high = 1, 8
    while mcnemar_power(high, delta, disagree, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        reached = mcnemar_power(middle, delta, disagree, alpha) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high


def repeat_variance(
    sigma2_a: float, sigma2_b: float, samples_a: int = 1, samples_b: int = 1
) -> float:
    """Variance that answering at random adds to one item's difference: s²a/Ka + s²b/Kb.

    Source: E. Miller (2024), arXiv:2411.00640, sec. 3.1.

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
    shift = min(abs(delta) / sd_diff * np.sqrt(n), _LARGEST_SHIFT)
    # |t| beyond c is F beyond c², which scipy computes where its noncentral t gives NaN.
    return float(1 - ncfdtr(1, df, shift**2, critical**2))


def paired_t_items(delta: float, sd_diff: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The number of pairs at which `paired_t_power` reaches `power`, by bisection (J. Cohen 1988).

    Not rounded; round up. Never less than 2 pairs.

    Raises:
        ValueError: If delta is 0.
    """
    _refuse_zero(delta)
    low, high = 2.0, 4.0
    while paired_t_power(high, delta, sd_diff, alpha) < power:
        low, high = high, 2 * high
    for _ in range(_BRACKET):
        middle = (low + high) / 2
        reached = paired_t_power(middle, delta, sd_diff, alpha) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high


def _refuse_zero(delta: float) -> None:
    if delta == 0:
        raise ValueError("no number of items shows a difference of 0")
