"""Intervals of what is not a mean: medians, quantiles, ratios, F1, corpus scores.

The percentile bootstrap over items, or over clusters of items. A statistic here takes the
rows and how often each was drawn, so a thousand resamples cost one call:

    >>> scores = np.arange(1.0, 41.0)[:, None]
    >>> bootstrap_interval(scores, quantile(0.5)).lower.item()
    14.5
    >>> answers = np.array([[1.0, 200.0], [0.0, 300.0], [1.0, 100.0]] * 20)
    >>> lower, upper = bootstrap_interval(answers, of_sums(lambda s: s[:, 1] / s[:, 0]))
    >>> print(f"tokens per right answer: {lower:.0f} to {upper:.0f}")
    tokens per right answer: 230 to 403

For the difference of two arms, put both into one row and subtract inside the statistic:
then both arms see the same resampled items. There is no test; 0 outside the interval is
what it has to say.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from themis.statistics.arrays import FloatArray, IntArray, Interval, floats
from themis.statistics.resampling import percentile_interval, resample

Statistic: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]
"""Takes rows (n, columns) and counts (resamples, n); gives one number per resample."""


def quantile(q: float, column: int = 0) -> Statistic:
    """Make the statistic "the q-quantile of a column"; 0.5 is the median.

    Source: definition 7 of R. J. Hyndman and Y. Fan (1996), The American Statistician
    50:361-365, which is numpy's default.

    Raises:
        ValueError: If q is not between 0 and 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"a quantile lies between 0 and 1, not {q}")

    def statistic(rows: FloatArray, counts: FloatArray) -> FloatArray:
        order = np.argsort(rows[:, column], kind="stable")
        values = rows[order, column]
        reached = np.cumsum(counts[:, order], axis=1)
        place = (reached[:, -1] - 1) * q
        below = _at(values, reached, np.floor(place))
        above = _at(values, reached, np.ceil(place))
        return np.asarray(below + (place - np.floor(place)) * (above - below))

    return statistic


def of_sums(function: Callable[[FloatArray], FloatArray]) -> Statistic:
    """Make a statistic of column sums: a ratio, F1 over a corpus, BLEU from its n-gram counts.

    The ratio of sums is the ratio estimator of W. G. Cochran (1977), Sampling Techniques, 3rd
    ed., ch. 6.

    Args:
        function: Takes sums as (resamples, columns); gives one number per resample.
    """
    return lambda rows, counts: function(counts @ rows)


def bootstrap_interval(
    rows: npt.ArrayLike,
    statistic: Statistic,
    *,
    clusters: npt.ArrayLike | None = None,
    level: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Give the percentile interval of any statistic of rows.

    Source: B. Efron (1979), Annals of Statistics 7:1-26; whole clusters are drawn where they
    are given (A. C. Davison and D. V. Hinkley 1997, Bootstrap Methods, sec. 3.8). The order of
    the rows does not matter. It promises less than it says when items (or clusters) are few:
    for a mean at n = 10 it covers .90 where .95 is asked for.

    Args:
        rows: One row per item, (n, columns); a plain list is one column.
        statistic: From `quantile` or `of_sums`, or a function of your own.
        clusters: A number per row that says which rows belong together.
        level: The coverage aimed at.
        n_resamples: Resamples to draw, unless fewer than that exist.
        seed: With the number of items (or clusters), it fixes the draws.

    Returns:
        The interval; NaN below two items (or clusters), and where some resample has no
        finite value (as a ratio over nothing).
    """
    table = floats(rows)
    table = table[:, None] if table.ndim == 1 else table
    table, member = _in_order(table, clusters)
    parts = int(member.max(initial=-1)) + 1
    if parts < 2:  # noqa: PLR2004 -- one part has no spread
        return Interval(np.array(np.nan), np.array(np.nan))
    draws = resample(
        lambda counts: statistic(table, counts[:, member])[:, None],
        parts, n_resamples=n_resamples, seed=seed, width=len(table),
    )  # fmt: skip
    if not np.isfinite(draws.means).all():
        return Interval(np.array(np.nan), np.array(np.nan))
    lower, upper = percentile_interval(draws, level)
    return Interval(lower[0], upper[0])


def _at(values: FloatArray, reached: FloatArray, place: FloatArray) -> FloatArray:
    """The value at a place (from 0) of each resample, put in order."""
    return np.asarray(values[(reached <= place[:, None]).sum(axis=1)])


def _in_order(table: FloatArray, clusters: npt.ArrayLike | None) -> tuple[FloatArray, IntArray]:
    """Sort rows by content, and number their clusters by first row; items are their own."""
    by_content = np.lexsort(table.T[::-1])
    table = table[by_content]
    if clusters is None:
        return table, np.arange(len(table))
    member = np.unique(np.asarray(clusters), return_inverse=True)[1][by_content]
    sums = [np.bincount(member, column)[member] for column in (np.ones(len(table)), *table.T)]
    order = np.lexsort([*sums[::-1], *table.T[::-1]])
    _, first, number = np.unique(member[order], return_index=True, return_inverse=True)
    return table[order], np.argsort(np.argsort(first))[number]
