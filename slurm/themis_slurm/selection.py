"""Which shards to submit now, and as which arrays. Pure: no file, clock or cluster."""

from collections.abc import Iterable, Mapping, Sequence
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
    free: Iterable[int],
    groups: Mapping[int, int],
    *,
    array_size: int,
    room: int | None,
) -> Selection:
    """Cut shards that nobody works on into arrays, as far as there is room for them.

    >>> select([0, 2, 4], {0: 0, 2: 0, 4: 1}, array_size=1, room=2).held_back
    (4,)

    Args:
        free: Incomplete shards that nobody works on.
        groups: The group of each shard.
        array_size: The most elements of one array.
        room: How many elements may be added to the queue; None is no limit.

    Returns:
        At least one array for each group with work, as few as `array_size` allows.
    """
    ordered = sorted(set(free))
    taken = ordered if room is None else ordered[: max(0, room)]
    by_group: dict[int, list[int]] = {}
    for shard in taken:
        by_group.setdefault(groups[shard], []).append(shard)
    arrays = tuple(
        Array(group, chunk)
        for group, shards in by_group.items()
        for chunk in _chunks(shards, array_size)
    )
    return Selection(arrays, tuple(ordered[len(taken) :]))


def _chunks(shards: Sequence[int], size: int) -> Iterable[tuple[int, ...]]:
    for first in range(0, len(shards), size):
        yield tuple(shards[first : first + size])
