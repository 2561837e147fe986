"""The score table: every planned score of a run as columns of numbers.

A store fills it once; everything that reads results (means, comparisons, reports)
works on these arrays and never asks the store again. One row is one planned
(trial, sample, score pass, metric). A row exists whether or not a score was reached,
so whoever divides by the number of rows has failures and gaps in the denominator.

    >>> import numpy as np
    >>> table = ScoreTable(
    ...     models=("tiny", "big"), slices=("gsm8k",), prompts=("plain",), params=("greedy",),
    ...     metrics=("exact_match",), evaluations=("default",), items=("q1", "q2"),
    ...     model=np.array([0, 0, 1, 1]), slice=np.zeros(4), prompt=np.zeros(4),
    ...     param=np.zeros(4), metric=np.zeros(4), evaluation=np.zeros(4),
    ...     item=np.array([0, 1, 0, 1]), sample=np.zeros(4),
    ...     value=np.array([1.0, 0.0, 1.0, np.nan]), status=np.array([0, 0, 0, 1]),
    ... )
    >>> table.rows, ScoreStatus(table.status[3]).label
    (4, 'generation_failed')
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from themis.records.metric_scale import Direction, MetricScale

Codes: TypeAlias = npt.NDArray[np.int32]

_LABELS_OF = {
    "model": "models",
    "slice": "slices",
    "prompt": "prompts",
    "param": "params",
    "metric": "metrics",
    "evaluation": "evaluations",
    "item": "items",
}


class ScoreStatus(IntEnum):
    """What became of one planned score."""

    SCORED = 0
    """A metric gave the value."""

    GENERATION_FAILED = 1
    """The model's own fault, and final: the request was rejected, or too long."""

    GENERATION_MISSING = 2
    """Planned, and no answer has come back yet (or only an engine error, to be retried)."""

    EXTRACTION_FAILED = 3
    """No answer could be read from the output; it is scored, as 0, by rule."""

    METRIC_FAILED = 4
    """There is an answer, and the metric could not score it."""

    NOT_EVALUATED = 5
    """There is an answer, and this evaluation has not run on it yet."""

    @property
    def label(self) -> str:
        """The name that tables and files show."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Dimension:
    """A label for each slice, or for each item.

    Attributes:
        labels: The distinct labels.
        codes: For each slice (or item) its place in `labels`; -1 where it has none.
    """

    labels: tuple[str, ...]
    codes: Codes


@dataclass(frozen=True)
class ScoreTable:
    """One row per planned (trial, sample, score pass, metric).

    The label tuples name things once; the arrays of the same name in the singular hold,
    per row, the place in that tuple. Integer arrays are taken as int32, values as float64.

    Attributes:
        models: Model ids.
        slices: Slice ids.
        prompts: Prompt variant ids.
        params: Labels of the inference parameter sets.
        metrics: Metric ids.
        evaluations: Score names of the benchmark.
        items: Item ids; an id may occur in several slices and then names different items.
        model: Row's model.
        slice: Row's slice.
        prompt: Row's prompt variant.
        param: Row's inference parameters.
        metric: Row's metric.
        evaluation: Row's score name.
        item: Row's item.
        sample: Row's sample number, from 0.
        value: The score; NaN where there is none.
        status: A `ScoreStatus` per row.
        dimensions: Labels per slice (`SliceSpec.dimensions`), by dimension name.
        item_dimensions: Labels per item id (document, subject, level), by name.
        scales: What each metric declared about its scores; a metric that is absent here was
            planned before that was recorded.
    """

    models: tuple[str, ...]
    slices: tuple[str, ...]
    prompts: tuple[str, ...]
    params: tuple[str, ...]
    metrics: tuple[str, ...]
    evaluations: tuple[str, ...]
    items: tuple[str, ...]
    model: Codes
    slice: Codes
    prompt: Codes
    param: Codes
    metric: Codes
    evaluation: Codes
    item: Codes
    sample: Codes
    value: npt.NDArray[np.float64]
    status: npt.NDArray[np.int8]
    dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    item_dimensions: Mapping[str, Dimension] = field(default_factory=dict)
    scales: Mapping[str, MetricScale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fix the types of the columns and refuse a table that contradicts itself.

        Raises:
            ValueError: If columns differ in length, a code points outside its labels, a
                scored row has no finite value, or an unscored row has one.
        """
        for name in (*_LABELS_OF, "sample"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.int32))
        object.__setattr__(self, "value", np.ascontiguousarray(self.value, np.float64))
        object.__setattr__(self, "status", np.ascontiguousarray(self.status, np.int8))
        for name, labels in _LABELS_OF.items():
            column = getattr(self, name)
            if len(column) != self.rows:
                raise ValueError(f"column {name} has {len(column)} rows, value has {self.rows}")
            _check_codes(name, column, len(getattr(self, labels)), lowest=0)
        for per, size, dimensions in (
            ("slice", len(self.slices), self.dimensions),
            ("item", len(self.items), self.item_dimensions),
        ):
            for name, dimension in dimensions.items():
                if len(dimension.codes) != size:
                    raise ValueError(f"dimension {name} needs one code per {per} ({size})")
                _check_codes(name, dimension.codes, len(dimension.labels), lowest=-1)
        _check_codes("status", self.status, len(ScoreStatus), lowest=0)
        if len(self.status) != self.rows or len(self.sample) != self.rows:
            raise ValueError("columns status and sample need one entry per row")
        if not np.array_equal(np.isfinite(self.value), self.scored):
            raise ValueError("a row has a finite value exactly when its status is a scored one")

    @property
    def rows(self) -> int:
        """How many scores were planned."""
        return len(self.value)

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Which rows hold a score (an unreadable answer counts: it scores 0)."""
        return np.isin(self.status, (ScoreStatus.SCORED, ScoreStatus.EXTRACTION_FAILED))

    def direction(self, metric: str) -> Direction | None:
        """Which scores of a metric are better; None where that was not recorded."""
        return self.scales[metric].direction if metric in self.scales else None

    @property
    def without_unit(self) -> tuple[str, ...]:
        """The metrics whose scores can leave [0, 1]."""
        return tuple(name for name, scale in self.scales.items() if not scale.unit)

    def where(self, mask: npt.NDArray[np.bool_]) -> "ScoreTable":
        """Keep the rows where `mask` holds; labels and their codes stay as they are."""
        if mask.all():
            return self
        columns: dict[str, Any] = {
            entry.name: getattr(self, entry.name)[mask]
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), np.ndarray)
        }
        return replace(self, **columns)


def _check_codes(name: str, codes: npt.NDArray[Any], count: int, *, lowest: int) -> None:
    if len(codes) and (codes.min() < lowest or codes.max() >= count):
        raise ValueError(f"column {name} has a code outside {lowest}..{count - 1}")
