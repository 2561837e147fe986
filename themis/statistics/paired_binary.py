"""Two models on the same items, each right or wrong: tests and intervals.

Only the items on which the two disagree tell them apart. `wins` counts those that the
treatment alone got right, `losses` those that the baseline alone got right; the
difference is treatment minus baseline, (wins - losses) / n. All functions work element
by element on arrays, so a thousand comparisons cost one call.

    >>> print(f"{mcnemar_midp(1, 7):.4f}")
    0.0391
    >>> lower, upper = bonett_price(1, 7, 21)
    >>> print(f"{lower:.4f} {upper:.4f}")
    -0.5084 -0.0134
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaincinv, betaln, ndtr, ndtri

from themis.statistics.arrays import Alternative, FloatArray, Interval, floats, never_zero
from themis.statistics.proportions import wilson


def mcnemar_exact(
    wins: npt.ArrayLike, losses: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Give p of the exact conditional McNemar test: a fair coin on the disagreements.

    Source: Q. McNemar (1947), Psychometrika 12:153-157, with the binomial reference.
    Never above its level, and wasteful: at n = 20 its size is .035 where .05 is allowed.

    Args:
        wins: Items that the treatment alone got right.
        losses: Items that the baseline alone got right.
        alternative: "greater" looks for a better treatment, "less" for a worse one.
    """
    n, tail, _ = _disagreements(wins, losses, alternative)
    p = tail if alternative != "two-sided" else np.minimum(1.0, 2 * tail)
    return never_zero(np.where(n == 0, 1.0, p))


def mcnemar_midp(
    wins: npt.ArrayLike, losses: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Give the mid-p of the McNemar test: the observed outcome counts half.

    Source: Fagerland, Lydersen and Laake (2013), BMC Medical Research Methodology 13:91,
    who recommend it: the exact p less the chance of the observed outcome, and 1 less half
    that chance where wins equal losses; one-sided, the tail less half that chance (H. O.
    Lancaster 1961, JASA 56:223-234). With no disagreement at all p is 1, where those formulas
    would say one half.

    Args:
        wins: Items that the treatment alone got right.
        losses: Items that the baseline alone got right.
        alternative: "greater" looks for a better treatment, "less" for a worse one.
    """
    n, tail, at = _disagreements(wins, losses, alternative)
    point = np.exp(-betaln(at + 1, n - at + 1) - np.log1p(n) - n * np.log(2))
    if alternative == "two-sided":
        p = np.where(2 * at == n, 1 - point / 2, 2 * tail - point)
    else:
        p = tail - point / 2
    return never_zero(np.where(n == 0, 1.0, p))


def mcnemar_asymptotic(
    wins: npt.ArrayLike, losses: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Give p of McNemar's statistic in the normal limit, without continuity correction.

    Source: Q. McNemar (1947), Psychometrika 12:153-157 (two-sided, its square against
    chi-squared). Its size can pass .05 slightly.

    Args:
        wins: Items that the treatment alone got right.
        losses: Items that the baseline alone got right.
        alternative: "greater" looks for a better treatment, "less" for a worse one.
    """
    b, c = floats(wins), floats(losses)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (b - c) / np.sqrt(b + c)
    if alternative == "two-sided":
        p = 2 * ndtr(-np.abs(z))
    else:
        p = ndtr(-z if alternative == "greater" else z)
    return never_zero(np.where(b + c == 0, 1.0, p))


def wald(
    wins: npt.ArrayLike, losses: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """Estimate ± z standard errors, for comparison with other tools only.

    Its coverage at n = 20 can be .46 where .95 is promised; see `bonett_price`. The form
    that tools use most; Newcombe (1998), Statistics in Medicine 17:2635-2650, method 1.
    """
    b, c, n = floats(wins), floats(losses), floats(n)
    delta = (b - c) / n
    half = ndtri(0.5 + level / 2) * np.sqrt((b + c) / n - delta**2) / np.sqrt(n)
    return Interval(delta - half, delta + half)


def bonett_price(
    wins: npt.ArrayLike, losses: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """Wald interval after adding one win and one loss; the default of Themis.

    Source: D. G. Bonett and R. M. Price (2012), Journal of Educational and Behavioral
    Statistics 37:479-488; among those recommended by Fagerland, Lydersen and Laake
    (2014), Statistics in Medicine 33:2850-2875. Cut to [-1, 1].
    """
    stderr = bonett_price_stderr(wins, losses, n)
    b, c, n = floats(wins), floats(losses), floats(n)
    delta = (b - c) / (n + 2)
    half = ndtri(0.5 + level / 2) * stderr
    return Interval(np.maximum(-1.0, delta - half), np.minimum(1.0, delta + half))


def bonett_price_stderr(wins: npt.ArrayLike, losses: npt.ArrayLike, n: npt.ArrayLike) -> FloatArray:
    """The standard error inside `bonett_price` (same source); positive even without discord."""
    b, c, n = floats(wins), floats(losses), floats(n)
    p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    return np.asarray(np.sqrt((p + q - (p - q) ** 2) / (n + 2)))


def tango(
    wins: npt.ArrayLike, losses: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """Invert the score test of the paired difference; agrees with `mcnemar_asymptotic`.

    Source: T. Tango (1998), Statistics in Medicine 17:891-908. The two roots are found
    by bisection to about 1e-15.
    """
    b, c, n = np.broadcast_arrays(floats(wins), floats(losses), floats(n))
    z = ndtri(0.5 + level / 2)
    delta = (b - c) / n

    def score(d: FloatArray, sign: float) -> FloatArray:
        # q estimates P(baseline alone right) under the null that the difference is d.
        linear = (2 * n - b + c) * d - b - c
        q = (np.sqrt(linear**2 + 8 * n * c * d * (1 - d)) - linear) / (4 * n)
        variance = n * np.maximum(2 * q + d * (1 - d), 0.0)
        return np.asarray(b - c - n * d + sign * z * np.sqrt(variance))

    inner, outer = delta, np.ones_like(delta)
    below, above = delta, -np.ones_like(delta)
    for _ in range(60):
        middle = (inner + outer) / 2
        inside = score(middle, 1.0) > 0
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        middle = (below + above) / 2
        inside = score(middle, -1.0) < 0
        below, above = np.where(inside, middle, below), np.where(inside, above, middle)
    return Interval(below, inner)


def newcombe(
    both: npt.ArrayLike,
    wins: npt.ArrayLike,
    losses: npt.ArrayLike,
    neither: npt.ArrayLike,
    level: float = 0.95,
) -> Interval:
    """Combine the two Wilson intervals through the correlation of the pairs.

    Source: method 10 of R. G. Newcombe (1998), Statistics in Medicine 17:2635-2650,
    including its correction of the correlation towards 0.

    Args:
        both: Items that both models got right.
        wins: Items that the treatment alone got right.
        losses: Items that the baseline alone got right.
        neither: Items that neither got right.
        level: The coverage aimed at.
    """
    a, b, c, d = floats(both), floats(wins), floats(losses), floats(neither)
    n = a + b + c + d
    p_treatment, p_baseline = (a + b) / n, (a + c) / n
    low_t, high_t = wilson(a + b, n, level)
    low_b, high_b = wilson(a + c, n, level)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross = np.where(cross > 0, np.maximum(cross - n / 2, 0.0), cross)
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = np.where(margins == 0, 0.0, cross / np.sqrt(margins))
    delta = p_treatment - p_baseline

    def distance(this: FloatArray, other: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt(np.maximum(this**2 - 2 * phi * this * other + other**2, 0.0)))

    return Interval(
        delta - distance(p_treatment - low_t, high_b - p_baseline),
        delta + distance(high_t - p_treatment, p_baseline - low_b),
    )


def odds_ratio(
    wins: npt.ArrayLike, losses: npt.ArrayLike, level: float = 0.95
) -> tuple[FloatArray, Interval]:
    """Conditional odds ratio wins / losses with its exact interval.

    The exact binomial interval of wins / (wins + losses) is carried over by p / (1 - p)
    (A. Agresti, Categorical Data Analysis, on matched pairs). Infinite where losses
    is 0; NaN where there is no disagreement. Source of the interval: Clopper and Pearson
    (1934), Biometrika 26:404-413.
    """
    b, c = floats(wins), floats(losses)
    tail = (1 - level) / 2
    lower = np.where(b == 0, 0.0, betaincinv(np.maximum(b, 1), c + 1, tail))
    upper = np.where(c == 0, 1.0, betaincinv(b + 1, np.maximum(c, 1), 1 - tail))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(b + c == 0, np.nan, b / c)
        return ratio, Interval(lower / (1 - lower), upper / (1 - upper))


def cohen_g(wins: npt.ArrayLike, losses: npt.ArrayLike) -> FloatArray:
    """How far the share of wins among disagreements lies from one half.

    Source: J. Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 5.
    """
    b, c = floats(wins), floats(losses)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.abs(b / (b + c) - 0.5))


def sign_test(
    wins: npt.ArrayLike, losses: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Test the signs of any paired differences exactly; ties are left out.

    Source: W. J. Dixon and A. M. Mood (1946), JASA 41:557-566. It is the same sum as
    `mcnemar_exact`, and tests the median of the differences, not their mean.
    """
    return mcnemar_exact(wins, losses, alternative)


def _disagreements(
    wins: npt.ArrayLike, losses: npt.ArrayLike, alternative: Alternative
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """How many disagreements, P(at most so many | fair coin), and so many: the side against.

    What speaks against the alternative: the losses, the wins, or the fewer of the two.
    """
    b, c = floats(wins), floats(losses)
    n = b + c
    at = {"two-sided": np.minimum(b, c), "greater": c, "less": b}[alternative] + 0 * n
    # The binomial tail as an incomplete beta function; its parameters must be above 0.
    tail = np.where(at == n, 1.0, betainc(np.maximum(n - at, 1), at + 1, 0.5))
    return n, tail, at
