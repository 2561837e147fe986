"""One submitter at a time, also when the last one died."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from themis_slurm.errors import SubmissionLockedError
from themis_slurm.lock import submission_lock

FAR_AWAY = '{"process": {"host": "far", "pid": 1, "started": 1, "machine": "x"}}'


def _hold(folder: Path, holding: Event, release: Event) -> None:
    with submission_lock(folder, patience_s=5):
        holding.set()
        release.wait(30)


def _count(folder: Path, counter: Path, rounds: int) -> None:
    for _ in range(rounds):
        with submission_lock(folder, patience_s=60):
            value = int(counter.read_text())
            time.sleep(0.002)
            counter.write_text(str(value + 1))


def test_a_second_submitter_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        submission_lock(tmp_path, patience_s=1),
        pytest.raises(SubmissionLockedError, match=f"process {os.getpid()} on "),
        submission_lock(tmp_path, patience_s=0.3),
    ):
        pass


def test_a_released_lock_is_free_at_once(tmp_path: Path) -> None:
    for _ in range(3):
        with submission_lock(tmp_path, patience_s=0.1) as lock:
            assert lock.held


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    holding, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, holding, release))
    holder.start()
    assert holding.wait(20)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    begun = time.monotonic()

    with submission_lock(tmp_path, patience_s=20) as lock:
        assert lock.held
    assert time.monotonic() - begun < 5


def test_a_holder_that_shows_no_sign_of_life_loses_the_lock(tmp_path: Path) -> None:
    # Another machine's holder, which cannot be looked up, that never touches its file.
    (tmp_path / "000001").write_text(
        '{"process": {"host": "far", "pid": 1, "started": 1, "machine": "x"}}'
    )

    with submission_lock(tmp_path, patience_s=20, stale_s=0.5) as lock:
        assert lock.number == 2


def test_a_holder_that_touches_its_file_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "000001"
    path.write_text(FAR_AWAY)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.1):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with (
            pytest.raises(SubmissionLockedError, match="process 1 on far"),
            submission_lock(tmp_path, patience_s=2, stale_s=0.5),
        ):
            pass
    finally:
        done.set()
        beating.join()


def test_a_holder_that_was_overtaken_learns_it(tmp_path: Path) -> None:
    with submission_lock(tmp_path, patience_s=1) as lock:
        (tmp_path / "000002").write_text("{}")

        assert not lock.held


def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_count, args=(tmp_path / "lock", counter, 5)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert counter.read_text() == "20"
