"""Averages of averages: each slice counts the same, however many items it has.

    macro_average(aggregate(table, ("model_id", "metric_id", "slice_id")))

Micro and macro means answer different questions and are reported apart; so do the
differences of two models (`macro_difference`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from themis.results.aggregate import AggregateRow
from themis.results.compare import PairedRow, judge_difference
from themis.results.moments import LEAST, known
from themis.statistics.arrays import FloatArray
from themis.statistics.means import macro_mean, t_interval, t_p_value

_ABOUT_ONE_PAIRING = {"low_information", "no_pairs"}
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
    mean, error = macro_mean(means, stderr) if scored else (np.nan, np.nan)
    freedom = _satterthwaite(stderr, df)
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


def macro_difference(rows: Sequence[PairedRow]) -> PairedRow:
    """Combine the comparisons of two arms in each slice, each slice with equal weight.

    The mean difference has the standard error sqrt(sum of se²) / slices and Satterthwaite's
    degrees of freedom, as in `macro_average`; a slice of 0/1 scores brings the error inside
    its Bonett-Price interval. Slices without pairs are left out and flagged. There is no
    test where some slice's error is not known. p is not adjusted.

    Args:
        rows: From `paired_compare`, one per slice, of one pair of arms and one metric, with
            intervals of their own level and without a margin.
    """
    paired = [row for row in rows if row.pair_count]
    first = rows[0]
    delta, error = np.nan, np.nan
    stderr, df = _column(paired, "stderr"), _column(paired, "df")
    if paired:
        delta, error = macro_mean(_column(paired, "delta_mean"), stderr)
    freedom = _satterthwaite(stderr, np.where(np.isfinite(stderr) & np.isnan(df), np.inf, df))
    statistic = delta / error if error > 0 else np.nan
    p = float(t_p_value(statistic, freedom, first.alternative))
    ends = t_interval(delta, error, freedom, first.ci_level)
    sides = 2 if first.alternative == "two-sided" else 1
    detectable = (ndtri(1 - (1 - first.ci_level) / sides) + ndtri(first.power)) * error
    found = known(np.array([
        delta, error, statistic, freedom, p, float(ends.lower), float(ends.upper), detectable,
    ]))  # fmt: skip
    flags = {flag for row in paired for flag in row.flags} - _ABOUT_ONE_PAIRING
    if len(paired) < len(rows):
        flags.add("slice_without_scores")
    method = "none" if found[4] is None else "stratified_t"
    return replace(
        first,
        keys={},
        pair_count=sum(row.pair_count for row in rows),
        baseline_mean=_mean(paired, "baseline_mean"),
        treatment_mean=_mean(paired, "treatment_mean"),
        delta_mean=found[0],
        stderr=found[1],
        statistic=found[2],
        df=found[3],
        p_value=found[4],
        adjusted_p_value=found[4],
        family_size=int(found[4] is not None),
        ci_lower=found[5],
        ci_upper=found[6],
        method=method,
        test=method,
        ci_method=method,
        wins=sum(row.wins for row in rows),
        losses=sum(row.losses for row in rows),
        ties=sum(row.ties for row in rows),
        cluster_count=None,
        effect_size=None,
        mde=found[7],
        unpaired_baseline=sum(row.unpaired_baseline for row in rows),
        unpaired_treatment=sum(row.unpaired_treatment for row in rows),
        n_planned=sum(row.n_planned for row in rows),
        delta_lower_bound=_mean(rows, "delta_lower_bound"),
        delta_upper_bound=_mean(rows, "delta_upper_bound"),
        verdict=judge_difference(first.direction, found[0], found[4], None, 1 - first.ci_level),
        flags=tuple(sorted(flags)),
    )


def _satterthwaite(stderr: FloatArray, df: FloatArray) -> float:
    """Degrees of freedom of a sum of independent errors; NaN where none varies."""
    total = float((stderr**2).sum())
    spread = float((stderr**4 / df).sum())
    if not total > 0:
        return float("nan")
    return total**2 / spread if spread else float("inf")


def _column(rows: Sequence[AggregateRow] | Sequence[PairedRow], name: str) -> FloatArray:
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _mean(rows: Sequence[AggregateRow] | Sequence[PairedRow], name: str) -> float | None:
    values = _column(rows, name)
    return known(np.array([values.mean()]))[0] if len(values) else None
