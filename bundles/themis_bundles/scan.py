"""Join the records of a shard with its planned items.

One pass over every attempt's file proves each record against the digest of the item that it
claims to answer, and notes where it lies. Which record stands for an item is then decided by a
rule that does not depend on the order of files: an answer beats a failure, a failure of the
item beats one of the machine, and among equals the attempt that started first, then the lower
attempt id. Answers that differ in content are a conflict and nothing is chosen. Memory holds
a few numbers per record, never the records.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import orjson

from themis_bundles.attempts import MAX_PROBLEMS, AttemptFrame, AttemptReader, attempts_of
from themis_bundles.canonical import batches, parse_canonical
from themis_bundles.errors import BundleInvalidError, CanonicalError, FrameDamagedError
from themis_bundles.problems import Kind, Problem
from themis_bundles.reader import Bundle
from themis_bundles.records import Decoder, FailedLine, RecordLine, content_digest

OK, MODEL, INFRA = 0, 1, 2
"""What a record says, best first."""

VERDICTS = ("ok", "model_error", "infra_error")

RECORDS_PER_ITEM = 16
"""How many records one attempt may hold per item, and some; no worker comes near it."""

_CACHE = 64 * 2**20


class Entry(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a record lies and what it says."""

    rank: int
    """OK, MODEL or INFRA."""

    attempt: int
    """The place of its attempt among the readers."""

    offset: int
    """Where its frame begins."""

    line: int
    """Its place in the frame, from 0."""

    code: str
    """The code of the failure; empty for an answer."""


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What was decided for one item."""

    verdict: str
    """ok, model_error, infra_error, missing or conflict."""

    entry: Entry | None
    """The record that stands for the item; under a conflict, the first by the rule."""


@dataclass
class Scan:
    """The records of one shard, joined with its items.

    Attributes:
        bundle: The bundle.
        shard_index: The shard.
        readers: One reader per attempt, by attempt id, all exhausted.
        entries: The valid records of each item, by the item's place in the shard.
        problems: What is wrong with any record or file.
        counts: How many records are foreign, mismatched or corrupt, duplicate or superseded.
    """

    bundle: Bundle
    shard_index: int
    readers: list[AttemptReader] = field(default_factory=list)
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("duplicate", "superseded", "foreign", "mismatched", "corrupt"), 0
        )
    )

    def __post_init__(self) -> None:
        self.listed: dict[int, int] = {}
        self._frames: dict[tuple[int, int], tuple[int, int]] = {}
        self._dropped: dict[tuple[int, int], bytes] = {}
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._cached = 0

    def line(self, entry: Entry) -> bytes:
        """Return the line of a record, as it was when it was proved.

        Raises:
            BundleInvalidError: When its file changed since it was scanned.
        """
        key = (entry.attempt, entry.offset)
        lines = self._cache.get(key)
        if lines is None:
            reader = self.readers[entry.attempt]
            try:
                lines = reader.reread(entry.offset, self._frames[key][1])
            except (FrameDamagedError, OSError) as error:
                raise self._changed(reader, str(error)) from None
            if _digest(lines) != self._dropped[key]:
                raise self._changed(reader, "other records than before")
            self._hold(key, lines)
        else:
            self._cache.move_to_end(key)
        return lines[entry.line]

    def _changed(self, reader: AttemptReader, what: str) -> BundleInvalidError:
        reason = f"{reader.name}: changed: while it was read: {what}"
        return BundleInvalidError(self.bundle.path, (reason,))

    def keep(self, attempt: int, frame: AttemptFrame) -> None:
        """Remember where a frame lies, and its lines for as long as there is room."""
        key = (attempt, frame.offset)
        self._frames[key] = frame.number, frame.size
        self._hold(key, frame.lines)

    def _hold(self, key: tuple[int, int], lines: list[bytes]) -> None:
        self._cache[key] = lines
        self._cached += _weight(lines)
        while self._cached > _CACHE and len(self._cache) > 1:
            old, dropped = self._cache.popitem(last=False)
            self._cached -= _weight(dropped)
            # Whoever reads the frame again must get the bytes that were proved.
            self._dropped[old] = _digest(dropped)

    def problem(self, entry: Entry, rule: str, message: str, kind: Kind) -> Problem:
        """Return a problem with a record, with the place where it lies."""
        number, _ = self._frames[entry.attempt, entry.offset]
        name = self.readers[entry.attempt].name
        return Problem(name, number, entry.line + 1, rule, message, kind)

    def records(self, *, resolve: Literal["refuse", "first"]) -> Iterator[tuple[int, Entry]]:
        """Give the record that stands for each item that has one, by the item's place.

        Args:
            resolve: What to do with answers that differ: give none, or the first by the rule.
        """
        for index, choice in enumerate(self.choices()):
            entry = choice.entry
            if entry is not None and (choice.verdict != "conflict" or resolve == "first"):
                yield index, entry

    def verdicts(self) -> tuple[dict[str, int], list[int]]:
        """Count the verdicts, and return the places of the items in conflict.

        The same as counting `choices`, without naming a record for every item.
        """
        single = [found[0].rank for found in self.entries.values() if len(found) == 1]
        counts = {verdict: single.count(rank) for rank, verdict in enumerate(VERDICTS)}
        counts["missing"] = self.bundle.shard(self.shard_index).items - len(self.entries)
        counts["conflict"] = 0
        conflicts = []
        place = self._places()
        for index in sorted(i for i, found in self.entries.items() if len(found) > 1):
            verdict = self._decide(self.entries[index], place).verdict
            counts[verdict] += 1
            if verdict == "conflict":
                conflicts.append(index)
        return counts, conflicts

    def choices(self) -> Iterator[Choice]:
        """Decide for each item of the shard, in order; counts duplicates on the way."""
        place = self._places()
        none = Choice("missing", None)
        for index in range(self.bundle.shard(self.shard_index).items):
            found = self.entries.get(index)
            if found is None:
                yield none
            elif len(found) == 1:
                yield Choice(VERDICTS[found[0].rank], found[0])
            else:
                yield self._decide(found, place)

    def _places(self) -> dict[int, int]:
        """Return the place of each attempt in the order that breaks ties."""
        order = sorted(range(len(self.readers)), key=lambda i: _start(self.readers[i]))
        return {attempt: place for place, attempt in enumerate(order)}

    def _decide(self, found: list[Entry], place: dict[int, int]) -> Choice:
        found = sorted(found, key=lambda e: (e.rank, place[e.attempt], e.offset, e.line))
        first = found[0]
        if first.rank != OK:
            self.counts["superseded"] += len(found) - 1
            return Choice(VERDICTS[first.rank], first)
        answers = [entry for entry in found if entry.rank == OK]
        self.counts["superseded"] += len(found) - len(answers)
        contents = {self._content(entry) for entry in answers}
        self.counts["duplicate"] += len(answers) - len(contents)
        return Choice("ok" if len(contents) == 1 else "conflict", first)

    def _content(self, entry: Entry) -> str:
        return content_digest(orjson.loads(self.line(entry))["record"])


def scan(bundle: Bundle, shard_index: int, marks: dict[str, frozenset[int]] | None = None) -> Scan:
    """Read all attempts at a shard.

    Args:
        bundle: The bundle.
        shard_index: The shard.
        marks: Per attempt, the lengths at which a digest of its file is wanted.

    Raises:
        BundleInvalidError: When the shard's list of item digests is not what the manifest says.
    """
    joined = Scan(bundle, shard_index)
    attempts = attempts_of(bundle, shard_index)
    if not attempts:
        return joined
    digests = bundle.item_digests(shard_index).hex()
    decoder = Decoder(bundle.manifest.stage)
    items = bundle.shard(shard_index).items
    most = RECORDS_PER_ITEM * items + MAX_PROBLEMS
    for number, attempt in enumerate(attempts):
        wanted = (marks or {}).get(attempt, frozenset())
        reader = AttemptReader(bundle, shard_index, attempt, wanted)
        joined.readers.append(reader)
        for frame in reader:
            if reader.records > most:
                reader.give_up(f"more than {most} records for {items} items")
                continue
            joined.keep(number, frame)
            _take(joined, number, frame, digests, decoder)
        joined.problems.extend(reader.problems)
        joined.counts["foreign"] += reader.foreign
        joined.counts["corrupt"] += sum(p.kind == "corrupt" for p in reader.problems)
    return joined


def _take(joined: Scan, number: int, frame: AttemptFrame, digests: str, decoder: Decoder) -> None:
    """Prove the records of one frame and note where they lie."""
    shard = joined.bundle.shard(joined.shard_index)
    first, items, offset = shard.first_seq, shard.items, frame.offset
    entries, failed = joined.entries, FailedLine
    reader = joined.readers[number]
    place = -1
    for value in _typed(joined, number, frame, decoder):
        place += 1
        if reader.given_up:
            return
        if value is None:
            continue
        index = value.seq - first
        if not 0 <= index < items:
            _add(joined, number, frame, place, "foreign", f"item {value.seq} is not in this shard")
            continue
        if value.item_sha256 != digests[64 * index : 64 * index + 64]:
            message = f"item {value.seq} is not the item that was planned"
            _add(joined, number, frame, place, "mismatched", message)
            continue
        if type(value) is failed:
            failure = value.record.error
            rank = MODEL if failure.kind == "model" else INFRA
            entry = Entry(rank, number, offset, place, failure.code)
        else:
            entry = Entry(OK, number, offset, place, "")
        if index in entries:
            entries[index].append(entry)
        else:
            entries[index] = [entry]


def _typed(
    joined: Scan, number: int, frame: AttemptFrame, decoder: Decoder
) -> Iterator[RecordLine | None]:
    """Give the typed value of every line of a frame, None for one that is out of order."""
    place = 0
    for batch in batches(frame.lines):
        if batch.values is not None:
            try:
                yield from decoder.many(batch.values)
            except msgspec.ValidationError:
                pass
            else:
                place += len(batch.lines)
                continue
        for line in batch.lines:
            try:
                value = decoder.one(parse_canonical(line))
            except CanonicalError as error:
                _add(joined, number, frame, place, "json", str(error))
                yield None
            except msgspec.ValidationError as error:
                _add(joined, number, frame, place, "schema", str(error))
                yield None
            else:
                yield value
            place += 1


def _add(
    joined: Scan, number: int, frame: AttemptFrame, place: int, rule: str, message: str
) -> None:
    kind: Kind = "corrupt"
    if rule == "foreign":
        kind = "foreign"
    elif rule == "mismatched":
        kind = "mismatched"
    reader = joined.readers[number]
    joined.counts[kind] += 1
    joined.problems.append(Problem(reader.name, frame.number, place + 1, rule, message, kind))
    joined.listed[number] = joined.listed.get(number, 0) + 1
    if joined.listed[number] == MAX_PROBLEMS:
        reader.give_up(f"{MAX_PROBLEMS} problems")


def _start(reader: AttemptReader) -> tuple[float, str]:
    return (reader.header.started if reader.header else 0.0, reader.attempt)


def _digest(lines: list[bytes]) -> bytes:
    return hashlib.sha256(b"\n".join(lines)).digest()


def _weight(lines: list[bytes]) -> int:
    return sum(map(len, lines)) + 64 * len(lines)
