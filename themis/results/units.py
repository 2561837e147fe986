"""From scores to independent units: one number per item.

Several answers to one item, or the same item under several prompts, are not independent.
Before any statistics, scores are averaged: the samples of a cell (item, prompt, params)
first, then the cells of an item. A unit is one item of one slice inside one group. Every
item then counts once, however often it was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.grouping import Groups, Key, number
from themis.statistics.arrays import BoolArray, FloatArray, IntArray, sum_by


@dataclass(frozen=True, slots=True)
class Cells:
    """How rows sit in cells and cells in units.

    Attributes:
        of_row: The cell of each row.
        unit: The unit of each cell.
        group: The group of each unit.
        first_row: One row of each unit (all rows of a unit share slice and item).
    """

    of_row: IntArray
    unit: IntArray
    group: IntArray
    first_row: IntArray

    @property
    def count(self) -> int:
        """How many cells there are."""
        return len(self.unit)

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.group)

    @property
    def one_per_unit(self) -> bool:
        """Whether each unit is a single cell."""
        return self.count == self.units


def lay_cells(
    table: ScoreTable, groups: Groups, extra: Sequence[Key] = (), *, ignore: str = ""
) -> Cells:
    """Find the units (group, slice, item) and the cells (unit, prompt, params) of a table.

    Args:
        table: The rows.
        groups: Their groups.
        extra: Further keys that tell cells of one unit apart.
        ignore: `prompt_variant_id`, where prompts are what will be compared.
    """
    unit_of_row, present = number(
        [
            (groups.of_row, max(1, len(groups.keys))),
            (table.slice, max(1, len(table.slices))),
            (table.item, max(1, len(table.items))),
        ],
        table.rows,
    )
    units = len(present)
    first_row = np.zeros(units, np.int64)
    first_row[unit_of_row[::-1]] = np.arange(table.rows - 1, -1, -1)
    group = groups.of_row[first_row]
    finer = [
        (codes, size)
        for name, codes, size in (
            ("prompt_variant_id", table.prompt, len(table.prompts)),
            ("params", table.param, len(table.params)),
            *((key.name, key.codes, len(key.labels)) for key in extra),
        )
        if name != ignore and len(codes) and codes.min() != codes.max()
    ]
    if not finer:
        return Cells(unit_of_row, np.arange(units), group, first_row)
    cell_of_row, present = number([(unit_of_row, max(1, units)), *finer], table.rows)
    below = int(np.prod([size for _, size in finer]))
    return Cells(cell_of_row, present // below, group, first_row)


@dataclass(frozen=True, slots=True)
class CellSums:
    """What is known about each cell.

    Attributes:
        planned: Scores planned.
        scored: Scores reached.
        failed: Scores that a failure of the model or the metric has ruled out.
        total: Sum of the scores reached.
    """

    planned: FloatArray
    scored: FloatArray
    failed: FloatArray
    total: FloatArray

    @property
    def mean(self) -> FloatArray:
        """Mean over the scores reached; NaN where there is none."""
        return _divide(self.total, self.scored)

    @property
    def lowest(self) -> FloatArray:
        """The mean if every absent score were 0."""
        return np.where(self.planned > 0, _divide(self.total, self.planned), 0.0)

    @property
    def highest(self) -> FloatArray:
        """The mean if every absent score were 1; 1 where nothing was even planned."""
        absent = self.planned - self.scored
        return np.where(self.planned > 0, _divide(self.total + absent, self.planned), 1.0)

    @property
    def failed_as_zero(self) -> FloatArray:
        """The mean with failures counted as 0; NaN where nothing has been decided."""
        return _divide(self.total, self.scored + self.failed)


def sum_cells(
    table: ScoreTable, cells: Cells, rows: IntArray | None = None, *, with_failed: bool = True
) -> CellSums:
    """Count and add up the rows of each cell.

    Args:
        table: The rows.
        cells: Where they belong.
        rows: Which rows to take; None takes all.
        with_failed: Whether failures are needed; else `failed` is all zero.
    """
    chosen = slice(None) if rows is None else rows
    place = cells.of_row[chosen]
    status, value = table.status[chosen], table.value[chosen]
    planned = np.bincount(place, minlength=cells.count).astype(np.float64)
    if not len(status) or status.max() == ScoreStatus.SCORED:
        total = sum_by(place, value, cells.count)
        return CellSums(planned, planned, np.zeros(cells.count), total)
    reached = ~np.isnan(value)
    scored = sum_by(place, reached, cells.count)
    total = sum_by(place, np.where(reached, value, 0.0), cells.count)
    failed = np.zeros(cells.count)
    if with_failed:
        failed = sum_by(place, is_failed(status), cells.count)
    return CellSums(planned, scored, failed, total)


def is_failed(status: npt.NDArray[Any]) -> BoolArray:
    """Which scores a failure has ruled out for good: of the generation, or of the metric."""
    return np.isin(status, (ScoreStatus.GENERATION_FAILED, ScoreStatus.METRIC_FAILED))


def average_cells(values: FloatArray, cells: Cells, keep: BoolArray | None = None) -> FloatArray:
    """Average cell values into unit values; NaN where a unit has no finite cell.

    Args:
        values: One value per cell.
        cells: Which unit each cell belongs to.
        keep: Cells to use; None uses every finite one.
    """
    keep = np.isfinite(values) if keep is None else keep
    if cells.one_per_unit:
        return np.where(keep, values, np.nan)
    total = sum_by(cells.unit, np.where(keep, values, 0.0), cells.units)
    return _divide(total, sum_by(cells.unit, keep, cells.units))


def cluster_units(key: Key, cells: Cells) -> IntArray:
    """Give the cluster of each unit; a unit without a label is a cluster of its own.

    Raises:
        ValueError: If the rows of one item fall into several clusters.
    """
    clusters = key.codes[cells.first_row].astype(np.int64)
    if not np.array_equal(clusters[cells.unit][cells.of_row], key.codes):
        raise ValueError(
            f"cannot cluster by {key.name!r}: the rows of one item differ in it, and an item "
            "is the smallest thing that a cluster holds"
        )
    if None in key.labels:
        alone = clusters == key.labels.index(None)
        clusters[alone] = len(key.labels) + np.flatnonzero(alone)
    return clusters


def _divide(above: FloatArray, below: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)
