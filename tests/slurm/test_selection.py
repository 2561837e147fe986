"""Choosing shards and cutting them into arrays."""

from hypothesis import given
from hypothesis import strategies as st

from themis_slurm.selection import select

shards = st.sets(st.integers(0, 60), max_size=60)


class TestSelect:
    """Every free shard is held back, or in exactly one array."""

    @given(shards, st.integers(1, 12), st.none() | st.integers(-3, 70))
    def test_every_free_shard_is_accounted_for(
        self, free: set[int], size: int, room: int | None
    ) -> None:
        groups = {shard: shard % 3 for shard in range(61)}

        chosen = select(free, groups, array_size=size, room=room)

        taken = [shard for array in chosen.arrays for shard in array.shards]
        assert sorted([*taken, *chosen.held_back]) == sorted(free)
        assert all(len(array.shards) <= size for array in chosen.arrays)
        assert all({groups[shard] for shard in a.shards} == {a.group} for a in chosen.arrays)
        if room is not None:
            assert len(taken) <= max(0, room)

    @given(shards, st.integers(1, 12))
    def test_there_are_as_few_arrays_as_their_size_allows(self, free: set[int], size: int) -> None:
        groups = {shard: shard % 2 for shard in range(61)}

        chosen = select(free, groups, array_size=size, room=None)

        fewest = sum(-(-sum(groups[s] == g for s in free) // size) for g in (0, 1))
        assert len(chosen.arrays) == fewest

    @given(shards, st.integers(1, 12))
    def test_windows_keep_the_numbers_of_shards_below_the_array_size(
        self, free: set[int], size: int
    ) -> None:
        groups = {shard: shard % 2 for shard in range(61)}

        chosen = select(free, groups, array_size=size, room=None, windows=True)

        assert sorted(s for array in chosen.arrays for s in array.shards) == sorted(free)
        for array in chosen.arrays:
            assert all(0 <= shard - array.offset < size for shard in array.shards)
            assert array.offset % size == 0
