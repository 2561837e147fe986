"""A kill or a failing disk at any instant costs at most what was in flight."""

import errno
import fcntl
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from themis_bundles import (
    Bundle,
    BundleWriteError,
    BundleWriter,
    ResultWriter,
    chosen,
    finished,
    incomplete_shards,
    verify,
)

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

CALLS = ("write", "fsync", "link", "rename", "replace", "close")


def writable(fd: int) -> bool:
    """Whether a file may have lost a write that closing it would report."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


class FaultyDisk:
    """Lets one call of one kind fail, and counts the calls.

    `short` also lets every write take only a part of its bytes, as a system may.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.short = False
        self.fail_at: tuple[str, int] | None = None
        self.error = errno.ENOSPC
        self.seen = dict.fromkeys(CALLS, 0)
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self.armed or (name == "close" and not writable(args[0])):
                return real(*args, **options)
            self.seen[name] += 1
            if self.fail_at == (name, self.seen[name]):
                if name == "write":
                    # A full disk takes a part before it refuses.
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                elif name == "close":
                    real(*args)
                raise OSError(self.error, os.strerror(self.error))
            if name == "write" and self.short:
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 3)])
            return real(*args, **options)

        return call

    @contextmanager
    def failing(self, name: str, number: int, error: int) -> Iterator[None]:
        self.fail_at, self.error = (name, number), error
        self.seen = dict.fromkeys(CALLS, 0)
        self.armed = True
        try:
            yield
        finally:
            self.armed = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


def faults(disk: FaultyDisk, run: Callable[[], object]) -> Iterator[tuple[str, int, int]]:
    """Give every call that a run makes, with each error that it may meet."""
    disk.seen = dict.fromkeys(CALLS, 0)
    disk.fail_at = None
    disk.armed = True
    run()
    disk.armed = False
    for name, count in disk.seen.items():
        for number in range(1, count + 1):
            for error in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
                yield name, number, error


def test_a_failing_disk_loses_no_flushed_record(
    tmp_path: Path, kit: "Kit", disk: FaultyDisk
) -> None:
    bundle = kit.bundle(tmp_path / "b", items=6)
    durable: set[int] = set()
    taken: set[int] = set()

    def run() -> None:
        durable.clear()
        taken.clear()
        with ResultWriter(bundle, 0, "a", header={}, flush_records=2) as writer:
            for item in bundle.iter_items(0):
                writer.append(item.seq, item.sha256, "ok", kit.answer(str(item.seq)))
                taken.add(item.seq)
                if writer.flushed == len(taken):
                    durable.update(taken)
                    writer.status(force=True)

    cases = list(faults(disk, run))
    refused = 0
    assert len(cases) > 100
    for name, number, error in cases:
        shutil.rmtree(bundle.results_dir)
        caught = None
        with disk.failing(name, number, error):
            try:
                run()
            except BundleWriteError as found:
                caught = found
        if caught is not None:
            refused += 1
            said = str(caught)
            assert os.strerror(error) in said
            assert str(bundle.results_dir) in said

        census = verify(bundle)
        assert durable <= set(finished(bundle, 0)) <= set(range(6))
        assert not census.refused, (name, number, census.problems)
        _continues(bundle, kit)
    assert refused > 0.8 * len(cases)


def _continues(bundle: Bundle, kit: "Kit") -> None:
    """The same command goes on where the failed one stopped."""
    done = finished(bundle, 0)
    left = {s: kit.answer(str(s)) for s in range(bundle.shards[0].items) if s not in done}
    if incomplete_shards(bundle):
        kit.work(bundle, 0, "next", left)

    assert verify(bundle).complete
    assert incomplete_shards(bundle) == ()
    for found in chosen(bundle, 0):
        assert found.record is not None
        assert found.record.record["text"] == str(found.item.seq)


def test_a_failing_disk_leaves_no_half_bundle(tmp_path: Path, kit: "Kit", disk: FaultyDisk) -> None:
    target = tmp_path / "b"

    def run() -> None:
        kit.bundle(target, items=3, shard_items=2)

    cases = list(faults(disk, run))
    whole = Bundle.open(target).digest
    assert len(cases) > 100
    for name, number, error in cases:
        shutil.rmtree(target)
        with (
            pytest.raises(BundleWriteError, match=os.strerror(error)),
            disk.failing(name, number, error),
        ):
            run()

        # Only the last sync of all comes after the bundle appeared, whole.
        if target.exists():
            assert (name, Bundle.open(target).digest) in (("fsync", whole), ("close", whole))
            assert not verify(Bundle.open(target)).refused
        else:
            target.mkdir()
        assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_writes_that_take_only_a_part_change_nothing(
    tmp_path: Path, kit: "Kit", disk: FaultyDisk
) -> None:
    whole = kit.bundle(tmp_path / "1")
    disk.short = disk.armed = True
    in_parts = kit.bundle(tmp_path / "2")
    kit.work_all(in_parts)
    disk.armed = False

    assert in_parts.digest == whole.digest
    assert verify(in_parts).complete


class Order:
    """Notes in which order files are written, synced and named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dirty: set[int] = set()
        self.synced: set[int] = set()
        self.at_names: list[tuple[str, set[int], set[int]]] = []
        real = {name: getattr(os, name) for name in ("write", "rename", "replace", "link")}

        def write(fd: int, data: bytes) -> int:
            self.dirty.add(os.fstat(fd).st_ino)
            self.synced.discard(os.fstat(fd).st_ino)
            return int(real["write"](fd, data))

        def fsync(fd: int) -> None:
            self.dirty.discard(os.fstat(fd).st_ino)
            self.synced.add(os.fstat(fd).st_ino)

        def named(name: str) -> Callable[..., None]:
            def call(source: Path, target: Path, **options: Any) -> None:
                self.at_names.append((Path(target).name, set(self.dirty), set(self.synced)))
                real[name](source, target, **options)
                self.synced.discard(Path(target).parent.stat().st_ino)

            return call

        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "fsync", fsync)
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, named(name))


def test_every_byte_is_synced_before_a_name_shows_it(
    tmp_path: Path, kit: "Kit", monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order(monkeypatch)

    bundle = kit.bundle(tmp_path / "b", shard_items=4)

    ((name, dirty, synced),) = order.at_names
    assert (name, dirty) == ("b", set())
    everything = [path.stat().st_ino for path in (bundle.path, *bundle.path.rglob("*"))]
    assert set(everything) <= synced
    assert tmp_path.stat().st_ino in order.synced


def test_every_record_is_synced_before_it_counts(
    bundle: Bundle, kit: "Kit", monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order(monkeypatch)
    writer = ResultWriter(bundle, 0, "a", header={}, flush_records=1)
    file, folder = writer.path.stat().st_ino, writer.path.parent.stat().st_ino
    for seq in range(4):
        assert {file, folder} <= order.synced
        kit.append(writer, bundle, {seq: kit.answer()})

        assert writer.flushed == seq + 1
    writer.close()

    assert [name for name, _, _ in order.at_names] == ["a.json", "done.json"]
    assert all(not dirty for _, dirty, _ in order.at_names)
    assert {file, folder} <= order.synced


def killed(child: Callable[[int], None], delay: float) -> bytes:
    """Run a function in a child process, kill it after so many seconds; return what it said."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(write)
        finally:
            os._exit(0)
    os.close(write)
    time.sleep(delay)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    said = b""
    while chunk := os.read(read, 65536):
        said += chunk
    os.close(read)
    return said


def test_a_killed_worker_loses_no_flushed_record(tmp_path: Path, kit: "Kit") -> None:
    source = random.Random(20)
    bundle = kit.bundle(tmp_path / "b", items=40)
    items = list(bundle.iter_items(0))
    acknowledged: set[int] = set()
    rounds = 0

    for kill in range(120):
        flush_records = source.choice((1, 2, 5))
        todo = [item for item in items if item.seq not in finished(bundle, 0)]

        def child(
            pipe: int,
            kill: int = kill,
            flush_records: int = flush_records,
            todo: list[Any] = todo,
        ) -> None:
            with ResultWriter(
                bundle, 0, f"k{kill}", header={}, flush_records=flush_records
            ) as writer:
                waiting = []
                for item in todo:
                    writer.append(item.seq, item.sha256, "ok", kit.answer(str(item.seq)))
                    waiting.append(item.seq)
                    if writer.flushed and len(waiting) == flush_records:
                        os.write(pipe, b"".join(b"%d\n" % seq for seq in waiting))
                        waiting.clear()

        said = killed(child, source.uniform(0.002, 0.03))
        acknowledged.update(int(line) for line in said.split())

        assert acknowledged <= set(finished(bundle, 0))
        census = verify(bundle)
        assert not census.refused, census.problems
        if census.complete:
            rounds += 1
            assert all(
                c.record and c.record.record["text"] == str(c.item.seq) for c in chosen(bundle, 0)
            )
            shutil.rmtree(bundle.results_dir)
            acknowledged.clear()

    assert rounds >= 2


def test_a_killed_export_leaves_a_whole_bundle_or_none(tmp_path: Path, kit: "Kit") -> None:
    source = random.Random(21)
    whole = kit.bundle(tmp_path / "whole", items=30, shard_items=5).digest
    outcomes = {"none": 0, "whole": 0}

    for kill in range(120):
        target = tmp_path / f"b{kill}"

        def child(_: int, target: Path = target) -> None:
            with BundleWriter(target, kit.info, shard_items=5) as writer:
                kit.fill(writer, items=30)

        killed(child, source.uniform(0.0, 0.04))

        if target.exists():
            outcomes["whole"] += 1
            assert Bundle.open(target).digest == whole
            assert not verify(Bundle.open(target)).refused
        else:
            outcomes["none"] += 1

    assert min(outcomes.values()) > 0
