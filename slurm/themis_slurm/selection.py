"""Which shards to submit now, and as which arrays. Pure: no file, clock or cluster."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Array:
    """Shards of one group that become one job array."""

    group: int
    shards: tuple[int, ...]
    offset: int = 0
    """The first number of the window that all its shards lie in."""


@dataclass(frozen=True)
class Selection:
    """What to submit.

    Attributes:
        arrays: The arrays, in the order of the shards.
        held_back: Shards for which the queue has no room now.
    """

    arrays: tuple[Array, ...]
    held_back: tuple[int, ...]


def select(
    free: Iterable[int],
    groups: Mapping[int, int],
    *,
    array_size: int,
    room: int | None,
    windows: bool = False,
) -> Selection:
    """Cut shards that nobody works on into arrays, as far as there is room for them.

    >>> select([0, 2, 4], {0: 0, 2: 0, 4: 1}, array_size=1, room=2).held_back
    (4,)

    Args:
        free: Incomplete shards that nobody works on.
        groups: The group of each shard.
        array_size: The most elements of one array.
        windows: Whether elements have the numbers of their shards, so that an array's shards
            have to lie within `array_size` numbers.
        room: How many elements may be added to the queue; None is no limit.

    Returns:
        At least one array for each group with work, as few as `array_size` allows.
    """
    cut = _windows if windows else _chunks
    ordered = sorted(set(free))
    taken = ordered if room is None else ordered[: max(0, room)]
    by_group: dict[int, list[int]] = {}
    for shard in taken:
        by_group.setdefault(groups[shard], []).append(shard)
    arrays = tuple(
        Array(group, chunk, offset)
        for group, shards in by_group.items()
        for offset, chunk in cut(shards, array_size)
    )
    return Selection(arrays, tuple(ordered[len(taken) :]))


def _chunks(shards: Sequence[int], size: int) -> Iterable[tuple[int, tuple[int, ...]]]:
    for first in range(0, len(shards), size):
        yield 0, tuple(shards[first : first + size])


def _windows(shards: Sequence[int], size: int) -> Iterable[tuple[int, tuple[int, ...]]]:
    for window, found in groupby(shards, key=lambda shard: shard // size):
        yield window * size, tuple(found)
