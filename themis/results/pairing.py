"""Putting two arms (two models, or two prompts) side by side, item by item.

Only cells that both arms have are compared: the same item under the same prompt, params and
samples' average. Their differences are averaged per item, so an item counts once. What one
arm has and the other lacks is counted, never compared with nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from themis.records.score_table import ScoreTable
from themis.results.grouping import Groups, Key, number
from themis.results.moments import NO_SPREAD, ClusterSums
from themis.results.units import (
    Cells,
    CellSums,
    average_cells,
    cluster_units,
    lay_cells,
    sum_cells,
)
from themis.statistics.arrays import BoolArray, FloatArray, IntArray, sum_by


@dataclass(frozen=True, slots=True)
class PairSums:
    """Sums over the pairs of each comparison; one entry per (pair of arms, group).

    Everything the default statistics need. With `differences` (kept when asked) the
    resampling methods can run too.

    Attributes:
        n: Items compared.
        baseline: Sum of baseline scores.
        treatment: Sum of treatment scores.
        both: Sum of products; on 0/1 scores the items both got right.
        wins: Items where the treatment scored higher.
        losses: Items where the baseline scored higher.
        delta: Mean difference; NaN without pairs.
        squares: Sum of squared deviations of the differences from `delta`.
        constant: Whether all differences (or, clustered, their means per cluster) are the same.
        binary: Whether all scores are 0 or 1.
        unpaired_baseline: Items that only the baseline has a score for.
        unpaired_treatment: Items that only the treatment has a score for.
        planned: Items planned for either.
        lowest: Mean difference if absent scores went against the treatment; NaN where
            scores leave [0, 1].
        highest: Mean difference if they went for it.
        uneven: Whether the arms answered some items unequally often.
        clusters: Residuals per cluster (`group` is the comparison); None if not clustered.
        differences: The differences of each comparison; None unless kept.
    """

    n: FloatArray
    baseline: FloatArray
    treatment: FloatArray
    both: FloatArray
    wins: FloatArray
    losses: FloatArray
    delta: FloatArray
    squares: FloatArray
    constant: BoolArray
    binary: BoolArray
    unpaired_baseline: FloatArray
    unpaired_treatment: FloatArray
    planned: FloatArray
    lowest: FloatArray
    highest: FloatArray
    uneven: BoolArray
    clusters: ClusterSums | None
    differences: tuple[FloatArray, ...] | None


@dataclass(frozen=True, slots=True)
class UnitPairs:
    """One pair of arms over the units of a table.

    Attributes:
        baseline: Unit scores over the matched cells; NaN where there is no pair.
        treatment: The same for the treatment.
        only_baseline: Units with a baseline score and no pair.
        only_treatment: Units with a treatment score and no pair.
        uneven: Units whose matched cells were answered unequally often, or whose cells
            did not all match.
        lowest: Smallest difference that absent scores allow; planned units only.
        highest: Largest such difference.
        planned: Units planned for either arm.
    """

    baseline: FloatArray
    treatment: FloatArray
    only_baseline: BoolArray
    only_treatment: BoolArray
    uneven: BoolArray
    lowest: FloatArray
    highest: FloatArray
    planned: BoolArray


def match(baseline: CellSums, treatment: CellSums, cells: Cells) -> UnitPairs:
    """Pair two arms cell by cell and average the pairs per unit."""
    has_b, has_t = baseline.scored > 0, treatment.scored > 0
    matched = has_b & has_t
    mean_b = average_cells(baseline.mean, cells, matched)
    mean_t = average_cells(treatment.mean, cells, matched)
    planned_cells = (baseline.planned > 0) | (treatment.planned > 0)
    odd_cells = planned_cells & (baseline.scored != treatment.scored)
    paired = np.isfinite(mean_b)
    any_b, any_t, planned, odd = (
        _any(mask, cells) for mask in (has_b, has_t, planned_cells, odd_cells)
    )
    if (
        (baseline.scored == baseline.planned).all()
        and (treatment.scored == treatment.planned).all()
        and np.array_equal(matched, planned_cells)
    ):  # nothing absent, nothing to bound
        lowest = highest = mean_t - mean_b
    else:
        lowest = average_cells(treatment.lowest - baseline.highest, cells, planned_cells)
        highest = average_cells(treatment.highest - baseline.lowest, cells, planned_cells)
    return UnitPairs(
        mean_b, mean_t, any_b & ~paired, any_t & ~paired, odd & paired, lowest, highest, planned
    )


def _any(mask: BoolArray, cells: Cells) -> BoolArray:
    if cells.one_per_unit:
        return mask
    return sum_by(cells.unit, mask, cells.units) > 0


@dataclass(frozen=True, slots=True)
class Arms:
    """The arms of a table, ready to be paired.

    Attributes:
        cells: Cells and units that the arms share.
        groups: The groups of the units.
        sums: Cell sums of each arm, by its code.
        clusters: Cluster of each unit, if clustered.
    """

    cells: Cells
    groups: Groups
    sums: dict[int, CellSums]
    clusters: IntArray | None


def lay_arms(
    table: ScoreTable, groups: Groups, arm: Key, others: Sequence[Key], cluster: Key | None
) -> Arms:
    """Lay out the arms of a table over shared cells.

    Args:
        table: Rows of the arms to compare.
        groups: Their groups; no group key may be the arm's own.
        arm: What is compared.
        others: Keys besides prompt and params that tell cells apart.
        cluster: Clusters of items, if any.

    Raises:
        ValueError: If the rows of one item fall into several clusters.
    """
    # The arm itself must not tell cells apart, or nothing would ever match.
    cells = lay_cells(table, groups, others, ignore=arm.name)
    # Up to 16 bits numpy sorts by radix, ten times faster.
    narrow = np.uint16 if len(arm.labels) <= 1 << 16 else np.int32
    order = np.argsort(arm.codes.astype(narrow), kind="stable")
    ends = np.cumsum(np.bincount(arm.codes, minlength=len(arm.labels)))
    parts = np.split(order, ends[:-1])
    sums = {
        code: sum_cells(table, cells, rows, with_failed=False)
        for code, rows in enumerate(parts)
        if len(rows)
    }
    return Arms(cells, groups, sums, None if cluster is None else cluster_units(cluster, cells))


def sum_pairs(
    arms: Arms, pairs: Sequence[tuple[int, int]], *, keep_differences: bool = False
) -> PairSums:
    """Add up every comparison: all groups of the first pair of arms, then of the next.

    Args:
        arms: From `lay_arms`.
        pairs: (baseline, treatment) codes.
        keep_differences: Whether to keep each difference for resampling.
    """
    parts = [_sum_pair(arms, *pair, keep=keep_differences) for pair in pairs]
    groups = len(arms.groups.keys)

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    clusters = None
    if arms.clusters is not None:
        held = [part.clusters for part in parts if part.clusters is not None]
        clusters = ClusterSums(
            np.concatenate([part.group + groups * place for place, part in enumerate(held)]),
            np.concatenate([part.residual for part in held]),
            np.concatenate([part.size for part in held]),
        )
    kept = [d for part in parts for d in part.differences or ()]
    names = set(PairSums.__dataclass_fields__) - {"clusters", "differences"}
    return PairSums(
        **{name: joined(name) for name in names},
        clusters=clusters,
        differences=tuple(kept) if keep_differences else None,
    )


def _sum_pair(arms: Arms, baseline: int, treatment: int, *, keep: bool) -> PairSums:
    pairs = match(arms.sums[baseline], arms.sums[treatment], arms.cells)
    group, groups = arms.cells.group, len(arms.groups.keys)
    paired = np.isfinite(pairs.baseline)
    all_paired = bool(paired.all())
    b = pairs.baseline if all_paired else pairs.baseline[paired]
    t = pairs.treatment if all_paired else pairs.treatment[paired]
    of = group if all_paired else group[paired]
    d = t - b
    # Averages of the same scores in another order differ in their last digit; that is a tie.
    d[np.abs(d) <= NO_SPREAD * np.maximum(np.abs(b), np.abs(t))] = 0.0
    n = np.bincount(of, minlength=groups).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        delta = sum_by(of, d, groups) / n
        planned = sum_by(group, pairs.planned, groups)
        outside = sum_by(of, (b < 0) | (b > 1) | (t < 0) | (t > 1), groups) > 0
        lowest, highest = (
            np.where(outside, np.nan, sum_by(group, end, groups) / planned)
            for end in (
                np.where(pairs.planned, pairs.lowest, 0),
                np.where(pairs.planned, pairs.highest, 0),
            )
        )
    off = d - delta[of]
    squares = sum_by(of, off * off, groups)
    same = NO_SPREAD**2 * sum_by(of, np.maximum(b * b, t * t), groups)
    constant = squares <= same
    clusters = None
    if arms.clusters is not None:
        code = arms.clusters[paired]
        width = int(arms.clusters.max(initial=0)) + 1
        place, present = number([(of, max(1, groups)), (code, width)], len(d))
        clusters = ClusterSums(
            present // width,
            sum_by(place, off, len(present)),
            sum_by(place, np.ones(len(d)), len(present)),
        )
        constant |= sum_by(clusters.group, clusters.residual**2, groups) <= same
    return PairSums(
        n=n,
        baseline=sum_by(of, b, groups),
        treatment=sum_by(of, t, groups),
        both=sum_by(of, b * t, groups),
        wins=sum_by(of, d > 0, groups),
        losses=sum_by(of, d < 0, groups),
        delta=delta,
        squares=squares,
        constant=constant,
        binary=sum_by(of, ((b != 0) & (b != 1)) | ((t != 0) & (t != 1)), groups) == 0,
        unpaired_baseline=sum_by(group, pairs.only_baseline, groups),
        unpaired_treatment=sum_by(group, pairs.only_treatment, groups),
        planned=planned,
        lowest=lowest,
        highest=highest,
        uneven=sum_by(group, pairs.uneven, groups) > 0,
        clusters=clusters,
        differences=_split(d, of, groups) if keep else None,
    )


def _split(values: FloatArray, of: IntArray, groups: int) -> tuple[FloatArray, ...]:
    order = np.argsort(of, kind="stable")
    ends = np.cumsum(np.bincount(of, minlength=groups))
    return tuple(np.split(values[order], ends[:-1]))
