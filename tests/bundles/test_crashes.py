"""A kill or a failing disk at any instant costs at most what was in flight."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.bundles.disks import FULL, FaultyDisk, LossyDisk, Order, lay_out
from themis_bundles import (
    Bundle,
    BundleWriteError,
    BundleWriter,
    Item,
    ResultWriter,
    chosen,
    finished,
    incomplete_shards,
    verify,
)

if TYPE_CHECKING:
    from tests.bundles.conftest import Kit

KILLS = 160
"""How often each writer is killed at a random instant while it runs."""


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    return FaultyDisk(monkeypatch)


def errors_of(name: str) -> tuple[int | None, ...]:
    """The ways in which a call may fail; None is a write that takes only a part."""
    return (*FULL, None) if name == "write" else FULL


class Workload:
    """Answers six items and knows which of them must be on the disk."""

    def __init__(self, bundle: Bundle, kit: "Kit") -> None:
        self.bundle, self.kit = bundle, kit
        self.durable: set[int] = set()
        self.taken: set[int] = set()

    def __call__(self) -> None:
        self.durable.clear()
        self.taken.clear()
        with ResultWriter(self.bundle, 0, "a", header={}, flush_records=2) as writer:
            for item in self.bundle.iter_items(0):
                self.taken.add(item.seq)
                writer.append(item.seq, item.sha256, "ok", self.kit.answer(str(item.seq)))
                if writer.flushed == len(self.taken):
                    self.durable.update(self.taken)
                    writer.status(force=True)


def test_a_failing_disk_loses_no_flushed_record(
    tmp_path: Path, kit: "Kit", disk: FaultyDisk
) -> None:
    bundle = kit.bundle(tmp_path / "b", items=6)
    run = Workload(bundle, kit)
    cases = [(*call, error) for call in disk.calls_of(run) for error in errors_of(call[0])]
    refused = 0
    assert {name for name, _, _ in cases} >= {"open", "mkdir", "write", "fsync", "link", "close"}

    for name, number, error in cases:
        shutil.rmtree(bundle.results_dir)
        caught = None
        with disk.failing(name, number, error):
            try:
                run()
            except BundleWriteError as found:
                caught = found
        if error is None:
            assert caught is None
        elif caught is not None:
            refused += 1
            assert os.strerror(error) in str(caught)
            assert str(bundle.results_dir) in str(caught)

        census = verify(bundle)
        assert run.durable <= set(finished(bundle, 0)) <= run.taken
        assert not census.refused, (name, number, census.problems)
        _continues(bundle, kit)
    assert refused > 0.8 * sum(error is not None for *_, error in cases)


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

    cases = [(*call, error) for call in disk.calls_of(run) for error in errors_of(call[0])]
    whole = Bundle.open(target).digest
    assert {name for name, _, _ in cases} >= {"open", "mkdir", "write", "fsync", "rename", "close"}
    for name, number, error in cases:
        shutil.rmtree(target)
        with disk.failing(name, number, error):
            if error is None:
                run()
            else:
                with pytest.raises(BundleWriteError, match=os.strerror(error)):
                    run()

        # Only the last sync of all comes after the bundle appeared, whole.
        if target.exists():
            assert error is None or name in ("fsync", "close")
            assert Bundle.open(target).digest == whole
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


class TestPowerLoss:
    """What was not synced may be lost, cut, or zeros, and names may be there or not."""

    def test_no_flushed_record_is_lost_and_none_is_invented(
        self, tmp_path: Path, kit: "Kit", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle = kit.bundle(tmp_path / "b", items=6)
        (tmp_path / "results").mkdir()
        watched = Bundle.open(bundle.path, results=tmp_path / "results")
        durable: set[int] = set()
        taken: set[int] = set()
        disk = LossyDisk(tmp_path / "results", lambda: (frozenset(durable), frozenset(taken)))

        with disk.watching(monkeypatch):
            for attempt, part in (("a", (0, 1, 2)), ("b", (3, 4, 5))):
                with ResultWriter(watched, 0, attempt, header={}, flush_records=2) as writer:
                    for seq in part:
                        taken.add(seq)
                        kit.append(writer, watched, {seq: kit.answer(str(seq))})
                        durable.update(list(part)[: writer.flushed])
                        if attempt == "a":
                            writer.status(force=True)
                durable.update(part)

        count = 0
        for (promised, given), tree in disk.trees():
            count += 1
            folder = tmp_path / f"image-{count}"
            lay_out(tree, folder)
            image = Bundle.open(bundle.path, results=folder)
            census = verify(image)

            assert promised <= set(finished(image, 0)) <= given
            assert not census.refused, census.problems
            if count % 5 == 0:
                _continues(image, kit)
        assert count > 80

    def test_a_bundle_is_there_whole_or_not_at_all(
        self, tmp_path: Path, kit: "Kit", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "disk").mkdir()
        published: list[str] = []
        disk = LossyDisk(tmp_path / "disk", lambda: bool(published))

        with disk.watching(monkeypatch):
            published.append(kit.bundle(tmp_path / "disk/b", items=3, shard_items=2).digest)

        outcomes = {"none": 0, "whole": 0}
        for promised, tree in disk.trees():
            folder = tmp_path / f"image-{sum(outcomes.values())}"
            lay_out(tree, folder)
            if (folder / "b").exists():
                outcomes["whole"] += 1
                assert Bundle.open(folder / "b").digest == published[0]
                assert not verify(Bundle.open(folder / "b")).refused
            else:
                outcomes["none"] += 1
                assert not promised
                if outcomes["none"] % 10 == 0:
                    assert kit.bundle(folder / "b", items=3, shard_items=2).digest == published[0]
        assert outcomes["none"] > 80
        assert outcomes["whole"] > 1

    def test_the_model_notices_a_writer_that_forgets_to_sync(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "disk").mkdir()
        disk = LossyDisk(tmp_path / "disk", lambda: None)
        new, old = tmp_path / "disk/new", tmp_path / "disk/old"
        old.write_bytes(b"old")

        with disk.watching(monkeypatch):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            os.write(fd, b"content!")
            os.close(fd)
            os.replace(new, old)  # noqa: PTH105

        left = [tree.get("old") for _, tree in disk.trees()]
        assert {b"old", b"", b"cont", bytes(8), b"cont" + bytes(4), b"content!"} == set(left)


class Killed(NamedTuple):
    """What became of a child process."""

    said: bytes
    """What it wrote into its pipe."""

    running: bool
    """Whether the kill found it running."""


def killed(child: Callable[[int], None], delay: float | None = None) -> Killed:
    """Run a function in a child process; kill it after so many seconds, or wait for its end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child(write)
        finally:
            os._exit(0)
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    said = b""
    while chunk := os.read(read, 65536):
        said += chunk
    os.close(read)
    return Killed(said, os.WIFSIGNALED(status))


class Instants:
    """Draws the instants of kills, so that most find the child running however busy it is here."""

    def __init__(self, seed: int) -> None:
        self.kills = 0
        self._tries = 0
        self._draw = random.Random(seed)
        self._longest = 0.02

    def kill(self, child: Callable[[int], None]) -> Killed:
        """Run a child and kill it at a random instant."""
        self._tries += 1
        assert self._tries < 6 * KILLS, "the kills must hit"
        outcome = killed(child, self._draw.uniform(0.0, self._longest))
        self.kills += outcome.running
        self._longest *= 1.1 if outcome.running else 0.85
        return outcome


def test_a_worker_killed_before_any_call_loses_no_flushed_record(
    tmp_path: Path, kit: "Kit", disk: FaultyDisk
) -> None:
    bundle = kit.bundle(tmp_path / "b", items=6)
    run = Workload(bundle, kit)

    for name, number in disk.calls_of(run):
        shutil.rmtree(bundle.results_dir, ignore_errors=True)

        def child(pipe: int, name: str = name, number: int = number) -> None:
            real = ResultWriter.status

            def status(writer: ResultWriter, **options: Any) -> None:
                os.write(pipe, b"%d\n" * len(run.durable) % tuple(run.durable))
                real(writer, **options)

            ResultWriter.status = status  # type: ignore[method-assign,assignment]
            with disk.failing(name, number, signal.SIGKILL):
                run()

        outcome = killed(child)

        assert outcome.running, (name, number)
        census = verify(bundle)
        assert {int(seq) for seq in outcome.said.split()} <= set(finished(bundle, 0))
        assert not census.refused, (name, number, census.problems)
        _continues(bundle, kit)


def test_an_export_killed_before_any_call_leaves_a_whole_bundle_or_none(
    tmp_path: Path, kit: "Kit", disk: FaultyDisk
) -> None:
    def run(target: Path) -> Bundle:
        return kit.bundle(target, items=3, shard_items=2)

    calls = disk.calls_of(lambda: run(tmp_path / "whole"))
    whole = Bundle.open(tmp_path / "whole")
    for place, (name, number) in enumerate(calls):
        target = tmp_path / f"b{place}"

        def child(_: int, target: Path = target, name: str = name, number: int = number) -> None:
            with disk.failing(name, number, signal.SIGKILL):
                run(target)

        assert killed(child).running, (name, number)

        if target.exists():
            assert not verify(Bundle.open(target)).refused
        assert run(target.with_name(f"again{place}")).digest == whole.digest


def test_a_killed_worker_loses_no_flushed_record(tmp_path: Path, kit: "Kit") -> None:
    source = random.Random(20)
    bundle = kit.bundle(tmp_path / "b", items=40)
    items = list(bundle.iter_items(0))
    acknowledged: set[int] = set()
    rounds = tries = 0
    instants = Instants(20)

    def work(attempt: str, flush_records: int, todo: list[Item]) -> Callable[[int], None]:
        def child(pipe: int) -> None:
            with ResultWriter(bundle, 0, attempt, header={}, flush_records=flush_records) as writer:
                waiting = []
                for item in todo:
                    writer.append(item.seq, item.sha256, "ok", kit.answer(str(item.seq)))
                    waiting.append(item.seq)
                    if len(waiting) == flush_records:
                        os.write(pipe, b"".join(b"%d\n" % seq for seq in waiting))
                        waiting.clear()

        return child

    while instants.kills < KILLS:
        tries += 1
        done = finished(bundle, 0)
        todo = [item for item in items if item.seq not in done]
        child = work(f"k{tries}", source.choice((1, 2, 5)), todo)

        outcome = instants.kill(child)
        acknowledged.update(int(line) for line in outcome.said.split())

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
    instants = Instants(21)
    whole = kit.bundle(tmp_path / "whole", items=30, shard_items=5).digest
    outcomes = {"none": 0, "whole": 0}
    tries = 0

    def export(target: Path) -> Callable[[int], None]:
        def child(_: int) -> None:
            with BundleWriter(target, kit.info, shard_items=5) as writer:
                kit.fill(writer, items=30)

        return child

    while instants.kills < KILLS:
        tries += 1
        target = tmp_path / f"b{tries}"

        instants.kill(export(target))

        if target.exists():
            outcomes["whole"] += 1
            assert Bundle.open(target).digest == whole
            assert not verify(Bundle.open(target)).refused
        else:
            outcomes["none"] += 1

    assert min(outcomes.values()) > 0
