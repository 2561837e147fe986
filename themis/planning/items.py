"""Dataset items: from the rows of a source to items with an id and a content hash.

A row is an object, or, from a provider in Python, a JSON scalar. Its id is its field `item_id`,
else its field `id`, else the hash of its content, so a dataset without ids can be reordered
and cut without changing which work is the same work.

Two rows with the same given id are an error that names both places. Two identical rows without
an id are both kept: the second is `<hash>~2`, in its id and in its hash, because a duplicate
that silently leaves a dataset changes the denominator.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from themis.errors import ErrorCode, SpecValidationError
from themis_bundles import CanonicalError, canonical_json, sha256_hex

ID_FIELDS = ("item_id", "id")
"""The fields that name an item, in the order they are tried."""


class DataItem(msgspec.Struct, frozen=True, gc=False):
    """One item of a dataset, as prompts and metrics see it."""

    item_id: str
    """Its name, unique in its slice."""

    payload: Mapping[str, Any]
    """Its fields, `item_id` and `metadata` included when the row had them."""

    metadata: Mapping[str, str]
    """The row's field `metadata`, every value as text; empty when there is none."""

    hash: str
    """SHA-256 over the canonical JSON of the payload, 64 hex characters."""

    canonical: bytes
    """The canonical JSON of the payload."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of a source and where it lies, for errors."""

    source: str
    """The file or provider."""

    unit: str
    """What `number` counts: `line`, `row`, `element` or `item`."""

    number: int
    """Its position, counted from 1."""

    value: Any
    """The JSON value."""

    @property
    def place(self) -> str:
        """Where it lies, as `questions.jsonl, line 3`."""
        return f"{self.source}, {self.unit} {self.number}"

    def refuse(self, reason: str) -> SpecValidationError:
        """Return the error that says what is wrong with this row."""
        return SpecValidationError(
            f"{self.place}: {reason}",
            code=ErrorCode.ITEM_LOAD,
            details={"source": self.source, self.unit: self.number},
        )


def read_items(rows: Callable[[], Iterable[Row]]) -> Iterator[DataItem]:
    """Turn the rows of a source into items, in their order, one at a time.

    Memory grows by about 12 bytes for each row, to find repeats.

    Args:
        rows: Starts reading the source; called again only to word an error.

    Raises:
        SpecValidationError: A row is no JSON object or scalar, or its id was given before.
    """
    seen = _Seen()
    repeats: Counter[str] = Counter()
    for row in rows():
        item, given = _item(row)
        if seen.is_new(item.item_id):
            yield item
        elif given:
            first = next(old for old in rows() if _item(old)[0].item_id == item.item_id)
            if first.place != row.place:
                raise row.refuse(f"the item id {item.item_id!r} was given before, at {first.place}")
            yield item  # two ids with one 64-bit mark; both are new
        else:
            repeats[item.item_id] += 1
            suffix = f"~{repeats[item.item_id] + 1}"
            yield DataItem(
                item_id=item.item_id + suffix,
                payload=item.payload,
                metadata=item.metadata,
                hash=sha256_hex((item.hash + suffix).encode()),
                canonical=item.canonical,
            )


def project(item: DataItem, fields: Iterable[str]) -> DataItem:
    """Keep only these fields of an item; its id and metadata stay, its hash is made anew.

    Raises:
        SpecValidationError: The item lacks one of the fields.
    """
    wanted = list(fields)
    missing = [field for field in wanted if field not in item.payload]
    if missing:
        raise SpecValidationError(
            f"Item {item.item_id!r} has no field {missing[0]!r} to project; "
            f"it has {', '.join(sorted(item.payload))}",
            code=ErrorCode.ITEM_LOAD,
        )
    payload = {field: item.payload[field] for field in wanted}
    canonical = canonical_json(payload)
    return DataItem(item.item_id, payload, item.metadata, sha256_hex(canonical), canonical)


def text_of(value: Any) -> str:
    """Write a JSON value as text: text as it is, anything else as canonical JSON.

    >>> text_of("a"), text_of(5), text_of(True)
    ('a', '5', 'true')
    """
    return value if isinstance(value, str) else canonical_json(value).decode()


def fingerprint(hashes: Iterable[str]) -> str:
    """Return SHA-256 over the hashes of a dataset's items, in their order.

    Two datasets have one fingerprint exactly when they hold the same items in the same order.
    """
    return sha256_hex("\n".join(hashes).encode("ascii"))


class _Seen:
    """Which ids there were, by 64 bits of their hash.

    A set of integers takes 65 to 100 bytes for each; this takes 12 for a million, and 0.4 µs.
    """

    _TAIL = 6

    def __init__(self) -> None:
        self._tails: list[bytearray | None] = [None] * 2**16

    def is_new(self, item_id: str) -> bool:
        """Take an id and tell whether it came for the first time."""
        mark = hash(item_id)
        tail = (mark >> 16).to_bytes(self._TAIL, "little", signed=True)
        tails = self._tails[mark & 0xFFFF]
        if tails is None:
            self._tails[mark & 0xFFFF] = bytearray(tail)
            return True
        at = tails.find(tail)
        while at > 0 and at % self._TAIL:
            at = tails.find(tail, at + 1)
        if at >= 0:
            return False
        tails += tail
        return True


def _item(row: Row) -> tuple[DataItem, bool]:
    """Return the item of a row, and whether its id was given rather than made."""
    value = row.value
    named = type(value) is dict or isinstance(value, Mapping)
    if named:
        payload: dict[str, Any] = value if type(value) is dict else dict(value)
    elif value is None or isinstance(value, str | int | float):
        payload = {"value": value}
    else:
        raise row.refuse(f"an item must be an object or a scalar, not {type(value).__name__}")
    try:
        canonical = canonical_json(payload)
    except CanonicalError as error:
        raise row.refuse(f"the item is not portable JSON: {error}") from error
    content = sha256_hex(canonical)
    given = _given_id(row) if named else None
    name = given or (content if named else text_of(value))
    return DataItem(name, payload, metadata_of(payload), content, canonical), given is not None


def _given_id(row: Row) -> str | None:
    for field in ID_FIELDS:
        value = row.value.get(field)
        if value is None:
            continue
        if type(value) is str and value:
            return value
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise row.refuse(f"{field} must be text or a whole number, not {value!r}")
        return str(value)
    return None


def metadata_of(payload: Mapping[str, Any]) -> dict[str, str]:
    """Return an item's field `metadata`, every value as text; empty when there is none."""
    metadata = payload.get("metadata")
    if metadata is None or not isinstance(metadata, Mapping):
        return {}
    return {key: text_of(value) for key, value in metadata.items()}
