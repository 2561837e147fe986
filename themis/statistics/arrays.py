"""What every statistic here takes and gives: arrays, intervals, the direction of a test."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
"""What a test looks for: any difference, a treatment that is better, or one that is worse."""

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")
_CHUNK_ROWS = 1000
_CHUNK_NUMBERS = 4_000_000
"""Numbers held at once while resampling; 32 MB of them."""


class Interval(NamedTuple):
    """The ends of one confidence interval, or of many (element by element)."""

    lower: FloatArray
    upper: FloatArray


def floats(values: npt.ArrayLike) -> FloatArray:
    """Read numbers as float64, without a copy where possible."""
    return np.asarray(values, dtype=np.float64)


def sum_by(group: npt.NDArray[Any], weights: npt.NDArray[Any], groups: int) -> FloatArray:
    """Add up weights (numbers, or truth values to count) per group.

    >>> sum_by(np.array([0, 2, 0]), np.array([0.5, 1.0, 0.25]), 3).tolist()
    [0.75, 0.0, 1.0]
    """
    return np.asarray(np.bincount(group, weights, groups), np.float64)


def chunks(rows: int, width: int) -> Iterator[int]:
    """Split rows of `width` numbers into pieces that fit in bounded memory.

    >>> list(chunks(2500, 10)), list(chunks(3, 10**9))
    ([1000, 1000, 500], [1, 1, 1])
    """
    most = max(1, min(_CHUNK_ROWS, _CHUNK_NUMBERS // max(1, width)))
    for start in range(0, rows, most):
        yield min(most, rows - start)


def never_zero(p_values: FloatArray) -> FloatArray:
    """Raise p-values that underflowed to 0 to the smallest normal double.

    A test never proves that its null is impossible, so nothing here reports p = 0.
    """
    return np.where(p_values == 0.0, np.finfo(np.float64).tiny, p_values)
