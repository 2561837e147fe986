"""Which shards to submit now, and as which arrays. Pure: no file, clock or cluster."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Array:
    """Shards of one group that become one job array."""

    group: int
    shards: tuple[int, ...]


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
    incomplete: Iterable[int],
    groups: Mapping[int, int],
    *,
    busy: Collection[int],
    array_size: int,
    room: int | None,
) -> Selection:
    """Choose the incomplete shards that nobody works on, and cut them into arrays.

    >>> select([0, 1, 2, 4], {0: 0, 1: 0, 2: 0, 4: 1}, busy={1}, array_size=1, room=2).held_back
    (4,)

    Args:
        incomplete: Shards without a completion file.
        groups: The group of each shard.
        busy: Shards that are alive somewhere, or must not be submitted for another reason.
        array_size: The most elements of one array.
        room: How many elements may be added to the queue; None is no limit.

    Returns:
        At least one array for each group with work, as few as `array_size` allows.
    """
    free = sorted(set(incomplete).difference(busy))
    taken = free if room is None else free[: max(0, room)]
    by_group: dict[int, list[int]] = {}
    for shard in taken:
        by_group.setdefault(groups[shard], []).append(shard)
    arrays = tuple(
        Array(group, chunk)
        for group, shards in by_group.items()
        for chunk in _chunks(shards, array_size)
    )
    return Selection(arrays, tuple(free[len(taken) :]))


def _chunks(shards: Sequence[int], size: int) -> Iterable[tuple[int, ...]]:
    for first in range(0, len(shards), size):
        yield tuple(shards[first : first + size])
