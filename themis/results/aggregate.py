"""Means with intervals, with everything that was planned in view.

The point estimate is the mean over the items that have a score (an answer that could not be
read scores 0 by rule). What is absent is never silently left out: each row counts planned,
scored, failed and missing, gives the mean with failures as 0, and bounds the mean by
scoring everything absent 0 and then 1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from themis.records.metric_scale import MetricScale
from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.grouping import Groups, group_rows, read_key
from themis.results.moments import (
    INTERVAL_METHODS,
    IntervalMethod,
    Moments,
    group_moments,
    known,
    mean_intervals,
)
from themis.results.units import (
    Cells,
    CellSums,
    average_cells,
    cluster_units,
    is_failed,
    lay_cells,
    sum_cells,
)
from themis.statistics import repeats
from themis.statistics.arrays import FloatArray, sum_by

_ESTIMATORS = {
    "pass@": repeats.pass_at_k,
    "pass^": repeats.pass_hat_k,
    "maj@": repeats.maj_at_k,
}
_ESTIMATOR = re.compile(rf"(?P<form>{'|'.join(map(re.escape, _ESTIMATORS))})(?P<k>[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """The mean of one group, and how far it can be trusted.

    Attributes:
        keys: The group: key name to value.
        estimator: What was averaged: "mean", or a form of `pass@k`.
        mean: Mean over the items that have a score; None when none has.
        stderr: Its standard error; None when it cannot be told (fewer than two items).
        df: Degrees of freedom of the standard error.
        ci_lower: Lower end of the interval; None when there is none.
        ci_upper: Upper end.
        ci_level: The coverage aimed at.
        method: How the interval was made; "none" when there is none.
        n_planned: Scores planned.
        n_scored: Scores reached (unreadable answers count: they score 0).
        n_failed: Scores ruled out by a failed generation or a failed metric.
        n_missing: Scores that have not come yet.
        n_unreadable: Of those scored, the ones whose answer could not be read.
        item_count: Items with a score; what the interval treats as independent.
        cluster_count: Clusters among them, when clustered.
        mean_failed_as_zero: The mean with every failure scored 0 and missing ones left out;
            None where 0 is not the worst score.
        bound_lower: The mean if all absent scores were 0; None outside the 0-1 range.
        bound_upper: The mean if all absent scores were 1.
        flags: What to be careful about.
    """

    keys: Mapping[str, str | None]
    estimator: str
    mean: float | None
    stderr: float | None
    df: float | None
    ci_lower: float | None
    ci_upper: float | None
    ci_level: float
    method: str
    n_planned: int
    n_scored: int
    n_failed: int
    n_missing: int
    n_unreadable: int
    item_count: int
    cluster_count: int | None
    mean_failed_as_zero: float | None
    bound_lower: float | None
    bound_upper: float | None
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Flatten to JSON values, the keys first."""
        fields = asdict(self)
        keys = fields.pop("keys")
        return {**keys, **fields, "flags": list(self.flags)}


def aggregate(  # noqa: PLR0913 -- each is a choice that the reader of a mean makes
    table: ScoreTable,
    group_by: Sequence[str] = ("model_id", "slice_id", "metric_id"),
    *,
    metric_id: str | None = None,
    evaluation: str | None = None,
    ci: IntervalMethod = "auto",
    ci_level: float = 0.95,
    cluster_by: str | None = None,
    estimator: str = "mean",
    n_resamples: int = 9999,
    seed: int = 0,
) -> list[AggregateRow]:
    """Average scores per group.

    Different metrics are never averaged together, nor different evaluations: when the
    chosen rows hold several, `metric_id` or `evaluation` joins the keys by itself.

    Args:
        table: The scores.
        group_by: Keys: model_id, slice_id, prompt_variant_id, params, metric_id,
            evaluation, item_id, status, or any dimension of the table.
        metric_id: Only this metric.
        evaluation: Only this evaluation (score name).
        ci: The interval. "auto": CR2 with Bell-McCaffrey df when clustered; else Wilson
            where every item scored 0 or 1; else t. No interval where scores do not vary.
        ci_level: Its coverage.
        cluster_by: A key whose value groups items that resemble each other.
        estimator: "mean", or "pass@k", "pass^k", "maj@k" for a number k, over the samples
            of a cell; these need scores of 0 and 1.
        n_resamples: Draws of the bootstrap methods.
        seed: Seed of those draws.

    Returns:
        One row per group, None first, then by the text of the keys.

    Raises:
        ValueError: If a key, metric or method is unknown or does not fit the scores.
    """
    if ci not in INTERVAL_METHODS:
        raise ValueError(f"unknown interval {ci!r}; known: {', '.join(INTERVAL_METHODS)}")
    table = choose(table, metric_id, evaluation)
    names = (*group_by, *_held_apart(table, group_by))
    groups = group_rows(table, names)
    # Models that share a group are averaged, each after its own samples.
    apart = [] if "model_id" in names else [read_key(table, "model_id")]
    cells = lay_cells(table, groups, apart)
    sums = sum_cells(table, cells)
    count = len(groups.keys)
    moments = group_moments(
        average_cells(_estimate(sums, estimator), cells), cells.group, count,
        clusters=None if cluster_by is None else cluster_units(read_key(table, cluster_by), cells),
    )  # fmt: skip
    intervals = mean_intervals(moments, ci, ci_level, n_resamples, seed)
    columns: dict[str, list[Any]] = {
        "keys": [dict(zip(names, values, strict=True)) for values in groups.keys],
        "mean": known(moments.mean),
        "stderr": known(intervals.stderr),
        "df": known(intervals.df),
        "ci_lower": known(intervals.lower),
        "ci_upper": known(intervals.upper),
        "method": intervals.method,
        "item_count": moments.n.astype(int).tolist(),
        "cluster_count": moments.cluster_counts,
        "flags": [
            (*flags, *(("unequal_repeats",) if repeats_differ else ()))
            for flags, repeats_differ in zip(
                intervals.flags, _uneven(sums, cells, count), strict=True
            )
        ],
        **_count_rows(table, groups),
        **(
            _bounds(sums, cells, moments, _scales_of(table, groups))
            if estimator == "mean"
            else _no_bounds(count)
        ),
    }
    return [
        AggregateRow(estimator=estimator, ci_level=ci_level, **dict(zip(columns, row, strict=True)))
        for row in zip(*columns.values(), strict=True)
    ]


def choose(table: ScoreTable, metric_id: str | None, evaluation: str | None) -> ScoreTable:
    """Keep the rows of one metric and one evaluation.

    Raises:
        ValueError: If the table has no such metric or evaluation.
    """
    for name, wanted in (("metric_id", metric_id), ("evaluation", evaluation)):
        if wanted is None:
            continue
        key = read_key(table, name)
        if wanted not in key.labels:
            known = ", ".join(str(label) for label in key.labels)
            raise ValueError(f"no {name} {wanted!r} in these results; known: {known}")
        table = table.where(key.codes == key.labels.index(wanted))
    return table


def _held_apart(table: ScoreTable, group_by: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        name
        for name, codes in (("metric_id", table.metric), ("evaluation", table.evaluation))
        if name not in group_by and len(codes) and codes.min() != codes.max()
    )


def _estimate(sums: CellSums, estimator: str) -> FloatArray:
    """Give the estimator's value for each cell; NaN where it has none."""
    if estimator == "mean":
        return sums.mean
    found = _ESTIMATOR.fullmatch(estimator)
    if found is None:
        known_names = ", ".join(f"{name}k" for name in _ESTIMATORS)
        raise ValueError(f"unknown estimator {estimator!r}; known: mean, {known_names}")
    function, k = _ESTIMATORS[found["form"]], int(found["k"])
    whole = np.rint(sums.total)
    if not np.array_equal(whole, sums.total) or (whole < 0).any() or (whole > sums.scored).any():
        raise ValueError(f"{estimator} needs scores of 0 and 1")
    return function(sums.scored, whole, k)


def _count_rows(table: ScoreTable, groups: Groups) -> dict[str, list[int]]:
    """Count the rows of each group by what became of them."""
    count, states = len(groups.keys), len(ScoreStatus)
    flat = np.bincount(groups.of_row * states + table.status, minlength=count * states)
    per_status = flat.reshape(count, states)
    planned = per_status.sum(axis=1)
    unreadable = per_status[:, ScoreStatus.EXTRACTION_FAILED]
    scored = per_status[:, ScoreStatus.SCORED] + unreadable
    failed = per_status[:, is_failed(np.arange(states))].sum(axis=1)
    return {
        "n_planned": planned.tolist(),
        "n_scored": scored.tolist(),
        "n_failed": failed.tolist(),
        "n_missing": (planned - scored - failed).tolist(),
        "n_unreadable": unreadable.tolist(),
    }


def _scales_of(table: ScoreTable, groups: Groups) -> list[MetricScale]:
    """Return the scale of each group's metric; a group holds one metric only."""
    metric = np.zeros(len(groups.keys), np.int64)
    metric[groups.of_row] = table.metric
    names = [table.metrics[code] for code in metric.tolist()] if table.metrics else []
    return [table.scales.get(name, MetricScale()) for name in names]


def _bounds(
    sums: CellSums, cells: Cells, moments: Moments, scales: Sequence[MetricScale]
) -> dict[str, list[float | None]]:
    """Give the means that count what is absent, where its scores could be 0 or 1 at the most."""
    unit = np.array([scale.unit for scale in scales], np.bool_)
    worst_is_zero = unit & np.array([scale.direction == "higher" for scale in scales], np.bool_)

    def mean(cell_values: FloatArray) -> FloatArray:
        values = average_cells(cell_values, cells)
        has = np.isfinite(values)
        total = sum_by(cells.group, np.where(has, values, 0.0), moments.groups)
        with np.errstate(invalid="ignore"):
            return total / sum_by(cells.group, has, moments.groups)

    def bound(cell_values: FloatArray) -> list[float | None]:
        return known(np.where(moments.between_0_and_1 & unit, mean(cell_values), np.nan))

    return {
        "mean_failed_as_zero": known(np.where(worst_is_zero, mean(sums.failed_as_zero), np.nan)),
        "bound_lower": bound(sums.lowest),
        "bound_upper": bound(sums.highest),
    }


def _no_bounds(count: int) -> dict[str, list[float | None]]:
    nothing: list[float | None] = [None] * count
    return {"mean_failed_as_zero": nothing, "bound_lower": nothing, "bound_upper": nothing}


def _uneven(sums: CellSums, cells: Cells, groups: int) -> list[bool]:
    """Whether the cells of a group with any score have different numbers of scores."""
    group = cells.group[cells.unit]
    has = sums.scored > 0
    most = np.zeros(groups)
    np.maximum.at(most, group[has], sums.scored[has])
    short = has & (sums.scored < most[group])
    return list((sum_by(group, short, groups) > 0).tolist())
