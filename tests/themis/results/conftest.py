"""A small way to write score tables in tests."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from themis.records.metric_scale import MetricScale
from themis.records.score_table import Dimension, ScoreStatus, ScoreTable

Build = Callable[..., ScoreTable]

# A first example pays for imports, and a shared machine may pause at any time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

COLUMNS = {
    "model": "models",
    "slice": "slices",
    "prompt": "prompts",
    "param": "params",
    "metric": "metrics",
    "evaluation": "evaluations",
    "item": "items",
}


def build_table(
    rows: Iterable[Mapping[str, Any]],
    *,
    slice_dimensions: Mapping[str, Mapping[str, str]] | None = None,
    item_dimensions: Mapping[str, Mapping[str, str]] | None = None,
    scales: Mapping[str, MetricScale] | None = None,
) -> ScoreTable:
    """Build a table from rows like {"model": "a", "item": "1", "value": 1.0}.

    A row without a value needs a status. Columns left out hold one default label.
    Metrics are better when higher, up to 1, unless `scales` says something else.
    """
    rows = list(rows)
    arrays: dict[str, Any] = {}
    for column, labels in COLUMNS.items():
        texts = [str(row.get(column, "default")) for row in rows]
        arrays[labels] = tuple(dict.fromkeys(texts))
        arrays[column] = np.array([arrays[labels].index(text) for text in texts], np.int32)

    def dimension(per: str, values: Mapping[str, str]) -> Dimension:
        labels = tuple(dict.fromkeys(values.values()))
        codes = [labels.index(values[o]) if o in values else -1 for o in arrays[per]]
        return Dimension(labels, np.array(codes, np.int32))

    return ScoreTable(
        **arrays,
        sample=np.array([row.get("sample", 0) for row in rows], np.int32),
        value=np.array([row.get("value", np.nan) for row in rows], np.float64),
        status=np.array([row.get("status", ScoreStatus.SCORED) for row in rows], np.int8),
        dimensions={k: dimension("slices", v) for k, v in (slice_dimensions or {}).items()},
        item_dimensions={k: dimension("items", v) for k, v in (item_dimensions or {}).items()},
        scales=dict.fromkeys(arrays["metrics"], MetricScale()) if scales is None else scales,
    )


def build_pairs(
    baseline: Iterable[float],
    treatment: Iterable[float],
    *,
    scale: MetricScale | None = None,
    **same: Any,
) -> ScoreTable:
    """Two models, `base` and `new`, on the same items; NaN stands for a failed generation."""
    rows = [
        {"model": model, "item": str(item), **same}
        | ({"status": ScoreStatus.GENERATION_FAILED} if np.isnan(value) else {"value": value})
        for model, values in (("base", baseline), ("new", treatment))
        for item, value in enumerate(values)
    ]
    named = str(same.get("metric", "default"))
    return build_table(rows, scales=None if scale is None else {named: scale})


@pytest.fixture(scope="session")
def table() -> Build:
    return build_table


@pytest.fixture(scope="session")
def pairs() -> Build:
    return build_pairs
