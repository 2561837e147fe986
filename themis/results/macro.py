"""Averages of averages: each slice counts the same, however many items it has.

    macro_average(aggregate(table, ("model_id", "metric_id", "slice_id")))

Micro and macro means answer different questions and are reported apart.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from themis.results.aggregate import AggregateRow
from themis.results.moments import LEAST, known
from themis.statistics.arrays import FloatArray
from themis.statistics.means import macro_mean, t_interval

_ABOUT_ONE_SLICE = {"too_few_items", "degenerate", "no_scores"}


def macro_average(rows: Sequence[AggregateRow], over: str = "slice_id") -> list[AggregateRow]:
    """Combine rows that differ only in one key, each with equal weight.

    The standard error takes the slices as fixed strata: sqrt(sum of se²) / slices. Its
    degrees of freedom are Satterthwaite's (F. E. Satterthwaite 1946, Biometrics Bulletin
    2:110-114). A slice without scores is left out and flagged; a slice whose error is not
    known leaves the interval out.

    Args:
        rows: From `aggregate`, with `over` among the keys.
        over: The key to average over.

    Raises:
        ValueError: If a row lacks that key.
    """
    found: dict[tuple[tuple[str, str | None], ...], list[AggregateRow]] = {}
    for row in rows:
        if over not in row.keys:
            raise ValueError(f"rows are not grouped by {over!r}")
        rest = tuple((name, value) for name, value in row.keys.items() if name != over)
        found.setdefault(rest, []).append(row)
    return [_combine(dict(rest), parts) for rest, parts in found.items()]


def _combine(keys: Mapping[str, str | None], parts: Sequence[AggregateRow]) -> AggregateRow:
    scored = [row for row in parts if row.mean is not None]
    level = parts[0].ci_level
    means = _column(scored, "mean")
    stderr, df = _column(scored, "stderr"), _column(scored, "df")
    mean = float("nan")
    error, freedom = float("nan"), float("nan")
    if scored:
        mean, error = macro_mean(means, stderr)
        spread = (stderr**4 / df).sum()
        freedom = float((stderr**2).sum() ** 2 / spread) if spread > 0 else float("nan")
    ends = t_interval(mean, error, freedom, level)
    flags = {flag for row in scored for flag in row.flags} - _ABOUT_ONE_SLICE
    if len(scored) < len(parts):
        flags.add("slice_without_scores")
    numbers = known(np.array([mean, error, freedom, float(ends.lower), float(ends.upper)]))
    return AggregateRow(
        keys=keys,
        estimator=parts[0].estimator,
        mean=numbers[0],
        stderr=numbers[1],
        df=numbers[2],
        ci_lower=numbers[3],
        ci_upper=numbers[4],
        ci_level=level,
        method="none" if numbers[3] is None else "stratified_t",
        n_planned=sum(row.n_planned for row in parts),
        n_scored=sum(row.n_scored for row in parts),
        n_failed=sum(row.n_failed for row in parts),
        n_missing=sum(row.n_missing for row in parts),
        n_unreadable=sum(row.n_unreadable for row in parts),
        item_count=sum(row.item_count for row in parts),
        cluster_count=None,
        mean_failed_as_zero=_mean(parts, "mean_failed_as_zero"),
        bound_lower=_mean(parts, "bound_lower"),
        bound_upper=_mean(parts, "bound_upper"),
        flags=tuple(sorted(flags | ({"few_slices"} if len(parts) < LEAST else set()))),
    )


def _column(rows: Sequence[AggregateRow], name: str) -> FloatArray:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _mean(rows: Sequence[AggregateRow], name: str) -> float | None:
    values = _column(rows, name)
    return known(np.array([values.mean()]))[0]
