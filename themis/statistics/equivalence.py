"""Is the difference small enough not to matter? Equivalence and non-inferiority.

>>> result = tost(0.004, 0.003, df=200, margin=0.02)
>>> print(f"{result.p_value:.2e} {result.lower:.4f} {result.upper:.4f}")
1.30e-07 -0.0010 0.0090
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from themis.statistics.arrays import FloatArray, floats, never_zero
from themis.statistics.means import t_interval


class Equivalence(NamedTuple):
    """Two one-sided tests against ±margin.

    Attributes:
        p_lower: Against "worse by the margin or more": small means not inferior.
        p_upper: Against "better by the margin or more".
        p_value: The larger of the two: small means equivalent.
        lower: Lower end of the 1 - 2 alpha interval.
        upper: Its upper end; equivalent at alpha exactly when both lie inside ±margin.
    """

    p_lower: FloatArray
    p_upper: FloatArray
    p_value: FloatArray
    lower: FloatArray
    upper: FloatArray


def tost(
    mean: npt.ArrayLike,
    stderr: npt.ArrayLike,
    df: npt.ArrayLike,
    margin: float,
    alpha: float = 0.05,
) -> Equivalence:
    """Test whether a difference lies inside ±margin, with t tests.

    Source: D. J. Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15:657-680.
    df may be infinite (normal tests).

    Args:
        mean: The estimated difference.
        stderr: Its standard error.
        df: Degrees of freedom of the standard error.
        margin: The largest difference that does not matter, above 0.
        alpha: The level; the interval has coverage 1 - 2 alpha.
    """
    mean, stderr, df = floats(mean), floats(stderr), floats(df)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_lower = never_zero(np.asarray(stdtr(df, -(mean + margin) / stderr)))
        p_upper = never_zero(np.asarray(stdtr(df, (mean - margin) / stderr)))
    lower, upper = t_interval(mean, stderr, df, 1 - 2 * alpha)
    return Equivalence(p_lower, p_upper, np.maximum(p_lower, p_upper), lower, upper)
