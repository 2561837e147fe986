"""Write results so that a kill at any instant costs at most what was in flight.

A `ResultWriter` owns one new file per attempt. Every flush writes one whole zstd frame and
syncs it, so whatever was flushed survives SIGKILL, a full disk or a power loss. Former attempts
are only read: `finished` tells a new attempt what is left to do.
"""

import hashlib
import os
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import orjson
from pydantic import JsonValue

from themis_bundles import files
from themis_bundles.attempts import (
    DONE,
    SUFFIX,
    attempts_of,
    is_attempt_id,
    list_folder,
    shard_folder,
)
from themis_bundles.canonical import canonical_json, sha256_hex
from themis_bundles.errors import BundleWriteError, CanonicalError, RecordRefusedError
from themis_bundles.frames import FRAME_BYTES, compressor, refusal
from themis_bundles.manifest import VERSION
from themis_bundles.reader import Bundle
from themis_bundles.receipts import (
    DONE_FORMAT,
    RECEIPT_LIMIT,
    RESULTS_FORMAT,
    Done,
    DoneAttempt,
    Footer,
    Header,
    Outcome,
    Status,
    dump,
    load,
)
from themis_bundles.records import Decoder
from themis_bundles.scan import INFRA, MODEL, OK, Entry, Scan, scan

STATUS_SECONDS = 10.0
"""How often a status file is replaced, at most."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """How far a shard is."""

    items: int
    """Items of the shard."""

    ok: int
    """Items that were answered."""

    model_error: int
    """Items that failed by their own fault, for good."""

    infra_error: int
    """Items that failed by the machine's fault and can be tried again."""

    missing: int
    """Items without any record."""

    attempts: tuple[str, ...]
    """The attempts that have a result file, by name."""

    done: bool
    """Whether `done.json` completes the shard."""


class ResultWriter:
    """Appends the records of one attempt at a shard to a file of its own.

    Not for several threads at once. As a context manager it closes itself: `failed` with the
    error's name when the block raised.

    Args:
        bundle: The bundle whose items are executed.
        shard_index: The shard.
        attempt: A new attempt's name, from `new_attempt_id`.
        header: Provenance: the engine, its versions, the machine. Never secrets.
        flush_records: Flush after so many records.
        flush_seconds: Flush when the oldest waiting record is so old.

    Attributes:
        attempt: The attempt's name.
        path: Its result file.
        flushed: How many records are durable.

    Raises:
        BundleExistsError: When the attempt has a file already.
        BundleInvalidError: When the shard's item digests are not what the manifest says.
        BundleWriteError: When the file system refuses.
    """

    def __init__(
        self,
        bundle: Bundle,
        shard_index: int,
        attempt: str,
        *,
        header: Mapping[str, JsonValue],
        flush_records: int = 64,
        flush_seconds: float = 5.0,
    ) -> None:
        if not is_attempt_id(attempt):
            raise ValueError(f"{attempt!r} cannot name an attempt: use letters, digits, '_.-'")
        if flush_records < 1:
            raise ValueError("flush_records must be at least 1")
        self.attempt = attempt
        self.flushed = 0
        self._bundle = bundle
        self._shard = bundle.shard(shard_index)
        self._digests = bundle.item_digests(shard_index).hex()
        self._ranks = _best(scan(bundle, shard_index))
        self._flush_records, self._flush_seconds = flush_records, flush_seconds
        self._decode = Decoder(bundle.manifest.stage).one
        self._compress = compressor(3).compress
        self._pending: list[bytes] = []
        self._pending_ranks: list[tuple[int, int]] = []
        self._pending_bytes = 0
        self._oldest = 0.0
        self._hash = hashlib.sha256()
        self._bytes = 0
        self._started = time.time()
        self._status_at = float("-inf")
        self._fields: dict[str, JsonValue] = {}
        self._broken: BundleWriteError | None = None
        self._closed = False
        folder = shard_folder(bundle, shard_index)
        self.path = folder / f"{attempt}{SUFFIX}"
        provenance = dict(header)
        first = Header(
            format=RESULTS_FORMAT,
            version=VERSION,
            bundle=bundle.digest,
            plan=bundle.manifest.plan_digest,
            shard=shard_index,
            attempt=attempt,
            started=self._started,
            provenance=provenance,
            provenance_sha256=sha256_hex(canonical_json(provenance)),
        )
        line = canonical_json({"header": first.model_dump(mode="json")})
        with files.write_errors(self.path):
            files.make_folder(folder.absolute())
            self._fd = files.create(self.path)
            try:
                self._write([line])
                files.sync_folder(folder)
            except BaseException:
                os.close(self._fd)
                raise

    def append(
        self,
        seq: int,
        item_sha256: str,
        status: Literal["ok", "error"],
        record: Mapping[str, Any],
    ) -> None:
        """Take a record; it is durable after the next flush.

        Args:
            seq: The item that it answers.
            item_sha256: The digest of the item line that was executed.
            status: Whether there is an answer.
            record: What was answered, or what failed.

        Raises:
            RecordRefusedError: When the format cannot carry the record; nothing was taken.
            BundleWriteError: When a flush failed, now or before.
        """
        self._usable()
        index = seq - self._shard.first_seq
        if not 0 <= index < self._shard.items:
            raise RecordRefusedError(seq, "the item is not in this shard")
        if item_sha256 != self._digests[64 * index : 64 * index + 64]:
            raise RecordRefusedError(seq, "item_sha256 is not the planned item's digest")
        value = {"item_sha256": item_sha256, "record": record, "seq": seq, "status": status}
        try:
            line = canonical_json(value)
            self._decode(orjson.loads(line))
        except (CanonicalError, msgspec.ValidationError) as error:
            raise RecordRefusedError(seq, str(error)) from None
        self._refuse_long(seq, line)
        if self._pending and self._pending_bytes + len(line) >= FRAME_BYTES:
            self.flush()
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(line)
        self._pending_ranks.append((index, _rank(status, record)))
        self._pending_bytes += len(line) + 1
        if len(self._pending) >= self._flush_records:
            self.flush()
        else:
            self.maybe_flush()

    def flush(self) -> None:
        """Write what is waiting as one frame, through to the disk.

        Raises:
            BundleWriteError: When the file system refuses. What was flushed before is kept,
                what was waiting is not durable, and this writer takes nothing more.
        """
        self._usable()
        if not self._pending:
            return
        with files.write_errors(self.path):
            self._write(self._pending)
        self.flushed += len(self._pending)
        for index, rank in self._pending_ranks:
            self._ranks[index] = min(rank, self._ranks.get(index, INFRA))
        self._pending.clear()
        self._pending_ranks.clear()
        self._pending_bytes = 0

    def maybe_flush(self) -> None:
        """Flush when the oldest waiting record is old enough; cheap enough for any loop."""
        if self._pending and time.monotonic() - self._oldest >= self._flush_seconds:
            self.flush()

    def status(self, *, force: bool = False, **fields: JsonValue) -> None:
        """Say how far the attempt is, in `<attempt>.json`, at most every 10 seconds.

        Args:
            force: Write now.
            **fields: Anything worth watching, such as `tokens`; kept for later calls.

        Raises:
            CanonicalError: When a field is no JSON value, such as NaN.
            BundleWriteError: When the file system refuses.
        """
        # What cannot be written must not stay, or the receipt could not be written either.
        canonical_json(fields)
        self._fields.update(fields)
        now = time.monotonic()
        if force or now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            with files.write_errors(self.path.with_name(f"{self.attempt}.json")):
                self._write_status("running", None, "")

    def close(self, state: Outcome = "complete", cause: str = "") -> None:
        """Flush, write the footer and the receipt, and publish `done.json` when all is done.

        Whether the shard is complete is read from the records on disk, of all attempts, not
        from `state`. Closing twice does nothing. After a failed flush the receipt is written
        as far as the disk allows, and no error is raised again.

        Raises:
            BundleWriteError: When the file system refuses.
        """
        if self._closed:
            return
        self._closed = True
        receipt = self.path.with_name(f"{self.attempt}.json")
        try:
            if self._broken is not None:
                with suppress(OSError):
                    self._write_status("ended", "failed", cause or self._broken.reason)
                return
            self.flush()
            footer = Footer(
                records=self.flushed,
                bytes=self._bytes,
                sha256=self._hash.hexdigest(),
                outcome=state,
                cause=cause,
            )
            with files.write_errors(self.path):
                self._write([canonical_json({"footer": footer.model_dump(mode="json")})])
            with files.write_errors(receipt):
                self._write_status("ended", state, cause)
        finally:
            self._release()
        if self._broken is not None:
            raise self._broken
        with files.write_errors(self.path.with_name(DONE)):
            publish_done(self._bundle, self._shard.index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # The first error is the one to see; a second one, while closing, would hide it.
        with suppress(BundleWriteError):
            self.close("failed", f"{type(error).__name__}: {error}")

    def _release(self) -> None:
        """Close the file; some network file systems report a lost write only now."""
        try:
            os.close(self._fd)
        except OSError as error:
            self._broken = BundleWriteError(self.path, error.strerror or str(error))

    def _usable(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _refuse_long(self, seq: int, line: bytes) -> None:
        limit = self._bundle.manifest.line_limit
        if len(line) > limit:
            reason = f"a line of {len(line)} bytes is longer than the limit of {limit}"
            raise RecordRefusedError(seq, reason)
        if len(line) >= FRAME_BYTES:
            blown = refusal(self._compress(line + b"\n"), len(line) + 1)
            if blown is not None:
                raise RecordRefusedError(seq, blown)

    def _write(self, lines: list[bytes]) -> None:
        frame = self._compress(b"\n".join(lines) + b"\n")
        try:
            files.write_all(self._fd, frame)
            os.fsync(self._fd)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: nothing that is
            # written behind them could be trusted, so this attempt's file ends here.
            self._broken = BundleWriteError(self.path, error.strerror or str(error))
            raise
        self._hash.update(frame)
        self._bytes += len(frame)

    def _write_status(
        self, state: Literal["running", "ended"], outcome: Outcome | None, cause: str
    ) -> None:
        counts = _count(self._ranks)
        own: dict[str, JsonValue] = {
            "attempt": self.attempt,
            "bundle": self._bundle.digest,
            "shard": self._shard.index,
            "state": state,
            "outcome": outcome,
            "cause": cause,
            "items_done": counts[OK] + counts[MODEL],
            "items_total": self._shard.items,
            "ok": counts[OK],
            "model_error": counts[MODEL],
            "infra_error": counts[INFRA],
            "records": self.flushed,
            "bytes": self._bytes,
            "sha256": self._hash.hexdigest(),
            "started": self._started,
            "updated": time.time(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        status = Status.model_validate({**self._fields, **own})
        files.replace(self.path.with_name(f"{self.attempt}.json"), dump(status))


def finished(
    bundle: Bundle, shard_index: int, *, retry_errors: Collection[str] = ()
) -> dict[int, str]:
    """Return what former attempts hold durably, so that a new one does only what is missing.

    Torn tails and damaged frames are left out. A failure of the machine (`infra`) does not
    count as finished.

    Args:
        bundle: The bundle.
        shard_index: The shard.
        retry_errors: Failures to try again as well: kinds (`model`) or error codes.

    Returns:
        `ok` or `error` for each finished item, by its sequence number.

    Raises:
        BundleInvalidError: When the shard's item digests are not what the manifest says.
    """
    first = bundle.shard(shard_index).first_seq
    retry_model = "model" in retry_errors
    status: dict[int, str] = {}
    for index, entries in scan(bundle, shard_index).entries.items():
        best = min(entries)
        if best.rank == OK:
            status[first + index] = "ok"
        elif best.rank == MODEL and not retry_model and not _retried(entries, retry_errors):
            status[first + index] = "error"
    return status


def shard_state(bundle: Bundle, shard_index: int, *, exact: bool = False) -> ShardState:
    """Return how far a shard is, as cheaply as possible.

    `done.json` and the status files are believed without reading records; the status file of
    a killed attempt may be 10 seconds behind its records.

    Args:
        bundle: The bundle.
        shard_index: The shard.
        exact: Read the records.

    Raises:
        BundleInvalidError: When the shard's item digests are not what the manifest says.
    """
    shard = bundle.shard(shard_index)
    done = read_done(bundle, shard_index)
    if done is not None and not exact:
        attempts = attempts_of(bundle, shard_index)
        return _state(shard.items, done.ok, done.model_error, 0, attempts, done=True)
    best = None if exact else _furthest(bundle, shard_index)
    if best is not None:
        attempts = attempts_of(bundle, shard_index)
        counts = (best.ok, best.model_error, best.infra_error)
        return _state(shard.items, *counts, attempts, done=False)
    joined = scan(bundle, shard_index)
    ranks = _count(_best(joined))
    attempts = tuple(reader.attempt for reader in joined.readers)
    return _state(shard.items, *ranks, attempts, done=done is not None)


def incomplete_shards(bundle: Bundle) -> tuple[int, ...]:
    """Return the shards that no `done.json` completes, in order."""
    return tuple(s.index for s in bundle.shards if read_done(bundle, s.index) is None)


def read_done(bundle: Bundle, shard_index: int) -> Done | None:
    """Return what `done.json` says, or None when there is none that fits the shard."""
    done = None
    with suppress(OSError, ValueError):
        name = f"{shard_index:05d}/{DONE}"
        done = load(Done, files.read_inside(bundle.results_dir, name, RECEIPT_LIMIT))
    shard = bundle.shard(shard_index)
    if done is None or (done.bundle, done.shard, done.items) != (
        bundle.digest,
        shard_index,
        shard.items,
    ):
        return None
    return done if done.ok + done.model_error == done.items else None


def publish_done(bundle: Bundle, shard_index: int) -> bool:
    """Create `done.json` when the records of all attempts complete the shard.

    Returns:
        Whether the shard is complete; also when another process was first to say so.

    Raises:
        OSError: When the file system refuses.
    """
    path = shard_folder(bundle, shard_index) / DONE
    if path.exists():
        return read_done(bundle, shard_index) is not None
    joined = scan(bundle, shard_index)
    items = bundle.shard(shard_index).items
    counts = _count(_best(joined))
    if counts[OK] + counts[MODEL] < items:
        return False
    used = {entry.attempt for entries in joined.entries.values() for entry in entries}
    done = Done(
        format=DONE_FORMAT,
        version=VERSION,
        bundle=bundle.digest,
        shard=shard_index,
        items=items,
        ok=counts[OK],
        model_error=counts[MODEL],
        attempts=tuple(
            DoneAttempt(attempt=r.attempt, bytes=r.bytes, sha256=r.sha256, records=r.records)
            for number, r in enumerate(joined.readers)
            if number in used
        ),
    )
    files.publish_once(path, dump(done))
    return True


def read_statuses(bundle: Bundle, shard_index: int) -> tuple[Status, ...]:
    """Return the status files of a shard that can be read, by attempt."""
    folder = shard_folder(bundle, shard_index)
    found = []
    for name in list_folder(folder):
        stem = name.removesuffix(".json")
        if stem == name or not is_attempt_id(stem):
            continue
        with suppress(OSError, ValueError):
            relative = f"{folder.name}/{name}"
            data = files.read_inside(bundle.results_dir, relative, RECEIPT_LIMIT)
            status = load(Status, data)
            if (status.attempt, status.bundle, status.shard) == (stem, bundle.digest, shard_index):
                found.append(status)
    return tuple(found)


def _furthest(bundle: Bundle, shard_index: int) -> Status | None:
    statuses = read_statuses(bundle, shard_index)
    items = bundle.shard(shard_index).items
    fitting = [s for s in statuses if s.ok + s.model_error + s.infra_error <= items]
    return max(fitting, key=lambda s: (s.items_done, s.updated), default=None)


def _state(
    items: int, ok: int, model: int, infra: int, attempts: tuple[str, ...], *, done: bool
) -> ShardState:
    return ShardState(
        items=items,
        ok=ok,
        model_error=model,
        infra_error=infra,
        missing=items - ok - model - infra,
        attempts=attempts,
        done=done,
    )


def _rank(status: str, record: Mapping[str, Any]) -> int:
    if status == "ok":
        return OK
    return MODEL if record["error"]["kind"] == "model" else INFRA


def _best(joined: Scan) -> dict[int, int]:
    return {index: min(entries).rank for index, entries in joined.entries.items()}


def _count(ranks: Mapping[int, int]) -> tuple[int, int, int]:
    values = list(ranks.values())
    return values.count(OK), values.count(MODEL), values.count(INFRA)


def _retried(entries: list[Entry], codes: Collection[str]) -> bool:
    failures = [entry.code for entry in entries if entry.rank == MODEL]
    return all(code in codes for code in failures)
