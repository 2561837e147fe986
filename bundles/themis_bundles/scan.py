"""Join the records of a shard with its planned items.

One pass over every attempt's file proves each record against the digest of the item that it
claims to answer, and notes where it lies. Which record stands for an item is then decided by a
rule that does not depend on the order of files: an answer beats a failure, a failure of the
item beats one of the machine, and among equals the attempt that started first, then the lower
attempt id. Answers that differ in content are a conflict and nothing is chosen. Memory holds
a few numbers per record, never the records.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from themis_bundles.attempts import AttemptReader, attempts_of
from themis_bundles.canonical import parse_canonical
from themis_bundles.errors import BundleInvalidError, CanonicalError, FrameDamagedError
from themis_bundles.problems import Kind, Problem
from themis_bundles.reader import Bundle
from themis_bundles.records import FailedLine, content_digest, converter

OK, MODEL, INFRA = 0, 1, 2
"""What a record says, best first."""

VERDICTS = ("ok", "model_error", "infra_error")

_CACHE = 64 * 2**20


class Entry(NamedTuple):
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


class Choice(NamedTuple):
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
        self._sizes: dict[tuple[int, int], int] = {}
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._cached = 0

    def line(self, entry: Entry) -> bytes:
        """Return the line of a record.

        Raises:
            BundleInvalidError: When its file changed since it was scanned.
        """
        key = (entry.attempt, entry.offset)
        lines = self._cache.get(key)
        if lines is None:
            reader = self.readers[entry.attempt]
            try:
                lines = reader.reread(entry.offset, self._sizes[key])
            except (FrameDamagedError, OSError) as error:
                raise BundleInvalidError(
                    self.bundle.path, (f"{reader.name}: changed while it was read: {error}",)
                ) from None
            self.keep(entry.attempt, entry.offset, self._sizes[key], lines)
        else:
            self._cache.move_to_end(key)
        return lines[entry.line]

    def keep(self, attempt: int, offset: int, size: int, lines: list[bytes]) -> None:
        """Remember where a frame lies, and its lines for as long as there is room."""
        self._sizes[attempt, offset] = size
        self._cache[attempt, offset] = lines
        self._cached += _weight(lines)
        while self._cached > _CACHE and len(self._cache) > 1:
            self._cached -= _weight(self._cache.popitem(last=False)[1])

    def choices(self) -> Iterator[Choice]:
        """Decide for each item of the shard, in order; counts duplicates on the way."""
        order = sorted(range(len(self.readers)), key=lambda i: _start(self.readers[i]))
        place = {attempt: rank for rank, attempt in enumerate(order)}
        none = Choice("missing", None)
        for index in range(self.bundle.shard(self.shard_index).items):
            found = self.entries.get(index)
            if found is None:
                yield none
            elif len(found) == 1:
                yield Choice(VERDICTS[found[0].rank], found[0])
            else:
                yield self._decide(found, place)

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
        return content_digest(self.record(entry)["record"])

    def record(self, entry: Entry) -> dict[str, Any]:
        """Return the parsed line of a record."""
        value = parse_canonical(self.line(entry))
        if type(value) is not dict:
            raise BundleInvalidError(
                self.bundle.path, (f"{self.readers[entry.attempt].name}: changed",)
            )
        return value


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
    shard = bundle.shard(shard_index)
    digests = bundle.item_digests(shard_index).hex()
    convert = converter(bundle.manifest.stage)
    for number, attempt in enumerate(attempts):
        reader = AttemptReader(
            bundle, shard_index, attempt, (marks or {}).get(attempt, frozenset())
        )
        joined.readers.append(reader)
        for frame in reader:
            joined.keep(number, frame.offset, frame.size, frame.lines)
            for place, line in enumerate(frame.lines):
                try:
                    value = convert(parse_canonical(line))
                except (CanonicalError, msgspec.ValidationError) as error:
                    rule = "json" if isinstance(error, CanonicalError) else "schema"
                    _add(joined, reader, frame.number, place, rule, str(error), "corrupt")
                    continue
                index = value.seq - shard.first_seq
                if not 0 <= index < shard.items:
                    message = f"item {value.seq} is not in this shard"
                    _add(joined, reader, frame.number, place, "foreign", message, "foreign")
                    continue
                if value.item_sha256 != digests[64 * index : 64 * index + 64]:
                    message = f"item {value.seq} is not the item that was planned"
                    _add(joined, reader, frame.number, place, "mismatched", message, "mismatched")
                    continue
                if isinstance(value, FailedLine):
                    failure = value.record.error
                    rank = MODEL if failure.kind == "model" else INFRA
                    entry = Entry(rank, number, frame.offset, place, failure.code)
                else:
                    entry = Entry(OK, number, frame.offset, place, "")
                joined.entries.setdefault(index, []).append(entry)
        joined.problems.extend(reader.problems)
        joined.counts["foreign"] += reader.foreign
        joined.counts["corrupt"] += sum(p.kind == "corrupt" for p in reader.problems)
    return joined


def _add(
    joined: Scan, reader: AttemptReader, frame: int, place: int, rule: str, message: str, kind: Kind
) -> None:
    joined.counts[kind] += 1
    joined.problems.append(Problem(reader.name, frame, place + 1, rule, message, kind))


def _start(reader: AttemptReader) -> tuple[float, str]:
    return (reader.header.started if reader.header else 0.0, reader.attempt)


def _weight(lines: list[bytes]) -> int:
    return sum(map(len, lines)) + 64 * len(lines)
