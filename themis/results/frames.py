"""Scores as data frames: one row per planned score, labels kept once.

pyarrow, pandas and polars are optional; each is imported when it is asked for.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from themis.errors import missing_extra
from themis.records.score_table import Codes, ScoreStatus, ScoreTable
from themis.results.grouping import COLUMN_KEYS, read_key


def to_arrow(table: ScoreTable) -> Any:
    """Return a `pyarrow.Table`: dictionary-encoded labels, `sample`, `value` (null), `status`.

    Raises:
        EnvironmentNotReadyError: pyarrow is not installed (extra `parquet`).
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing_extra("pyarrow", "parquet") from error
    columns = {
        name: pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=codes < 0), pa.array(labels, pa.string())
        )
        for name, labels, codes in _labelled(table)
    }
    columns["sample"] = pa.array(table.sample)
    columns["value"] = pa.array(table.value, mask=np.isnan(table.value))
    return pa.table(columns)


def to_pandas(table: ScoreTable) -> Any:
    """Return a `pandas.DataFrame`: categorical labels, `sample`, `value` (NaN where absent).

    Raises:
        EnvironmentNotReadyError: pandas is not installed (extra `pandas`).
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_extra("pandas", "pandas") from error
    columns: dict[str, Any] = {
        name: pd.Categorical.from_codes(codes, categories=list(labels))
        for name, labels, codes in _labelled(table)
    }
    return pd.DataFrame({**columns, "sample": table.sample, "value": table.value})


def to_polars(table: ScoreTable) -> Any:
    """Return a `polars.DataFrame`: enumerated labels, `sample`, `value` (null where absent).

    Raises:
        EnvironmentNotReadyError: polars is not installed (extra `polars`).
    """
    try:
        import polars as pl
    except ImportError as error:
        raise missing_extra("polars", "polars") from error
    columns = []
    for name, labels, codes in _labelled(table):
        # Code 0 is null, so that no mask is needed.
        values = pl.Series([None, *labels], dtype=pl.Enum(labels))
        columns.append(values.gather(codes + 1).alias(name))
    value = pl.Series("value", table.value).fill_nan(None)
    return pl.DataFrame([*columns, pl.Series("sample", table.sample), value])


def _labelled(table: ScoreTable) -> Iterator[tuple[str, tuple[str, ...], Codes]]:
    """Yield each key with distinct labels, and the codes of the rows; -1 where there is none."""
    for name in (*COLUMN_KEYS, *table.dimensions, *table.item_dimensions):
        key = read_key(table, name)
        labels = tuple(dict.fromkeys(label for label in key.labels if label is not None))
        place = {label: code for code, label in enumerate(labels)}
        lookup = np.array([-1 if label is None else place[label] for label in key.labels], np.int32)
        yield name, labels, lookup[key.codes]
    yield "status", tuple(status.label for status in ScoreStatus), table.status.astype(np.int32)
