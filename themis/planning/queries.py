"""Queries: which items of a dataset a slice takes.

The filters come first (`item_ids`, then `metadata_filters`), then the kind:

* `all` takes what is left.
* `subset` takes `count` items, or all when there are fewer: the first ones without a seed,
  which reads no further; a random draw with one.
* `stratified` takes exactly `count` items, each stratum in proportion to its size (largest
  remainders; equal remainders in the order of the labels). Without a seed of its own it draws
  with the project's `global_seed`. With fewer items than `count` it is an error.

A draw ranks items by a hash of seed and item id and takes the lowest. So it does not depend on
the order of the dataset, a larger draw contains a smaller one, and what is taken keeps the
dataset's order.
"""

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from themis.errors import ErrorCode, SpecValidationError
from themis.planning.items import DataItem, project, text_of
from themis.specs import DatasetQuerySpec, SamplingKind

Scan = Callable[[], Iterable[DataItem]]
"""Starts reading a dataset. A random draw reads it twice, so that it need not be held."""


def select(scan: Scan, query: DatasetQuerySpec, *, global_seed: int) -> Iterator[DataItem]:
    """Take the part of a dataset that a query asks for, in the dataset's order.

    Memory is constant for `all` and for the first items of a subset; a random draw holds 12
    bytes for each item of the dataset.

    Args:
        scan: Starts reading the dataset.
        query: What to take.
        global_seed: The project's seed, for a stratified draw without one of its own.

    Raises:
        SpecValidationError: An item id, filter key or field does not exist, there are fewer
            items than a stratified query needs, or nothing is left.
    """
    empty = True
    for item in _sampled(scan, query, global_seed):
        empty = False
        yield project(item, query.projected_fields) if query.projected_fields else item
    if empty:
        raise _refuse("the query leaves no item", query)


def allocate(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Share `count` places among strata in proportion to their sizes.

    The shares add up to `count` exactly, none is larger than its stratum, and each is the
    proportion rounded down or up (method of largest remainders, Hamilton 1792).

    >>> allocate({"hard": 2, "easy": 8}, 9)
    {'easy': 7, 'hard': 2}

    Args:
        sizes: How many items each stratum has.
        count: How many places there are; at most the sum of the sizes.
    """
    total = sum(sizes.values())
    labels = sorted(sizes)
    shares = {label: sizes[label] * count // total for label in labels}
    # Sorting is stable, so equal remainders keep the order of the labels.
    by_remainder = sorted(labels, key=lambda label: -(sizes[label] * count % total))
    for label in by_remainder[: count - sum(shares.values())]:
        shares[label] += 1
    return shares


def _sampled(scan: Scan, query: DatasetQuerySpec, global_seed: int) -> Iterator[DataItem]:
    def filtered() -> Iterator[DataItem]:
        if not query.item_ids and not query.metadata_filters:
            return iter(scan())
        return _filtered(scan(), query)

    if query.kind is SamplingKind.SUBSET and query.seed is None:
        return itertools.islice(filtered(), query.count)
    if query.kind is SamplingKind.ALL:
        return filtered()
    seed = global_seed if query.seed is None else query.seed
    return _drawn(filtered, query, seed)


def _filtered(items: Iterable[DataItem], query: DatasetQuerySpec) -> Iterator[DataItem]:
    wanted = dict.fromkeys(query.item_ids)
    missing = set(wanted)
    unknown_keys = set(query.metadata_filters)
    count = 0
    for count, item in enumerate(items, start=1):  # noqa: B007 - counts for the errors
        if wanted:
            if item.item_id not in wanted:
                continue
            missing.discard(item.item_id)
        if query.metadata_filters and not _matches(item, query.metadata_filters, unknown_keys):
            continue
        yield item
        if wanted and not missing and not query.metadata_filters:
            return
    if missing:
        names = ", ".join(repr(item_id) for item_id in wanted if item_id in missing)
        raise _refuse(f"the dataset of {count} items has no item {names}", query)
    if unknown_keys and count:
        names = ", ".join(sorted(unknown_keys))
        raise _refuse(f"no item has the metadata or field {names} to filter by", query)


def _matches(item: DataItem, filters: Mapping[str, str], unknown_keys: set[str]) -> bool:
    matches = True
    for key, wanted in filters.items():
        value = _labelled(item, key)
        if value is not None:
            unknown_keys.discard(key)
        matches = matches and value == wanted
    return matches


def _labelled(item: DataItem, key: str) -> str | None:
    """Return an item's metadata or, where it has none of that name, its field, as text."""
    if key in item.metadata:
        return item.metadata[key]
    value: Any = item.payload.get(key)
    return None if value is None else text_of(value)


def _drawn(
    filtered: Callable[[], Iterator[DataItem]], query: DatasetQuerySpec, seed: int
) -> Iterator[DataItem]:
    ranks, strata, labels = array("Q"), array("L"), dict[str, int]()
    for item in filtered():
        ranks.append(_rank(seed, item.item_id))
        if query.strata_field:
            label = _labelled(item, query.strata_field)
            if label is None:
                raise _refuse(f"item {item.item_id!r} has no field {query.strata_field!r}", query)
            strata.append(labels.setdefault(label, len(labels)))
    count = query.count or 0
    chosen = (
        _lowest_of_each(ranks, strata, _shares(strata, labels, count, query))
        if query.strata_field
        else _lowest(ranks, range(len(ranks)), count)
    )
    places = iter(sorted(chosen))
    place = next(places, None)
    for number, item in enumerate(filtered()):
        if place is None:
            return
        if number == place:
            if _rank(seed, item.item_id) != ranks[number]:
                raise _refuse(
                    f"the dataset gave other items when it was read again, first {item.item_id!r}",
                    query,
                )
            yield item
            place = next(places, None)


def _shares(
    strata: Sequence[int], labels: Mapping[str, int], count: int, query: DatasetQuerySpec
) -> dict[int, int]:
    if count > len(strata):
        raise _refuse(f"it asks for {count} items, and there are {len(strata)}", query)
    sizes = Counter(strata)
    shares = allocate({label: sizes[code] for label, code in labels.items()}, count)
    return {labels[label]: share for label, share in shares.items()}


def _lowest_of_each(
    ranks: Sequence[int], strata: Sequence[int], shares: Mapping[int, int]
) -> Iterator[int]:
    members: dict[int, array[int]] = {code: array("L") for code in shares}
    for number, code in enumerate(strata):
        members[code].append(number)
    for code, share in shares.items():
        yield from _lowest(ranks, members[code], share)


def _lowest(ranks: Sequence[int], numbers: Sequence[int], count: int) -> list[int]:
    return sorted(numbers, key=ranks.__getitem__)[:count]


def _rank(seed: int, item_id: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{item_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _refuse(reason: str, query: DatasetQuerySpec) -> SpecValidationError:
    return SpecValidationError(
        f"The {query.kind} query cannot be answered: {reason}",
        code=ErrorCode.ITEM_LOAD,
        details={"query": query.canonical_dict()},
    )
