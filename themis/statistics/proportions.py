"""Intervals for one proportion: k successes among n independent items.

Wilson is the default of Themis: over p from .01 to .99 its coverage at n = 10 is never
below .90 (nominal .95), where the usual p ± 1.96 se falls to .10. All functions work
element by element on arrays.

    >>> lower, upper = wilson(7, 10)
    >>> print(f"{lower:.4f} {upper:.4f}")
    0.3968 0.8922
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtri

from themis.statistics.arrays import Interval, floats


def wilson(successes: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Invert the score test of a proportion, without continuity correction.

    Source: E. B. Wilson (1927), JASA 22:209-212; method 3 of R. G. Newcombe (1998),
    Statistics in Medicine 17:857-872. Never leaves [0, 1]; NaN where n is 0.

    Args:
        successes: How many of the n were 1.
        n: How many items there were.
        level: The coverage aimed at.
    """
    k, n = floats(successes), floats(n)
    z = ndtri(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = k / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        # At k = 0 and k = n the end is 0 or 1 exactly; rounding would leave 1e-17.
        return Interval(
            np.where(k == 0, np.where(n > 0, 0.0, np.nan), centre - half),
            np.where(k == n, np.where(n > 0, 1.0, np.nan), centre + half),
        )


def clopper_pearson(successes: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Invert the two one-sided exact binomial tests.

    Source: C. J. Clopper and E. S. Pearson (1934), Biometrika 26:404-413. Coverage is
    never below `level`, at the price of intervals that are wider than they need be.

    Args:
        successes: How many of the n were 1.
        n: How many items there were.
        level: The coverage guaranteed.
    """
    k, n = floats(successes), floats(n)
    tail = (1 - level) / 2
    # betaincinv refuses a parameter of 0, which is where the end is 0 or 1 anyway.
    lower = np.where(k == 0, 0.0, betaincinv(np.maximum(k, 1), n - k + 1, tail))
    upper = np.where(k == n, 1.0, betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail))
    return Interval(lower, upper)


def beta_interval(
    successes: npt.ArrayLike,
    n: npt.ArrayLike,
    level: float = 0.95,
    prior: tuple[float, float] = (1.0, 1.0),
) -> Interval:
    """Equal-tailed credible interval of a proportion under a Beta prior.

    Beta(1, 1) is the prior that Bowyer, Aitchison and Ivanova (2025, arXiv:2503.01747)
    use for small evaluations; Beta(1/2, 1/2) is Jeffreys' prior, whose interval Brown,
    Cai and DasGupta (2001), Statistical Science 16:101-133, study beside Wilson's. The
    ends are plain quantiles: they are not moved to 0 or 1 at k = 0 or k = n.

    Args:
        successes: How many of the n were 1.
        n: How many items there were.
        level: The posterior probability inside.
        prior: The two parameters of the Beta prior.
    """
    k, n = floats(successes), floats(n)
    a, b = k + prior[0], n - k + prior[1]
    tail = (1 - level) / 2
    return Interval(betaincinv(a, b, tail), betaincinv(a, b, 1 - tail))
