"""Wilcoxon's signed-rank test, for readers who ask for it.

It tests whether the differences are symmetric around 0, not whether their mean is 0: on
skewed differences with mean 0 it rejects almost always. Themis never chooses it unasked.

    >>> signed_rank([1.5, -0.5, 2.5, 3.5])
    SignedRank(statistic=9.0, p_value=0.25, exact=True)
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from themis.statistics.arrays import Alternative, floats
from themis.statistics.sign_flip import lattice_p_value

EXACT_UP_TO = 200


class SignedRank(NamedTuple):
    """The outcome of the test.

    Attributes:
        statistic: V, the sum of the ranks of the positive differences.
        p_value: Never 0.
        exact: Whether it comes from the permutation distribution or its normal limit.
    """

    statistic: float
    p_value: float
    exact: bool


def signed_rank(differences: npt.ArrayLike, alternative: Alternative = "two-sided") -> SignedRank:
    """Rank the absolute differences and compare the positive ranks with a coin toss.

    Source: F. Wilcoxon (1945), Biometrics Bulletin 1:80-83. Zeros are left out, equal
    magnitudes share their mean rank. Up to 200 differences the p-value is exact, ties
    included; beyond that it is normal with the tie-corrected variance.

    Args:
        differences: Treatment minus baseline, one per item.
        alternative: "greater" looks for a better treatment, "less" for a worse one.
    """
    d = floats(differences)
    d = d[d != 0]
    if not len(d):
        return SignedRank(0.0, 1.0, exact=True)
    _, place, counts = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]
    statistic = float(ranks[d > 0].sum())
    if len(d) <= EXACT_UP_TO:
        # Mean ranks are halves, so twice a rank is whole and the lattice test is exact.
        p = lattice_p_value(np.rint(2 * ranks * np.sign(d)).astype(np.int64), alternative)
        return SignedRank(statistic, p, exact=True)
    z = (statistic - ranks.sum() / 2) / np.sqrt((ranks**2).sum() / 4)
    p = (
        2 * ndtr(-abs(z))
        if alternative == "two-sided"
        else ndtr(-z if alternative == "greater" else z)
    )
    return SignedRank(statistic, max(float(p), float(np.finfo(np.float64).tiny)), exact=False)
