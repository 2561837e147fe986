"""Repair damaged results: keep what is intact, set the damaged files aside, lose nothing else.

Every record of an intact frame is proved again against the item that it answers and written
into a new attempt. The damaged file is moved to `results/.damaged/`, where nothing reads it.
Items are never repaired: a bundle whose payload is damaged must be copied again.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from themis_bundles import files
from themis_bundles.attempts import (
    DONE,
    SUFFIX,
    AttemptReader,
    attempts_of,
    new_attempt_id,
    shard_folder,
)
from themis_bundles.canonical import parse_canonical
from themis_bundles.census import shard_problems
from themis_bundles.errors import BundleInvalidError, CanonicalError
from themis_bundles.problems import Problem
from themis_bundles.reader import Bundle
from themis_bundles.records import Decoder
from themis_bundles.results import ResultWriter, publish_done

DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done about one shard."""

    shard: int
    """The shard."""

    problems: tuple[Problem, ...]
    """What was wrong with it."""

    salvaged: tuple[tuple[str, str, int], ...]
    """The damaged attempt, the attempt that took over its records, and how many there are."""

    moved: tuple[str, ...]
    """The files that were set aside, relative to the results folder."""


def repair(bundle: Bundle, *, dry_run: bool = False) -> tuple[Repaired, ...]:
    """Repair the results of every damaged shard.

    Running it again does nothing more. After a kill in the middle, running it again finishes;
    records that were taken over twice are then duplicates, which harm nothing.

    Args:
        bundle: The bundle.
        dry_run: Only say what is damaged and how many records could be kept.

    Raises:
        BundleInvalidError: When the items of a damaged shard cannot be read: then nothing can
            be proved, and the bundle must be copied again.
        BundleWriteError: When the file system refuses.
    """
    found = []
    for shard in bundle.shards:
        problems = shard_problems(bundle, shard.index)
        wrong = [p for p in problems if p.kind not in {"note", "conflict"}]
        payload = tuple(str(p) for p in wrong if p.path.startswith("data/"))
        if payload:
            raise BundleInvalidError(bundle.path, payload)
        if wrong:
            found.append(_repair(bundle, shard.index, tuple(wrong), dry_run=dry_run))
    return tuple(found)


def _repair(
    bundle: Bundle, index: int, problems: tuple[Problem, ...], *, dry_run: bool
) -> Repaired:
    names = {Path(problem.path).name for problem in problems}
    damaged = [
        attempt
        for attempt in attempts_of(bundle, index)
        if {f"{attempt}{SUFFIX}", f"{attempt}.json"} & names
    ]
    salvaged = [_salvage(bundle, index, attempt, dry_run=dry_run) for attempt in damaged]
    folder = shard_folder(bundle, index)
    aside = {f"{attempt}{ending}" for attempt in damaged for ending in (SUFFIX, ".json")}
    present = sorted(name for name in aside | names | {DONE} if _there(folder / name))
    if not dry_run:
        with files.write_errors(folder):
            _move(folder, present)
            publish_done(bundle, index)
    return Repaired(
        shard=index,
        problems=problems,
        salvaged=tuple(salvaged),
        moved=tuple(f"{folder.name}/{name}" for name in present),
    )


def _salvage(bundle: Bundle, index: int, attempt: str, *, dry_run: bool) -> tuple[str, str, int]:
    """Write the valid records of a damaged attempt into a new one."""
    reader = AttemptReader(bundle, index, attempt, salvage=True)
    records = _valid(bundle, index, reader)
    first = next(records, None)
    if first is None or dry_run:
        return attempt, "", sum(1 for _ in records) + (first is not None)
    provenance: dict[str, Any] = dict(reader.header.provenance) if reader.header else {}
    provenance["repaired_from"] = attempt
    new, kept = new_attempt_id(), 0
    with ResultWriter(bundle, index, new, header=provenance) as writer:
        for value in itertools.chain((first,), records):
            writer.append(value["seq"], value["item_sha256"], value["status"], value["record"])
            kept += 1
        writer.close("partial", f"repaired from {attempt}")
    return attempt, new, kept


def _valid(bundle: Bundle, index: int, reader: AttemptReader) -> Iterator[dict[str, Any]]:
    """Give the records of a file that answer an item of the shard, each of them once."""
    shard, digests = bundle.shard(index), bundle.item_digests(index).hex()
    decode = Decoder(bundle.manifest.stage).one
    seen: set[bytes] = set()
    for line in (line for frame in reader for line in frame.lines):
        try:
            value = parse_canonical(line)
            place = decode(value).seq - shard.first_seq
        except (CanonicalError, msgspec.ValidationError):
            continue
        planned = digests[64 * place : 64 * place + 64] if 0 <= place < shard.items else None
        digest = hashlib.sha256(line).digest()
        if value["item_sha256"] == planned and digest not in seen:
            # A damaged file may hold one record a million times; the new one must not.
            seen.add(digest)
            yield value


def _there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _move(folder: Path, names: list[str]) -> None:
    target = folder.parent / DAMAGED / folder.name
    files.make_folder(target.absolute())
    for name in names:
        place, number = target / name, 0
        while _there(place):
            number += 1
            place = target / f"{name}.{number}"
        (folder / name).rename(place)
    files.sync_folder(target)
    files.sync_folder(folder)
