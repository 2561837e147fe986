"""Which rows of a score table belong together, by names a person would use.

A key is a column of the table (`model_id`, `slice_id`, ...), the status of the score, or a
dimension that the benchmark gave to its slices or items. Several keys become one whole
number per row, which is what makes grouping a million rows a matter of milliseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from themis.records.score_table import Dimension, ScoreStatus, ScoreTable
from themis.statistics.arrays import IntArray

COLUMN_KEYS = {
    "model_id": ("model", "models"),
    "slice_id": ("slice", "slices"),
    "prompt_variant_id": ("prompt", "prompts"),
    "params": ("param", "params"),
    "metric_id": ("metric", "metrics"),
    "evaluation": ("evaluation", "evaluations"),
    "item_id": ("item", "items"),
}
"""The keys that every table has besides `status`: its column of codes and that of labels."""

_DENSE = 1 << 22


@dataclass(frozen=True, slots=True)
class Key:
    """One grouping key over the rows of a table.

    Attributes:
        name: What the key is called.
        labels: Its values; the first may be None, for rows without one.
        codes: For each row the place of its value in `labels`.
    """

    name: str
    labels: tuple[str | None, ...]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Groups:
    """Rows sorted into groups.

    Attributes:
        of_row: The group of each row, from 0, in the order of `keys`.
        keys: For each group, the value of every key.
    """

    of_row: IntArray
    keys: tuple[tuple[str | None, ...], ...]


def known_keys(table: ScoreTable) -> tuple[str, ...]:
    """Name every key that this table can be grouped by."""
    return (*COLUMN_KEYS, "status", *table.dimensions, *table.item_dimensions)


def read_key(table: ScoreTable, name: str) -> Key:
    """Find one key.

    Raises:
        ValueError: If the table has no such key; the message lists those it has.
    """
    if name in COLUMN_KEYS:
        column, labels = COLUMN_KEYS[name]
        return Key(name, getattr(table, labels), getattr(table, column))
    if name == "status":
        return Key(
            name, tuple(status.label for status in ScoreStatus), table.status.astype(np.int32)
        )
    if name in table.dimensions:
        return _dimension(name, table.dimensions[name], table.slice)
    if name in table.item_dimensions:
        return _dimension(name, table.item_dimensions[name], table.item)
    raise ValueError(f"cannot group by {name!r}; known keys: {', '.join(known_keys(table))}")


def group_rows(table: ScoreTable, names: Sequence[str]) -> Groups:
    """Sort the rows of a table into groups, None first, then by the text of the keys.

    Raises:
        ValueError: If a key is unknown or named twice.
    """
    if len(set(names)) != len(names):
        raise ValueError(f"a key is named twice: {', '.join(names)}")
    keys = [read_key(table, name) for name in names]
    place, present = compact([(key.codes, len(key.labels)) for key in keys], table.rows)
    values = [
        tuple(key.labels[code] for key, code in zip(keys, codes, strict=True)) for codes in present
    ]
    order = sorted(range(len(values)), key=lambda group: [_by_text(v) for v in values[group]])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return Groups(rank[place], tuple(values[group] for group in order))


def compact(
    columns: Sequence[tuple[npt.NDArray[Any], int]], rows: int
) -> tuple[IntArray, list[tuple[int, ...]]]:
    """Number the combinations of codes that occur, from 0.

    Args:
        columns: Codes per row, with how many codes there are.
        rows: The number of rows (which an empty list of columns does not tell).

    Returns:
        The number of each row's combination, and the combinations in that order.
    """
    place, present = number(columns, rows)
    sizes = [size for _, size in columns]
    if not sizes:
        return place, [()] * len(present)
    return place, list(zip(*(c.tolist() for c in np.unravel_index(present, sizes)), strict=True))


def number(columns: Sequence[tuple[npt.NDArray[Any], int]], rows: int) -> tuple[IntArray, IntArray]:
    """Number the combinations that occur, and give each one's place in the full product.

    Raises:
        ValueError: If the product of the sizes does not fit in 64 bits.
    """
    total = prod(size for _, size in columns)
    if total >= 1 << 63:
        raise ValueError("too many combinations of keys to number")
    combined = np.zeros(rows, np.int64)
    for codes, size in columns:
        combined *= size
        combined += codes
    # A table of all combinations is several times faster than sorting the rows.
    if total <= max(_DENSE, 4 * rows):
        occurs = np.zeros(total, np.bool_)
        occurs[combined] = True
        present = np.flatnonzero(occurs)
        numbers = np.cumsum(occurs, dtype=np.int64) - 1
        return numbers[combined], present
    present, place = np.unique(combined, return_inverse=True)
    return place.astype(np.int64, copy=False), present


def _dimension(name: str, dimension: Dimension, owner: npt.NDArray[np.int32]) -> Key:
    codes = (dimension.codes[owner] + 1).astype(np.int32)
    return Key(name, (None, *dimension.labels), codes)


def _by_text(value: str | None) -> tuple[bool, str]:
    return (value is not None, value or "")
