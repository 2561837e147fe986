"""Bootstrap intervals, for many comparisons at once.

Asked for, never the default: on bounded scores the percentile interval covers .90 where .95
is promised at n = 10, and BCa .88; the t interval holds its level there.

Comparisons with equally many items share one matrix of resampling counts, so a thousand of
them cost one matrix product. Values are put in an order of their own first, so that an
interval follows from the seed and the values alone: not from their order, nor from what
else is compared; and swapping the arms mirrors it exactly. Samples so small that all their
resamples can be listed (n up to 8 at the default) are enumerated: the ideal bootstrap,
without chance.

    >>> draws = bootstrap_means(np.array([[0.0], [0.5], [1.0]]), n_resamples=9999)
    >>> len(draws.weights), float(percentile_interval(draws).upper[0])
    (10, 1.0)
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb, factorial
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from themis.statistics.arrays import FloatArray, Interval, chunks


@dataclass(frozen=True, slots=True)
class Resamples:
    """What a statistic (here mostly the mean) became on resampled data.

    Attributes:
        means: One row per resample, one column per comparison.
        weights: Probability of each row; sums to 1.
    """

    means: FloatArray
    weights: FloatArray

    @property
    def stderr(self) -> FloatArray:
        """Standard deviation of the resampled means, per column."""
        centre = self.weights @ self.means
        return np.asarray(np.sqrt(self.weights @ (self.means - centre) ** 2))


def resample(
    statistic: Callable[[FloatArray], FloatArray],
    n: int,
    *,
    n_resamples: int = 9999,
    seed: int = 0,
    width: int = 0,
) -> Resamples:
    """Resample n rows with replacement and take any statistic of each resample.

    Source: B. Efron (1979), Annals of Statistics 7:1-26. At most about 32 MB of counts are
    held at once.

    Args:
        statistic: Takes how often each row was drawn, as (resamples, n), and gives
            (resamples, columns).
        n: Number of rows.
        n_resamples: Resamples to draw, unless fewer than that exist.
        seed: With n, it fixes the draws.
        width: Numbers per resample that the statistic holds, where more than n.
    """
    if comb(2 * n - 1, n) <= n_resamples:
        counts, weights = _every_resample(n)
        return Resamples(statistic(counts), weights)
    rng = np.random.default_rng([seed, n])
    parts = []
    for rows in chunks(n_resamples, max(n, width)):
        drawn = rng.integers(0, n, (rows, n), dtype=np.int64)
        drawn += (np.arange(rows) * n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(statistic(times.astype(np.float64)))
    return Resamples(np.concatenate(parts), np.full(n_resamples, 1 / n_resamples))


def bootstrap_means(
    sums: FloatArray, sizes: FloatArray | None = None, *, n_resamples: int = 9999, seed: int = 0
) -> Resamples:
    """Resample rows with replacement and take the mean of each column.

    Source: B. Efron (1979), Annals of Statistics 7:1-26.

    Args:
        sums: One row per item, one column per comparison; or sums per cluster.
        sizes: Items per cluster, same shape; None when each row is one item.
        n_resamples: Resamples to draw, unless fewer than that exist.
        seed: With the number of rows, it fixes the draws, so a comparison's answer does
            not depend on what else is compared.
    """
    return resample(
        lambda counts: _means(counts, sums, sizes),
        len(sums), n_resamples=n_resamples, seed=seed,
    )  # fmt: skip


def percentile_interval(draws: Resamples, level: float = 0.95) -> Interval:
    """The quantiles of the resampled means (Efron and Tibshirani 1993, ch. 13)."""
    tails = np.full(draws.means.shape[1], (1 - level) / 2)
    ordered = _Ordered.of(draws)
    return Interval(ordered.quantile(tails), ordered.quantile(1 - tails))


def bca_interval(
    draws: Resamples, observed: FloatArray, acceleration: FloatArray, level: float = 0.95
) -> Interval:
    """Bias-corrected and accelerated interval.

    Source: B. Efron (1987), JASA 82:171-185. Resamples equal to the observed mean count one
    half towards the bias.

    Args:
        draws: The resampled means.
        observed: The means of the data, one per column.
        acceleration: From `jackknife_acceleration`, one per column.
        level: The coverage aimed at.
    """
    z0 = bias_correction(draws, observed)
    ordered = _Ordered.of(draws)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + ndtri(tail)
        ends.append(ordered.quantile(ndtr(z0 + z / (1 - acceleration * z))))
    return Interval(*ends)


def interval_of_means(
    sums: FloatArray,
    sizes: FloatArray,
    *,
    method: Literal["bootstrap", "bca"],
    level: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Resample and give the percentile or the BCa interval of each column.

    Sources: Efron (1979) and (1987), as in `percentile_interval` and `bca_interval`.

    Args:
        sums: One row per item or cluster, one column per comparison.
        sizes: Items in each; all 1 where rows are items.
        method: "bootstrap" for the percentile interval, "bca" for Efron's.
        level: The coverage aimed at.
        n_resamples: Resamples to draw.
        seed: Seed of the draws.
    """
    sums, sizes, sign = _in_order(sums, sizes)
    draws = bootstrap_means(
        sums, None if (sizes == 1).all() else sizes, n_resamples=n_resamples, seed=seed
    )
    if method == "bootstrap":
        return _mirrored(percentile_interval(draws, level), sign)
    observed = sums.sum(axis=0) / sizes.sum(axis=0)
    # Leaving out a cluster moves the ratio by about its residual sum, so that is what skews.
    acceleration = jackknife_acceleration(sums - sizes * observed)
    return _mirrored(bca_interval(draws, observed, acceleration, level), sign)


def bias_correction(draws: Resamples, observed: FloatArray) -> FloatArray:
    """Efron's z0: the normal quantile of the share of resamples below the observed mean.

    Source: B. Efron (1987), JASA 82:171-185.
    """
    slack = 1e-9 * np.maximum(1.0, np.abs(observed))
    below = draws.weights @ (draws.means < observed - slack)
    tied = draws.weights @ (np.abs(draws.means - observed) <= slack)
    return np.asarray(ndtri(np.clip(below + tied / 2, 1e-12, 1 - 1e-12)))


def jackknife_acceleration(values: FloatArray) -> FloatArray:
    """Efron's acceleration of a mean, from leaving out one row at a time, per column.

    Source: B. Efron (1987), JASA 82:171-185. For a mean the left-out estimates differ by
    (x - mean) / (n - 1), so the jackknife reduces to sum c³ / (6 (sum c²)^1.5), c = x - mean.
    """
    centred = values - values.mean(axis=0)
    spread = (centred**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, (centred**3).sum(axis=0) / (6 * spread**1.5), 0.0)


@dataclass(frozen=True, slots=True)
class _Ordered:
    """Resampled means in order, with the probability of not exceeding each."""

    means: FloatArray
    cumulative: FloatArray

    @classmethod
    def of(cls, draws: Resamples) -> "_Ordered":
        if np.all(draws.weights == draws.weights[0]):
            rank = np.arange(1, len(draws.weights) + 1) / len(draws.weights)
            return cls(np.sort(draws.means, axis=0), rank[:, None])
        order = np.argsort(draws.means, axis=0, kind="stable")
        return cls(
            np.take_along_axis(draws.means, order, axis=0),
            np.cumsum(draws.weights[order], axis=0),
        )

    def quantile(self, q: FloatArray) -> FloatArray:
        """The smallest mean whose cumulative probability reaches q, per column."""
        reached = (self.cumulative < q - 1e-12).sum(axis=0)
        place = np.minimum(reached, len(self.means) - 1)
        return np.asarray(np.take_along_axis(self.means, place[None, :], axis=0)[0])


def _in_order(sums: FloatArray, sizes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Give each column an order, and a sign, that its rows' order and the arms' do not change.

    Of the column and its negative the one is taken whose sorted values come later.
    """
    upwards = np.sort(sums, axis=0)
    lean = upwards + upwards[::-1]
    first = np.take_along_axis(lean, (lean != 0).argmax(axis=0)[None, :], axis=0)[0]
    sign = np.where(first < 0, -1.0, 1.0)
    sums = sums * sign
    order = np.lexsort((sizes, sums), axis=0)
    return (
        np.take_along_axis(sums, order, axis=0),
        np.take_along_axis(sizes, order, axis=0),
        sign,
    )


def _mirrored(ends: Interval, sign: FloatArray) -> Interval:
    lower, upper = ends
    return Interval(np.where(sign < 0, -upper, lower), np.where(sign < 0, -lower, upper))


def _means(counts: FloatArray, sums: FloatArray, sizes: FloatArray | None) -> FloatArray:
    if sizes is None:
        return np.asarray(counts @ sums / len(sums))
    return np.asarray((counts @ sums) / (counts @ sizes))


def _every_resample(n: int) -> tuple[FloatArray, FloatArray]:
    """All ways to draw n of n with replacement, as counts, with their probabilities."""
    counts, weights = [], []
    for bars in combinations(range(2 * n - 1), n - 1):
        edges = (-1, *bars, 2 * n - 1)
        row = [right - left - 1 for left, right in pairwise(edges)]
        ways = factorial(n)
        for count in row:
            ways //= factorial(count)
        counts.append(row)
        weights.append(ways / n**n)
    return np.array(counts, np.float64), np.array(weights)
