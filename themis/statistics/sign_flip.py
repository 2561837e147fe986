"""The sign-flip test: if the models are equal, each difference could have either sign.

The p-value is the share of all sign patterns whose total is at least as far from 0 as the
one observed (one-sided: at least as far on that side). When the differences are multiples
of some 1/q (0/1 scores, Likert scales, averages of a fixed number of repeats) the whole
distribution follows from a convolution, exact for thousands of items; up to 20 other
differences are enumerated; beyond that a seeded sample of patterns answers.

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

from themis.statistics.arrays import Alternative, FloatArray, IntArray, chunks, floats

LARGEST_DENOMINATOR = 1000
LARGEST_TABLE = 400_000_000
"""Additions the exact convolution may cost; about half a second."""

ENUMERATED = 20
_RELATIVE_TIE = 1e-9


class SignFlip(NamedTuple):
    """The outcome of a sign-flip test.

    Attributes:
        p_value: Never 0.
        exact: Whether every sign pattern was counted; else patterns were sampled.
    """

    p_value: float
    exact: bool


def sign_flip(
    differences: npt.ArrayLike,
    alternative: Alternative = "two-sided",
    *,
    n_resamples: int = 9999,
    seed: int = 0,
) -> SignFlip:
    """Test whether paired differences are symmetric around 0.

    Source: R. A. Fisher (1935), The Design of Experiments, ch. III (Darwin's maize: 863 of
    32768 patterns in one tail). On 0/1 data it is the exact McNemar test. For clusters,
    pass one summed difference per cluster: signs then flip per cluster.

    Args:
        differences: Treatment minus baseline, one per item (or per cluster).
        alternative: "greater" looks for a better treatment, "less" for a worse one.
        n_resamples: Sign patterns drawn where neither exact way fits.
        seed: Seed of those draws.
    """
    return sign_flips([floats(differences)], alternative, n_resamples=n_resamples, seed=seed)[0]


def sign_flips(
    comparisons: Sequence[FloatArray],
    alternative: Alternative = "two-sided",
    *,
    n_resamples: int = 9999,
    seed: int = 0,
) -> list[SignFlip]:
    """`sign_flip` of many comparisons; those of equal length share their sampled patterns."""
    results: list[SignFlip | None] = []
    waiting: dict[int, list[int]] = {}
    for place, differences in enumerate(comparisons):
        exact = _exact(differences[differences != 0], alternative)
        results.append(exact)
        if exact is None:
            waiting.setdefault(len(differences), []).append(place)
    for places in waiting.values():
        stacked = np.column_stack([comparisons[place] for place in places])
        found = sampled_p_values(stacked, n_resamples, seed, alternative)
        for place, p in zip(places, found, strict=True):
            results[place] = SignFlip(float(p), exact=False)
    return [result for result in results if result is not None]


def lattice(differences: FloatArray) -> IntArray | None:
    """Write differences as whole multiples of one 1/q, q at most 1000, for `lattice_p_value`.

    None where they are no such multiples.

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


def lattice_p_value(steps: IntArray, alternative: Alternative = "two-sided") -> float:
    """Exact p of whole-number differences, by convolving their distributions.

    With X = the sum of |d| over the differences whose sign comes out positive, the total is
    2X - S. X is built one magnitude at a time; m equal magnitudes add a binomial. Source of
    the idea: M. Pagano and D. Tritchler (1983), JASA 78:435-440.
    """
    magnitudes, counts = np.unique(np.abs(steps), return_counts=True)
    shared = int(np.gcd.reduce(magnitudes))
    magnitudes = magnitudes // shared
    total = int(magnitudes @ counts)
    observed = int(steps.sum()) // shared
    observed = {"two-sided": abs(observed), "greater": observed, "less": -observed}[alternative]
    sides = 2 if alternative == "two-sided" else 1
    table = np.zeros(total + 1)
    table[0], reach = 1.0, 0
    for magnitude, count in zip(magnitudes.tolist(), counts.tolist(), strict=True):
        added = np.zeros(total + 1)
        for heads, weight in enumerate(_fair_coins(count).tolist()):
            start = heads * magnitude
            added[start : start + reach + 1] += weight * table[: reach + 1]
        reach += magnitude * count
        table = added
    if observed == 0 and sides == 2:  # noqa: PLR2004 -- both halves hold the middle
        return 1.0
    tail = table[: (total - observed) // 2 + 1].sum()
    return float(np.clip(sides * tail, np.finfo(np.float64).tiny, 1.0))


def sampled_p_values(
    differences: FloatArray, n_resamples: int, seed: int, alternative: Alternative = "two-sided"
) -> FloatArray:
    """Monte Carlo sign-flip p-values of many comparisons with equally many items.

    (count + 1) / (draws + 1), which keeps the test valid and never 0: Phipson and Smyth
    (2010), Statistical Applications in Genetics and Molecular Biology 9:39. Totals within
    a relative 1e-9 of the observed one count as ties. Magnitudes are taken in order of size,
    so the answer does not depend on the order of the items.

    Args:
        differences: One column per comparison, one row per item.
        n_resamples: Sign patterns to draw; shared by the columns.
        seed: With the number of rows, it fixes the patterns.
        alternative: Which side counts as evidence.
    """
    n, columns = differences.shape
    magnitudes = np.sort(np.abs(differences), axis=0)
    bar = _bar(differences.sum(axis=0), magnitudes.sum(axis=0), alternative)
    rng = np.random.default_rng([seed, n])
    extreme = np.zeros(columns, np.int64)
    for rows in chunks(n_resamples, n):
        signs = rng.integers(0, 2, (rows, n), dtype=np.int8).astype(np.float64)
        totals = (2 * signs - 1) @ magnitudes
        if alternative == "two-sided":
            totals = np.abs(totals)
        extreme += (totals >= bar).sum(axis=0)
    return floats((extreme + 1) / (n_resamples + 1))


def _bar(total: FloatArray, size: FloatArray, alternative: Alternative) -> FloatArray:
    """What the total of a pattern must reach to count, with room for rounding."""
    reached = {"two-sided": np.abs(total), "greater": total, "less": -total}[alternative]
    return np.asarray(reached - _RELATIVE_TIE * size)


def _exact(d: FloatArray, alternative: Alternative) -> SignFlip | None:
    if not len(d):
        return SignFlip(1.0, exact=True)
    steps = lattice(d)
    if steps is not None and float(np.abs(steps).sum()) * len(steps) <= LARGEST_TABLE:
        return SignFlip(lattice_p_value(steps, alternative), exact=True)
    if len(d) <= ENUMERATED:
        return SignFlip(_enumerate(d, alternative), exact=True)
    return None


def _enumerate(differences: FloatArray, alternative: Alternative) -> float:
    """Share of all 2^n patterns at least as extreme; by symmetry the first sign is fixed."""
    totals = differences[:1]
    for value in differences[1:]:
        totals = np.concatenate((totals - value, totals + value))
    bar = _bar(differences.sum(), np.abs(differences).sum(), alternative)
    if alternative == "two-sided":
        return float(np.mean(np.abs(totals) >= bar))
    # The patterns with the other first sign are these, negated.
    return float(np.mean(totals >= bar) + np.mean(-totals >= bar)) / 2


def _fair_coins(count: int) -> FloatArray:
    """Probabilities of 0..count heads, accurate in the tails."""
    heads = np.arange(count + 1)
    log = -betaln(heads + 1, count - heads + 1) - np.log1p(count) - count * np.log(2)
    return np.asarray(np.exp(log))
