"""Prove a bundle and its results, and count what is there: the census.

For each planned item there is exactly one verdict; every other record is counted as what it
is. Damage in results never raises: each problem is listed with its file, frame, line and rule.
Memory is bounded by the largest shard's keys.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

from themis_bundles.attempts import (
    DONE,
    SUFFIX,
    attempts_of,
    first_reason,
    is_attempt_id,
    list_folder,
)
from themis_bundles.bagcheck import bag_problems
from themis_bundles.canonical import sha256_hex
from themis_bundles.errors import BundleInvalidError
from themis_bundles.files import opened_inside, read_inside
from themis_bundles.problems import Kind, Problem
from themis_bundles.reader import Bundle, Item
from themis_bundles.receipts import RECEIPT_LIMIT, Done, Status, load
from themis_bundles.records import Record
from themis_bundles.results import shard_state
from themis_bundles.scan import Entry, Scan, scan

VERDICTS = ("ok", "model_error", "infra_error", "missing", "conflict")
"""What an item can be; exactly one of them."""

EXTRAS = ("duplicate", "superseded", "foreign", "mismatched", "corrupt")
"""What a record can be that stands for no item."""


@dataclass(frozen=True)
class Census:
    """What a bundle and its results hold.

    Attributes:
        counts: Items by verdict, and records that stand for no item by kind.
        shards: The same for each shard, by index.
        problems: Everything found, in the order of the files; notes included.
        items: How many items were planned.
    """

    items: int
    counts: Mapping[str, int]
    shards: Mapping[int, Mapping[str, int]]
    problems: tuple[Problem, ...]

    @property
    def complete(self) -> bool:
        """Whether every item was answered or failed for good, and nothing is refused."""
        return not self.refused and self.counts["ok"] + self.counts["model_error"] == self.items

    @property
    def refused(self) -> bool:
        """Whether anything is foreign, mismatched, corrupt or in conflict."""
        return any(self.counts[kind] for kind in ("foreign", "mismatched", "corrupt", "conflict"))

    def to_dict(self) -> dict[str, Any]:
        """Return everything for programs, ready for JSON."""
        return {
            "complete": self.complete,
            "counts": dict(self.counts),
            "items": self.items,
            "problems": [problem.to_dict() for problem in self.problems],
            "refused": self.refused,
            "shards": {str(index): dict(counts) for index, counts in self.shards.items()},
        }


class Chosen(msgspec.Struct, frozen=True, gc=False):
    """The record that stands for an item."""

    item: Item
    """The planned item."""

    record: Record | None
    """Its record; None when it is missing or in conflict."""

    verdict: str
    """ok, model_error, infra_error, missing or conflict."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a receipt or `done.json` says about a result file."""

    source: str
    attempt: str
    bytes: int
    sha256: str


@dataclass
class _Tally:
    """Problems and counts as they are found."""

    problems: list[Problem] = field(default_factory=list)
    extras: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EXTRAS, 0))
    shards: dict[int, dict[str, int]] = field(default_factory=dict)

    def add(self, path: str, rule: str, message: str, kind: Kind = "corrupt") -> None:
        self.problems.append(Problem(path, None, None, rule, message, kind))
        if kind in self.extras:
            self.extras[kind] += 1

    def invalid(self, error: BundleInvalidError) -> None:
        for text in error.problems:
            self.problems.append(Problem.parse(text))
            self.extras["corrupt"] += 1


def verify(
    bundle: Bundle,
    *,
    quick: bool = False,
    require_results: bool = False,
    known: bool = False,
    each: Callable[[Scan], None] | None = None,
) -> Census:
    """Prove a bundle and its results.

    Args:
        bundle: The bundle.
        quick: Prove the digests of the payload and of finished results, believe the receipts
            for the counts, and read no record.
        require_results: Count it as a problem when a shard has no result file at all.
        known: The caller wrote this bundle and kept its digest. Files with the digests that its
            manifest gives are then what was written, and their items are not read again.
        each: Is given the records of each shard as soon as they were proved. What it takes
            from them must not be used when the census then refuses something.

    Returns:
        The census. Damage never raises; it is listed, and `refused` is then true.
    """
    tally = _Tally()
    for problem in bag_problems(bundle):
        tally.problems.append(problem)
        tally.extras["corrupt"] += 1
    _check_components(bundle, tally)
    for shard in bundle.shards:
        joined = _check_shard(bundle, shard.index, tally, quick=quick, known=known)
        if each is not None and joined is not None:
            each(joined)
        if require_results and not attempts_of(bundle, shard.index):
            tally.add(f"results/{shard.index:05d}", "no-results", "no attempt gave results")
    _check_result_names(bundle, tally)
    return _census(bundle, tally)


def chosen(
    bundle: Bundle, shard_index: int, *, resolve: Literal["refuse", "first"] = "refuse"
) -> Iterator[Chosen]:
    """Give each item of a shard, in order, with the record that stands for it.

    An answer beats a failure, a failure of the item beats one of the machine; among equals
    the attempt that started first, then the lower attempt id. The order of files decides
    nothing.

    Args:
        bundle: The bundle.
        shard_index: The shard.
        resolve: What to do with answers that differ: give none, or the first by the rule.
            The verdict is `conflict` either way.

    Raises:
        BundleInvalidError: When the items are not what the manifest says, or a result file
            changed while it was read.
    """
    joined = scan(bundle, shard_index)
    items = bundle.iter_items(shard_index)
    for item, choice in zip(items, joined.choices(), strict=True):
        entry = choice.entry
        if choice.verdict == "conflict" and resolve == "refuse":
            entry = None
        record = None if entry is None else _record(joined, item, entry)
        yield Chosen(item, record, choice.verdict)


def _record(joined: Scan, item: Item, entry: Entry) -> Record:
    reader = joined.readers[entry.attempt]
    line = joined.line(entry)
    value = orjson.loads(line)
    # The file may lie where others can write: what was proved is proved again here.
    if value.get("seq") != item.seq or value.get("item_sha256") != item.sha256:
        reason = f"{reader.name}: changed: item {item.seq} has another record than before"
        raise BundleInvalidError(joined.bundle.path, (reason,))
    return Record(
        seq=item.seq,
        item_sha256=item.sha256,
        status=value["status"],
        record=value["record"],
        line=line,
        sha256=sha256_hex(line),
        attempt=reader.attempt,
    )


def _check_components(bundle: Bundle, tally: _Tally) -> None:
    try:
        bundle.components()
    except BundleInvalidError as error:
        tally.invalid(error)


def shard_problems(bundle: Bundle, shard_index: int) -> tuple[Problem, ...]:
    """Return what is wrong with the items and results of one shard, notes included.

    The same as `verify` lists for it.
    """
    tally = _Tally()
    _check_shard(bundle, shard_index, tally, quick=False)
    return tuple(tally.problems)


def _check_shard(
    bundle: Bundle, index: int, tally: _Tally, *, quick: bool, known: bool = False
) -> Scan | None:
    """Count a shard; return its records when they were read."""
    counts = tally.shards[index] = dict.fromkeys((*VERDICTS, *EXTRAS), 0)
    try:
        if quick:
            bundle.item_digests(index)
            _check_file(bundle, index, tally)
        # A file with another digest is read in full, to say which item is not the planned one.
        elif not known or _differs(bundle, index):
            bundle.prove_items(index)
    except BundleInvalidError as error:
        tally.invalid(error)
        # Nothing can be proved to answer items that cannot be read.
        counts["missing"] = bundle.shard(index).items
        return None
    claims = _claims(bundle, index, tally)
    if quick:
        _check_prefixes(bundle, index, claims, tally)
        state = shard_state(bundle, index)
        for verdict in ("ok", "model_error", "infra_error", "missing"):
            counts[verdict] = getattr(state, verdict)
        return None
    return _join(bundle, index, claims, tally)


def _join(bundle: Bundle, index: int, claims: list[_Claim], tally: _Tally) -> Scan:
    """Read every record of a shard and count it."""
    marks: dict[str, set[int]] = {}
    for claim in claims:
        marks.setdefault(claim.attempt, set()).add(claim.bytes)
    joined = scan(bundle, index, {a: frozenset(lengths) for a, lengths in marks.items()})
    counts = tally.shards[index]
    verdicts, conflicts = joined.verdicts()
    counts.update(verdicts)
    for place in conflicts:
        message = f"item {bundle.shard(index).first_seq + place} has answers that differ in content"
        problem = Problem(f"results/{index:05d}", None, None, "conflict", message, "conflict")
        joined.problems.append(problem)
    tally.problems.extend(joined.problems)
    for kind, count in joined.counts.items():
        counts[kind] += count
        tally.extras[kind] += count
    readers = {reader.attempt: reader for reader in joined.readers}
    for claim in claims:
        reader = readers.get(claim.attempt)
        digest = reader.digests.get(claim.bytes) if reader else None
        _judge(claim, digest, tally)
    return joined


def _check_prefixes(bundle: Bundle, index: int, claims: list[_Claim], tally: _Tally) -> None:
    """Prove the digests that receipts give, without inflating anything."""
    for claim in claims:
        digest = None
        with suppress(OSError):
            name = f"{index:05d}/{claim.attempt}{SUFFIX}"
            digest = _digest_of(bundle.results_dir, name, claim.bytes)
        _judge(claim, digest, tally)


def _differs(bundle: Bundle, index: int) -> bool:
    """Tell whether the files of a shard's items are not those that the manifest lists."""
    found = _Tally()
    bundle.item_digests(index)
    _check_file(bundle, index, found)
    return bool(found.problems)


def _check_file(bundle: Bundle, index: int, tally: _Tally) -> None:
    shard = bundle.shard(index)
    name = f"data/{shard.path}"
    try:
        size = (bundle.path / name).lstat().st_size
        digest = _digest_of(bundle.path, name, shard.bytes)
    except OSError as error:
        tally.add(name, "unreadable", error.strerror or str(error))
        return
    if size != shard.bytes or digest != shard.sha256:
        tally.add(name, "digest", "not what the manifest says")


def _digest_of(root: Path, relative: str, length: int) -> str | None:
    """Return the digest of a file's first bytes, or None when it is shorter."""
    digest = hashlib.sha256()
    with opened_inside(root, relative) as fd:
        while length and (chunk := os.read(fd, min(length, 2**20))):
            digest.update(chunk)
            length -= len(chunk)
    return None if length else digest.hexdigest()


def _judge(claim: _Claim, digest: str | None, tally: _Tally) -> None:
    if digest is None:
        message = f"it vouches for {claim.bytes} bytes of {claim.attempt}, which are not there"
        tally.add(claim.source, "truncated", message)
    elif digest != claim.sha256:
        message = f"the first {claim.bytes} bytes of {claim.attempt} are not those it vouches for"
        tally.add(claim.source, "digest", message)


def _claims(bundle: Bundle, index: int, tally: _Tally) -> list[_Claim]:
    """Return what `done.json` and the status files of a shard say about result files."""
    claims: list[_Claim] = []
    folder = f"{index:05d}"
    for name in list_folder(bundle.results_dir / folder):
        source = f"results/{folder}/{name}"
        stem = name.removesuffix(".json")
        if name.startswith(".") or (name.endswith(SUFFIX) and is_attempt_id(name[: -len(SUFFIX)])):
            continue
        if stem == name or not (name == DONE or is_attempt_id(stem)):
            tally.add(source, "unlisted", "nothing among results has this name", "note")
            continue
        try:
            data = read_inside(bundle.results_dir, f"{folder}/{name}", RECEIPT_LIMIT)
            claims.extend(_read_claims(bundle, index, source, stem, data))
        except (OSError, ValueError) as error:
            tally.add(source, "receipt", first_reason(error))
    return claims


def _read_claims(
    bundle: Bundle, index: int, source: str, stem: str, data: bytes
) -> Iterator[_Claim]:
    receipt: Done | Status = load(Status, data) if stem != "done" else load(Done, data)
    if (receipt.bundle, receipt.shard) != (bundle.digest, index):
        raise ValueError("it belongs to another bundle or shard")
    if isinstance(receipt, Done):
        if receipt.items != bundle.shard(index).items or (
            receipt.ok + receipt.model_error != receipt.items
        ):
            raise ValueError("its counts do not complete the shard")
        for entry in receipt.attempts:
            yield _Claim(source, entry.attempt, entry.bytes, entry.sha256)
    else:
        if receipt.attempt != stem:
            raise ValueError("it belongs to another attempt")
        yield _Claim(source, stem, receipt.bytes, receipt.sha256)


def _check_result_names(bundle: Bundle, tally: _Tally) -> None:
    known = {f"{shard.index:05d}" for shard in bundle.shards}
    for name in list_folder(bundle.results_dir):
        path = f"results/{name}"
        if name not in known and not name.startswith("."):
            tally.add(path, "unknown-shard", "the bundle has no such shard", "foreign")
        elif (bundle.results_dir / name).is_symlink():
            tally.add(path, "link", "links are not followed")


def _census(bundle: Bundle, tally: _Tally) -> Census:
    counts = {
        verdict: sum(shard[verdict] for shard in tally.shards.values()) for verdict in VERDICTS
    }
    return Census(
        items=bundle.manifest.totals.items,
        counts={**counts, **tally.extras},
        shards=tally.shards,
        problems=tuple(tally.problems),
    )
