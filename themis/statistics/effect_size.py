"""Differences without units.

>>> print(f"{cohen_h(0.75, 0.65):.4f}")
0.2189
"""

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from themis.statistics.arrays import FloatArray, floats


def cohen_dz(mean: npt.ArrayLike, stderr: npt.ArrayLike, n: npt.ArrayLike) -> FloatArray:
    """Mean difference over the standard deviation of the differences.

    Source: J. Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 2.
    NaN where the differences do not vary.

    Args:
        mean: Mean of the paired differences.
        stderr: Its standard error.
        n: Number of pairs.
    """
    stderr = floats(stderr)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(stderr > 0, floats(mean) / (stderr * np.sqrt(floats(n))), np.nan)


def hedges_gz(mean: npt.ArrayLike, stderr: npt.ArrayLike, n: npt.ArrayLike) -> FloatArray:
    """`cohen_dz` with the exact small-sample correction (gamma functions, df = n - 1).

    Source: L. V. Hedges (1981), Journal of Educational Statistics 6:107-128.
    """
    df = floats(n) - 1
    correction = np.exp(gammaln(df / 2) - gammaln((df - 1) / 2)) / np.sqrt(df / 2)
    return np.asarray(cohen_dz(mean, stderr, n) * correction)


def cohen_h(p1: npt.ArrayLike, p2: npt.ArrayLike) -> FloatArray:
    """Difference of two proportions on the arcsine scale.

    Source: J. Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 6.
    """
    return np.asarray(2 * np.arcsin(np.sqrt(floats(p1))) - 2 * np.arcsin(np.sqrt(floats(p2))))
