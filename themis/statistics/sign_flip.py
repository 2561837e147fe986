"""The sign-flip test: if the models are equal, each difference could have either sign.

The p-value is the share of all sign patterns whose total is at least as far from 0 as the
one observed. When the differences are multiples of some 1/q (0/1 scores, Likert scales,
averages of a fixed number of repeats) the whole distribution follows from a convolution,
exact for thousands of items; up to 20 other differences are enumerated; beyond that a
seeded sample of patterns answers.

    >>> result = sign_flip([1, 1, 1, -1, 1, 1, 1])
    >>> f"{result.p_value:.3f}", result.exact
    ('0.125', True)
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

from themis.statistics.arrays import FloatArray, IntArray, floats

LARGEST_DENOMINATOR = 1000
LARGEST_TABLE = 400_000_000
"""Additions the exact convolution may cost; about half a second."""

ENUMERATED = 20
_RELATIVE_TIE = 1e-9


class SignFlip(NamedTuple):
    """The outcome of a sign-flip test.

    Attributes:
        p_value: Two-sided, never 0.
        exact: Whether every sign pattern was counted; else patterns were sampled.
    """

    p_value: float
    exact: bool


def sign_flip(differences: npt.ArrayLike, *, n_resamples: int = 9999, seed: int = 0) -> SignFlip:
    """Test whether paired differences are symmetric around 0.

    Source: R. A. Fisher (1935), The Design of Experiments, ch. III (Darwin's maize: 863 of
    32768 patterns in one tail). On 0/1 data it is the exact McNemar test. For clusters,
    pass one summed difference per cluster: signs then flip per cluster.

    Args:
        differences: Treatment minus baseline, one per item (or per cluster).
        n_resamples: Sign patterns drawn where neither exact way fits.
        seed: Seed of those draws.
    """
    return sign_flips([floats(differences)], n_resamples=n_resamples, seed=seed)[0]


def sign_flips(
    comparisons: Sequence[FloatArray], *, n_resamples: int = 9999, seed: int = 0
) -> list[SignFlip]:
    """`sign_flip` of many comparisons; those of equal length share their sampled patterns."""
    results: list[SignFlip | None] = []
    waiting: dict[int, list[int]] = {}
    for place, differences in enumerate(comparisons):
        exact = _exact(differences[differences != 0])
        results.append(exact)
        if exact is None:
            waiting.setdefault(len(differences), []).append(place)
    for places in waiting.values():
        stacked = np.column_stack([comparisons[place] for place in places])
        for place, p in zip(places, sampled_p_values(stacked, n_resamples, seed), strict=True):
            results[place] = SignFlip(float(p), exact=False)
    return [result for result in results if result is not None]


def lattice(differences: FloatArray) -> IntArray | None:
    """Write differences as whole multiples of one 1/q, q at most 1000, if they are such.

    >>> lattice(np.array([0.25, -0.5, 1.0])).tolist()
    [1, -2, 4]
    """
    whole = np.rint(differences)
    if np.array_equal(whole, differences):
        return whole.astype(np.int64) if np.abs(whole).max() < 2**53 else None
    q = 1
    for value in np.unique(np.abs(differences)):
        # Skipping what already fits keeps this to a few fractions on real data.
        if abs(value * q - round(value * q)) <= _RELATIVE_TIE * q:
            continue
        fraction = Fraction(float(value)).limit_denominator(LARGEST_DENOMINATOR)
        q = lcm(q, fraction.denominator)
        if abs(float(fraction) - value) > _RELATIVE_TIE or q > LARGEST_DENOMINATOR:
            return None
    return np.rint(differences * q).astype(np.int64)


def lattice_p_value(steps: IntArray) -> float:
    """Exact two-sided p of whole-number differences, by convolving their distributions.

    With X = the sum of |d| over the differences whose sign comes out positive, the total is
    2X - S. X is built one magnitude at a time; m equal magnitudes add a binomial.
    """
    magnitudes, counts = np.unique(np.abs(steps), return_counts=True)
    shared = int(np.gcd.reduce(magnitudes))
    magnitudes = magnitudes // shared
    total = int(magnitudes @ counts)
    observed = abs(int(steps.sum())) // shared
    table = np.zeros(total + 1)
    table[0], reach = 1.0, 0
    for magnitude, count in zip(magnitudes.tolist(), counts.tolist(), strict=True):
        added = np.zeros(total + 1)
        for heads, weight in enumerate(_fair_coins(count).tolist()):
            start = heads * magnitude
            added[start : start + reach + 1] += weight * table[: reach + 1]
        reach += magnitude * count
        table = added
    if observed == 0:
        return 1.0
    tail = table[: (total - observed) // 2 + 1].sum()
    return float(np.clip(2 * tail, np.finfo(np.float64).tiny, 1.0))


def sampled_p_values(differences: FloatArray, n_resamples: int, seed: int) -> FloatArray:
    """Monte Carlo sign-flip p-values of many comparisons with equally many items.

    (count + 1) / (draws + 1), which keeps the test valid and never 0: Phipson and Smyth
    (2010), Statistical Applications in Genetics and Molecular Biology 9:39. Totals within
    a relative 1e-9 of the observed one count as ties.

    Args:
        differences: One column per comparison, one row per item.
        n_resamples: Sign patterns to draw; shared by the columns.
        seed: With the number of rows, it fixes the patterns.
    """
    n, columns = differences.shape
    observed = np.abs(differences.sum(axis=0))
    bar = observed - _RELATIVE_TIE * np.abs(differences).sum(axis=0)
    rng = np.random.default_rng([seed, n])
    extreme = np.zeros(columns, np.int64)
    for start in range(0, n_resamples, 1000):
        rows = min(1000, n_resamples - start)
        signs = rng.integers(0, 2, (rows, n), dtype=np.int8).astype(np.float64)
        totals = (2 * signs - 1) @ differences
        extreme += (np.abs(totals) >= bar).sum(axis=0)
    return floats((extreme + 1) / (n_resamples + 1))


def _exact(d: FloatArray) -> SignFlip | None:
    if not len(d):
        return SignFlip(1.0, exact=True)
    steps = lattice(d)
    if steps is not None and float(np.abs(steps).sum()) * len(steps) <= LARGEST_TABLE:
        return SignFlip(lattice_p_value(steps), exact=True)
    if len(d) <= ENUMERATED:
        return SignFlip(_enumerate(d), exact=True)
    return None


def _enumerate(differences: FloatArray) -> float:
    """Share of all 2^n patterns at least as extreme; by symmetry the first sign is fixed."""
    totals = differences[:1]
    for value in differences[1:]:
        totals = np.concatenate((totals - value, totals + value))
    bar = abs(differences.sum()) - _RELATIVE_TIE * np.abs(differences).sum()
    return float(np.mean(np.abs(totals) >= bar))


def _fair_coins(count: int) -> FloatArray:
    """Probabilities of 0..count heads, accurate in the tails."""
    heads = np.arange(count + 1)
    log = -betaln(heads + 1, count - heads + 1) - np.log1p(count) - count * np.log(2)
    return np.asarray(np.exp(log))
