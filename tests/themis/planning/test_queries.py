"""Queries take exactly what they say, the same every time."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.errors import SpecValidationError
from themis.planning.items import DataItem, Row, read_items
from themis.planning.queries import allocate, select
from themis.specs import DatasetQuerySpec, SamplingKind

ITEMS = [
    {"id": f"q{n}", "level": "hard" if n % 5 == 0 else "easy", "n": n, "metadata": {"topic": n % 2}}
    for n in range(100)
]


def scan(values: list[Any]) -> Iterator[DataItem]:
    return read_items(lambda: (Row("test", "item", n, v) for n, v in enumerate(values, 1)))


def taken(query: DatasetQuerySpec, values: Any = ITEMS, seed: int = 1) -> list[str]:
    return [item.item_id for item in select(lambda: scan(values), query, global_seed=seed)]


def test_all_takes_every_item_in_order() -> None:
    assert taken(DatasetQuerySpec.all()) == [f"q{n}" for n in range(100)]


def test_a_subset_without_a_seed_is_the_first_items_and_reads_no_further() -> None:
    read = 0

    def endless() -> Iterator[DataItem]:
        nonlocal read
        for read in itertools.count(1):
            yield DataItem(str(read), {}, {}, "0" * 64, b"{}")

    items = list(select(endless, DatasetQuerySpec.subset(3), global_seed=1))

    assert [item.item_id for item in items] == ["1", "2", "3"]
    assert read <= 4


def test_a_subset_larger_than_the_dataset_is_the_dataset() -> None:
    assert taken(DatasetQuerySpec.subset(1000, seed=3)) == taken(DatasetQuerySpec.all())


def test_a_seeded_subset_is_fixed_by_its_seed_alone() -> None:
    first = taken(DatasetQuerySpec.subset(10, seed=3), seed=1)

    assert len(first) == 10
    assert first == taken(DatasetQuerySpec.subset(10, seed=3), seed=2)
    assert first != taken(DatasetQuerySpec.subset(10, seed=4))
    assert first == sorted(first, key=lambda item_id: int(item_id[1:]))


def test_a_draw_does_not_depend_on_the_order_of_the_dataset() -> None:
    query = DatasetQuerySpec.subset(10, seed=3)

    assert set(taken(query, ITEMS[::-1])) == set(taken(query))


def test_a_larger_draw_contains_a_smaller_one() -> None:
    small = taken(DatasetQuerySpec.subset(10, seed=3))

    assert set(small) < set(taken(DatasetQuerySpec.subset(30, seed=3)))


def test_a_draw_takes_every_item_about_equally_often() -> None:
    seeds = 400
    counts = Counter[str]()
    for seed in range(seeds):
        counts.update(taken(DatasetQuerySpec.subset(20, seed=seed)))

    # Each is taken with probability 0.2: mean 80, standard deviation 8.
    assert min(counts.values()) > 80 - 5 * 8
    assert max(counts.values()) < 80 + 5 * 8
    assert len(counts) == 100


@pytest.mark.parametrize("count", [1, 7, 9, 10, 50, 99, 100])
def test_a_stratified_query_gives_exactly_the_count(count: int) -> None:
    items = taken(DatasetQuerySpec.stratified(count, strata_field="level"))

    assert len(items) == len(set(items)) == count


def test_strata_are_taken_in_proportion() -> None:
    items = taken(DatasetQuerySpec.stratified(50, strata_field="level"))

    assert sum(int(item_id[1:]) % 5 == 0 for item_id in items) == 10


def test_a_stratified_query_without_a_seed_uses_the_global_seed() -> None:
    query = DatasetQuerySpec.stratified(10, strata_field="level")

    assert taken(query, seed=1) == taken(query, seed=1)
    assert taken(query, seed=1) != taken(query, seed=2)


def test_strata_can_be_metadata() -> None:
    items = taken(DatasetQuerySpec.stratified(10, strata_field="topic"))

    assert sum(int(item_id[1:]) % 2 for item_id in items) == 5


def test_a_stratified_query_for_too_many_items_says_how_many_there_are() -> None:
    with pytest.raises(SpecValidationError, match="asks for 101 items, and there are 100"):
        taken(DatasetQuerySpec.stratified(101, strata_field="level"))


def test_an_item_without_the_strata_field_is_named() -> None:
    with pytest.raises(SpecValidationError, match="item 'q100' has no field 'level'"):
        taken(DatasetQuerySpec.stratified(5, strata_field="level"), [*ITEMS, {"id": "q100"}])


def test_a_dataset_that_changes_between_two_readings_is_refused() -> None:
    readings = iter([ITEMS, ITEMS[::-1]])

    with pytest.raises(SpecValidationError, match="gave other items when it was read again"):
        list(
            select(lambda: scan(next(readings)), DatasetQuerySpec.subset(5, seed=1), global_seed=1)
        )


def test_item_ids_keep_the_order_of_the_dataset_and_ignore_repeats() -> None:
    assert taken(DatasetQuerySpec(item_ids=["q9", "q2", "q9"])) == ["q2", "q9"]


def test_item_ids_that_do_not_exist_are_named() -> None:
    with pytest.raises(SpecValidationError, match="of 100 items has no item 'nope', 'q100'"):
        taken(DatasetQuerySpec(item_ids=["q1", "nope", "q100"]))


def test_filters_match_metadata_and_fields_exactly() -> None:
    query = DatasetQuerySpec(metadata_filters={"topic": "1", "level": "hard"})

    assert taken(query) == [f"q{n}" for n in range(5, 100, 10)]


def test_filters_apply_before_the_count() -> None:
    query = DatasetQuerySpec(kind=SamplingKind.SUBSET, count=2, metadata_filters={"level": "hard"})

    assert taken(query) == ["q0", "q5"]


def test_an_item_that_is_there_but_filtered_out_is_not_missing() -> None:
    query = DatasetQuerySpec(item_ids=["q5", "q6"], metadata_filters={"level": "hard"})

    assert taken(query) == ["q5"]


def test_a_filter_on_something_no_item_has_is_an_error() -> None:
    with pytest.raises(SpecValidationError, match="no item has the metadata or field levl"):
        taken(DatasetQuerySpec(metadata_filters={"levl": "hard"}))


def test_a_query_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(SpecValidationError, match="leaves no item"):
        taken(DatasetQuerySpec(metadata_filters={"level": "medium"}))


def test_projection_keeps_the_named_fields_and_the_id() -> None:
    query = DatasetQuerySpec(projected_fields=["n"])

    item = next(iter(select(lambda: scan(ITEMS), query, global_seed=1)))

    assert (item.item_id, item.payload, item.metadata) == ("q0", {"n": 0}, {"topic": "0"})
    assert item.hash != next(scan(ITEMS)).hash


def test_a_projected_field_that_does_not_exist_is_named() -> None:
    with pytest.raises(SpecValidationError, match="'q0' has no field 'm' to project; it has id"):
        taken(DatasetQuerySpec(projected_fields=["m"]))


class TestAllocate:
    """Largest remainders: exact, within one of the proportion, never more than there are."""

    @given(
        st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1, max_size=8), st.data()
    )
    def test_shares_are_exact_and_proportional(self, sizes: dict[str, int], data: Any) -> None:
        total = sum(sizes.values())
        count = data.draw(st.integers(0, total))

        shares = allocate(sizes, count)

        assert sum(shares.values()) == count
        for label, share in shares.items():
            assert share <= sizes[label]
            assert abs(share - sizes[label] * count / total) < 1
