"""Write a bundle: a stream of items becomes shards, and the whole appears at once.

Everything is written into a hidden folder beside the target, synced, and renamed, so a
bundle under its final name is whole; what a killed export left there goes with the next one
(`partials`). The same calls give the same bytes on any machine: nothing of the clock, the host
or the user goes into a bundle. Memory stays bounded by one frame and the component digests.

    with BundleWriter(path, info) as writer:
        model = writer.component("model", {"provider": "demo", "model_id": "echo"})
        writer.start_group(GroupSpec(model, "demo", "echo"))
        writer.add({"id": ..., "refs": {"model": model}, ...}, prompt_tokens=20, max_new_tokens=5)
    print(writer.digest)
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import JsonValue

from themis_bundles import bag, files
from themis_bundles.canonical import LINE_LIMIT, canonical_json, sha256_hex
from themis_bundles.errors import BundleExistsError, BundleWriteError, CanonicalError
from themis_bundles.frames import (
    FRAME_BYTES,
    FRAME_LINES,
    compressor,
    refusal,
    seek_table,
)
from themis_bundles.manifest import (
    CANONICAL,
    COMPONENTS,
    FORMAT,
    VERSION,
    ComponentsEntry,
    Cost,
    CreatedFor,
    GroupEntry,
    Manifest,
    Plugin,
    ShardEntry,
    ids_path,
    items_path,
    plan_digest,
    total,
)
from themis_bundles.partials import Partial

# So many finished files may wait for the disk: their number bounds the open descriptors.
_OPEN_FILES = 32

Compress = Callable[[bytes], bytes]

SecondsPerItem = float | Callable[[int, int], float]
"""Expected seconds of an item: a number, or a function of its prompt and new tokens."""


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle is for."""

    stage: Literal["generation", "evaluation"]
    """What is to be done with the items."""

    run_id: str | None
    """The run that planned the items; None when only `BundleWriter.name_run` will say."""

    created_for: Mapping[str, str]
    """The names of the `project` and the `benchmark`."""

    date: str
    """The day of the plan (ISO 8601), so that the same plan gives the same bytes."""

    required_plugins: tuple[tuple[str, str], ...] = ()
    """The id and version of every plugin that the worker must have."""


@dataclass(frozen=True)
class GroupSpec:
    """One model with one set of engine settings: what one job array loads."""

    model: int
    """The index of the model's component."""

    provider: str
    """The engine that is to answer."""

    model_id: str
    """The model's name, as its provider knows it."""

    requirements: Mapping[str, JsonValue] = field(default_factory=dict)
    """What the engine must be able to do."""


class _Disk:
    """Puts files on the disk beside the work, in two threads, and says what went wrong."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self._waiting: deque[Future[None]] = deque()

    def finish(self, fd: int) -> None:
        """Sync and close a file some time soon; waits when too many are waiting.

        Raises:
            OSError: What went wrong with a file before.
        """
        self._waiting.append(self._pool.submit(_sync_and_close, fd))
        if len(self._waiting) > _OPEN_FILES:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Wait until every file is on the disk.

        Raises:
            OSError: When one is not.
        """
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for what is under way, whatever came of it."""
        self._pool.shutdown()


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _FrameFile:
    """A file of frames that is being written: lines in, frames and a seek table out."""

    def __init__(self, path: Path, compress: Compress) -> None:
        self.bytes = 0
        self.frames: list[tuple[int, int]] = []
        self._compress = compress
        self._fd = files.create(path)
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> None:
        size = len(line) + 1
        if len(self._pending) == FRAME_LINES or (self._pending and self._size + size > FRAME_BYTES):
            self._cut()
        self._pending.append(line)
        self._size += size

    def finish(self, disk: _Disk) -> str:
        """Write what is pending and the seek table, hand the file over; return its digest."""
        if self._pending:
            self._cut()
        self._write(seek_table(self.frames))
        fd, self._fd = self._fd, -1
        disk.finish(fd)
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _cut(self) -> None:
        self._pending.append(b"")
        frame = self._compress(b"\n".join(self._pending))
        reason = refusal(frame, self._size)
        if reason is not None:
            raise CanonicalError(reason)
        self._write(frame)
        self.frames.append((len(frame), self._size))
        self._pending.clear()
        self._size = 0

    def _write(self, data: bytes) -> None:
        files.write_all(self._fd, data)
        self._hash.update(data)
        self.bytes += len(data)


class _OpenShard:
    """A shard that is being written."""

    def __init__(self, data: Path, index: int, first_seq: int, compress: Compress) -> None:
        self.index = index
        self.first_seq = first_seq
        self.file = _FrameFile(data / items_path(index), compress)
        self.ids: list[bytes] = []
        self.prompt_tokens = 0
        self.max_new_tokens = 0
        self.seconds = 0.0


class BundleWriter:
    """Writes one bundle; use it as a context manager.

    Leaving the block normally publishes the bundle; leaving it by an exception removes
    everything that was written.

    Args:
        path: The folder that the bundle becomes; it must be absent or empty.
        info: What the bundle is for.
        shard_items: How many items a shard has, at most.
        shard_seconds: Cut shards by expected seconds instead of by items.
        seconds_per_item: The expected seconds of an item; required with `shard_seconds`.
        line_limit: The longest line, in bytes (default 16 MiB).
        level: The zstd level (default 3).

    Raises:
        BundleExistsError: When the target exists and is not an empty folder.
        ValueError: For sizes that make no sense, or words that a manifest cannot hold.
    """

    def __init__(
        self,
        path: Path,
        info: BundleInfo,
        *,
        shard_items: int = 512,
        shard_seconds: float | None = None,
        seconds_per_item: SecondsPerItem | None = None,
        line_limit: int = LINE_LIMIT,
        level: int = 3,
    ) -> None:
        if shard_items < 1 or (shard_seconds is not None and shard_seconds <= 0):
            raise ValueError("a shard must have room for at least one item")
        if (shard_seconds is None) != (seconds_per_item is None):
            raise ValueError("shard_seconds and seconds_per_item belong together")
        self.path = Path(path)
        self._info = info
        self._shard_items = shard_items
        self._shard_seconds = shard_seconds
        self._seconds_per_item = seconds_per_item
        self._line_limit = line_limit
        # One for all files: a new one would allocate and touch its tables for every shard.
        self._compress = compressor(level).compress
        self._seq = 0
        self._all_ids = hashlib.sha256()
        self._components: dict[tuple[str, str], int] = {}
        self._groups: dict[bytes, tuple[GroupSpec, list[ShardEntry]]] = {}
        self._group: list[ShardEntry] | None = None
        self._shard: _OpenShard | None = None
        self._payload: dict[str, str] = {}
        self._octets = 0
        self._manifest: Manifest | None = None
        self._digest = ""
        # Wrong words in `info` are refused here, before an hour of items was written.
        self._describe("0" * 64, 0)
        _refuse_existing(self.path)
        with files.write_errors(self.path):
            files.make_folder(self.path.parent.absolute())
            self._partial = Partial(self.path)
            self._root = self._partial.folder
            self._data = self._root / "data"
            self._disk = _Disk()
            try:
                (self._data / "items").mkdir(parents=True)
                self._component_file = _FrameFile(self._data / COMPONENTS, self._compress)
            except BaseException:
                self._discard()
                raise

    @property
    def digest(self) -> str:
        """The bundle's identity; known after the block was left."""
        return self._digest

    @property
    def manifest(self) -> Manifest:
        """The manifest; known after the block was left."""
        if self._manifest is None:
            raise ValueError("the manifest is known when the bundle was published")
        return self._manifest

    def component(self, kind: str, body: Mapping[str, JsonValue]) -> int:
        """Store something that items refer to, once, and return its index.

        Args:
            kind: Such as model, params, prompt, slice, transform or evaluation.
            body: Its canonical description.

        Raises:
            CanonicalError: When the body has no canonical form or is too long.
        """
        digest = sha256_hex(canonical_json(body))
        known = self._components.get((kind, digest))
        if known is not None:
            return known
        index = len(self._components)
        line = canonical_json({"body": body, "index": index, "kind": kind, "sha256": digest})
        if len(line) > self._line_limit:
            raise CanonicalError(_too_long(f"component {index}", line, self._line_limit))
        with files.write_errors(self.path):
            self._component_file.add(line)
        self._components[kind, digest] = index
        return index

    def start_group(self, spec: GroupSpec) -> None:
        """Say which model the items that follow belong to; a new group starts a new shard."""
        if spec.model not in self._components.values():
            raise ValueError(f"there is no component {spec.model}")
        key = canonical_json([spec.model, spec.provider, spec.model_id, dict(spec.requirements)])
        shards = self._groups.setdefault(key, (spec, []))[1]
        if shards is not self._group:
            self._finish_shard()
            self._group = shards

    def end_shard(self) -> None:
        """Let the next item begin a new shard."""
        self._finish_shard()

    def name_run(self, run_id: str) -> None:
        """Say which run planned the items, at the latest before the block is left."""
        self._info = replace(self._info, run_id=run_id)

    def add(self, item: Mapping[str, object], *, prompt_tokens: int, max_new_tokens: int) -> str:
        """Append an item to the current group.

        Args:
            item: Its canonical fields; `seq` is added here.
            prompt_tokens: The expected length of its prompt, for the shard's cost.
            max_new_tokens: The most tokens that its answer may have.

        Returns:
            The item's digest: SHA-256 of its line.

        Raises:
            CanonicalError: When the item has no canonical form or is too long.
        """
        line = canonical_json({**item, "seq": self._seq})
        return self._append(line, prompt_tokens, max_new_tokens).hex()

    def add_canonical(self, item: bytes, prompt_tokens: int, max_new_tokens: int) -> None:
        """Append an item that is canonical JSON already, which nobody checks again.

        Args:
            item: An object with at least one key, every key of it sorted before `seq`, which
                is put at its end.
            prompt_tokens: The expected length of its prompt, for the shard's cost.
            max_new_tokens: The most tokens that its answer may have.

        Raises:
            CanonicalError: When the item is too long.
        """
        self._append(item[:-1] + b',"seq":%d}' % self._seq, prompt_tokens, max_new_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with files.write_errors(self.path):
                    self._publish()
        finally:
            self._discard()

    def _append(self, line: bytes, prompt_tokens: int, max_new_tokens: int) -> bytes:
        """Append a line and return its digest."""
        if len(line) > self._line_limit:
            raise CanonicalError(_too_long(f"item {self._seq}", line, self._line_limit))
        digest = hashlib.sha256(line).digest()
        shard = self._shard
        try:
            if (
                shard is None
                or self._seconds_per_item is not None
                or len(shard.ids) >= self._shard_items
            ):
                shard = self._room(prompt_tokens, max_new_tokens)
            shard.file.add(line)
        except OSError as error:
            raise BundleWriteError(self.path, error.strerror or str(error)) from error
        shard.ids.append(digest)
        shard.prompt_tokens += prompt_tokens
        shard.max_new_tokens += max_new_tokens
        self._seq += 1
        return digest

    def _room(self, prompt_tokens: int, max_new_tokens: int) -> _OpenShard:
        """Return the open shard, or a new one when the item is too much for it."""
        if self._group is None:
            raise ValueError("start_group comes before the first item")
        shard = self._shard
        seconds, rate = 0.0, self._seconds_per_item
        if rate is None:
            full = shard is not None and len(shard.ids) >= self._shard_items
        else:
            seconds = rate if isinstance(rate, int | float) else rate(prompt_tokens, max_new_tokens)
            full = shard is not None and shard.seconds + seconds > (self._shard_seconds or 0.0)
        if full:
            self._finish_shard()
            shard = None
        if shard is None:
            index = sum(len(shards) for _, shards in self._groups.values())
            shard = self._shard = _OpenShard(self._data, index, self._seq, self._compress)
        shard.seconds += seconds
        return shard

    def _finish_shard(self) -> None:
        shard, self._shard = self._shard, None
        if shard is None or self._group is None:
            return
        with files.write_errors(self.path):
            digest = shard.file.finish(self._disk)
            ids = b"".join(shard.ids)
            ids_digest = self._payload_file(ids_path(shard.index), ids)
        self._payload[f"data/{items_path(shard.index)}"] = digest
        self._octets += shard.file.bytes
        self._all_ids.update(ids)
        self._group.append(
            ShardEntry(
                index=shard.index,
                path=items_path(shard.index),
                sha256=digest,
                bytes=shard.file.bytes,
                frames=len(shard.file.frames),
                items=len(shard.ids),
                first_seq=shard.first_seq,
                items_digest=ids_digest,
                cost=Cost(prompt_tokens=shard.prompt_tokens, max_new_tokens=shard.max_new_tokens),
            )
        )

    def _payload_file(self, relative: str, data: bytes) -> str:
        digest = sha256_hex(data)
        fd = files.create(self._data / relative)
        try:
            files.write_all(fd, data)
        except BaseException:
            os.close(fd)
            raise
        self._disk.finish(fd)
        self._payload[f"data/{relative}"] = digest
        self._octets += len(data)
        return digest

    def _publish(self) -> None:
        if self._info.run_id is None:
            raise ValueError("name_run comes before the end of the block")
        self._finish_shard()
        components = self._component_file.finish(self._disk)
        self._payload[f"data/{COMPONENTS}"] = components
        self._octets += self._component_file.bytes
        manifest = self._describe(components, self._component_file.bytes)
        data = manifest.to_bytes() + b"\n"
        digest = self._payload_file("manifest.json", data)
        info = bag.bag_info(
            date=self._info.date,
            identifier=digest,
            files=len(self._payload),
            octets=self._octets,
        )
        for name, content in bag.tag_files(self._payload, info).items():
            files.write_new(self._root / name, content)
        self._disk.wait()
        for folder in (self._data / "items", self._data, self._root):
            files.sync_folder(folder)
        _refuse_existing(self.path)
        try:
            self._root.rename(self.path)
        except (FileExistsError, NotADirectoryError):
            raise BundleExistsError(self.path) from None
        except OSError:
            _refuse_existing(self.path)
            raise
        files.sync_folder(self.path.parent)
        self._manifest, self._digest = manifest, digest

    def _describe(self, components: str, size: int) -> Manifest:
        info = self._info
        # A run that is named later has a name that a manifest can hold.
        run_id = "unnamed" if info.run_id is None else info.run_id
        digests = [digest for _, digest in self._components]
        groups = tuple(
            GroupEntry(
                model=spec.model,
                model_sha256=digests[spec.model],
                provider=spec.provider,
                model_id=spec.model_id,
                requirements=dict(spec.requirements),
                shards=tuple(shards),
            )
            for spec, shards in self._groups.values()
            if shards
        )
        return Manifest(
            format=FORMAT,
            version=VERSION,
            stage=info.stage,
            run_id=run_id,
            plan_digest=plan_digest(
                info.stage, run_id, self._seq, self._all_ids.hexdigest(), digests
            ),
            created_for=CreatedFor(**info.created_for),
            date=info.date,
            canonical=CANONICAL,
            line_limit=self._line_limit,
            components=ComponentsEntry(
                path=COMPONENTS,
                sha256=components,
                bytes=size,
                count=len(digests),
            ),
            groups=groups,
            totals=total([shard for group in groups for shard in group.shards]),
            required_plugins=tuple(Plugin(id=i, version=v) for i, v in info.required_plugins),
        )

    def _discard(self) -> None:
        """Close what is open and remove what was not published."""
        for file in (
            getattr(self, "_component_file", None),
            self._shard.file if self._shard else None,
        ):
            if file is not None:
                with suppress(OSError):
                    file.close()
        self._disk.close()
        shutil.rmtree(self._root, ignore_errors=True)
        self._partial.release()


def _refuse_existing(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise BundleExistsError(path)


def _too_long(what: str, line: bytes, limit: int) -> str:
    return f"{what}: a line of {len(line)} bytes is longer than the limit of {limit}"
