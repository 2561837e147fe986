"""The mean of independent numbers: standard error, t interval, t test, and strata.

>>> summary = summarise([0.25, 0.5, 0.75, 1.0])
>>> print(f"{summary.mean:.3f} +- {summary.stderr:.4f}")
0.625 +- 0.1614
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from themis.statistics.arrays import Alternative, FloatArray, Interval, floats, never_zero


class MeanSummary(NamedTuple):
    """The moments of one sample.

    Attributes:
        n: How many numbers.
        mean: Their mean.
        variance: The unbiased variance (n - 1); NaN for fewer than two numbers.
        stderr: sqrt(variance / n).
    """

    n: int
    mean: float
    variance: float
    stderr: float


def summarise(values: npt.ArrayLike) -> MeanSummary:
    """Give mean, variance and standard error of one sample.

    Two passes (mean first, then squared deviations): the one-pass formula loses every
    digit on numbers far from 0 (Chan, Golub and LeVeque 1983, The American Statistician
    37:242-247).
    """
    x = floats(values)
    mean = float(x.mean())
    if len(x) < 2:  # noqa: PLR2004 -- a variance needs two numbers
        return MeanSummary(len(x), mean, np.nan, np.nan)
    variance = float(((x - mean) ** 2).sum() / (len(x) - 1))
    return MeanSummary(len(x), mean, variance, float(np.sqrt(variance / len(x))))


def t_interval(
    mean: npt.ArrayLike, stderr: npt.ArrayLike, df: npt.ArrayLike, level: float = 0.95
) -> Interval:
    """Give mean ± t(df) x stderr.

    Source: Student (1908), Biometrika 6:1-25. The ends are not cut to the range of the
    metric: an end beyond it says that n is too small for this method.

    Args:
        mean: The estimate.
        stderr: Its standard error.
        df: Degrees of freedom of the standard error; need not be whole.
        level: The coverage aimed at.
    """
    mean, stderr = floats(mean), floats(stderr)
    half = stdtrit(floats(df), 0.5 + level / 2) * stderr
    return Interval(mean - half, mean + half)


def t_p_value(
    statistic: npt.ArrayLike, df: npt.ArrayLike, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Give the p-value of a t statistic (Student 1908); never 0.

    Args:
        statistic: Estimate over standard error.
        df: Degrees of freedom; need not be whole.
        alternative: Which side counts as evidence; "greater" looks for values above 0.
    """
    t, df = floats(statistic), floats(df)
    if alternative == "two-sided":
        return never_zero(2 * stdtr(df, -np.abs(t)))
    return never_zero(np.asarray(stdtr(df, -t if alternative == "greater" else t)))


class StratifiedMean(NamedTuple):
    """One mean over several groups, with its standard error.

    Attributes:
        mean: The combined mean.
        stderr: Its standard error, with the groups as fixed strata; NaN when any group
            has fewer than two items.
    """

    mean: float
    stderr: float


def macro_mean(means: npt.ArrayLike, stderrs: npt.ArrayLike) -> StratifiedMean:
    """Average groups so that each counts the same: sqrt(sum of se²) / number of groups.

    Source: stratified estimation with fixed strata and equal weights; W. G. Cochran (1977),
    Sampling Techniques, 3rd ed., sec. 5.3.
    """
    means, stderrs = floats(means), floats(stderrs)
    return StratifiedMean(float(means.mean()), float(np.sqrt((stderrs**2).sum()) / len(means)))


def micro_mean(means: npt.ArrayLike, stderrs: npt.ArrayLike, n: npt.ArrayLike) -> StratifiedMean:
    """Average groups so that each item counts the same, keeping the groups as strata.

    Source: sqrt(sum of (n se)²) / total n; Cochran (1977), sec. 5.3.
    """
    means, stderrs, n = floats(means), floats(stderrs), floats(n)
    total = n.sum()
    return StratifiedMean(
        float((n * means).sum() / total), float(np.sqrt(((n * stderrs) ** 2).sum()) / total)
    )
