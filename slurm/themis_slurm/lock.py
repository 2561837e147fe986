"""One submitter at a time, on any shared file system, without trusting clocks.

The lock is a row of files `0001`, `0002`, ... in one folder. Whoever creates the next number
exclusively holds the lock; releasing renames `0002` to `0002.free`. A holder touches its file
every few seconds. A waiter that sees the same file with the same modification time for
`STALE_S` of its *own* monotonic clock takes the holder for dead and creates the next number, so
two waiters that come to the same conclusion still have one winner. A holder on the same machine
whose process is gone is taken over at once.

A holder that was only suspended learns it: `Lock.held` is asked before every submission.
"""

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from themis.errors import EnvironmentNotReadyError
from themis_bundles import BundleExistsError
from themis_bundles.files import make_folder, write_new
from themis_slurm.errors import SubmissionLockedError
from themis_slurm.processes import ProcessName, is_alive, this_process

HEARTBEAT_S = 5.0
STALE_S = 60.0


@dataclass(frozen=True)
class Lock:
    """A lock that this process took."""

    folder: Path
    number: int

    @property
    def held(self) -> bool:
        """Whether nobody took the lock over in the meantime."""
        newest = _newest(self.folder)
        return newest is not None and newest[0] == self.number and not newest[1]


@contextmanager
def submission_lock(folder: Path, *, patience_s: float, stale_s: float = STALE_S) -> Iterator[Lock]:
    """Hold the lock for a block of code.

    Args:
        folder: Where the lock's files lie; created when missing.
        patience_s: How long to wait for another holder.
        stale_s: How long a holder may show no sign of life.

    Raises:
        SubmissionLockedError: Another process held it all the time; the message names it.
        EnvironmentNotReadyError: The folder cannot be made.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"{folder} cannot be written ({error.strerror}). Submissions are recorded beside the "
            "results: set `results` of the profile to a directory that can be written."
        ) from error
    lock = _acquire(folder, patience_s, stale_s)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(_path(lock), done), daemon=True)
    beat.start()
    try:
        yield lock
    finally:
        done.set()
        beat.join()
        with suppress(FileNotFoundError):  # taken over, and cleared away since
            _path(lock).rename(folder / f"{lock.number:06d}.free")


def _acquire(folder: Path, patience_s: float, stale_s: float) -> Lock:
    deadline = time.monotonic() + patience_s
    seen: tuple[object, float] = (None, time.monotonic())
    while True:
        newest = _newest(folder)
        number, free = newest or (0, True)
        if not free:
            sign = _sign_of_life(folder / f"{number:06d}")
            if sign != seen[0]:
                seen = (sign, time.monotonic())
            free = _is_dead(folder / f"{number:06d}") or time.monotonic() - seen[1] > stale_s
        if free:
            lock = Lock(folder, number + 1)
            with suppress(BundleExistsError):
                write_new(_path(lock), _own_name())
                _clear(folder, number)
                return lock
            continue
        if time.monotonic() > deadline:
            holder = _holder(folder / f"{number:06d}")
            raise SubmissionLockedError(
                f"{holder} is submitting this bundle right now. Try again when it is done.",
                details={"lock": str(folder), "holder": holder},
            )
        time.sleep(0.2)


def _newest(folder: Path) -> tuple[int, bool] | None:
    """The highest number in the folder, and whether it was released."""
    found = [
        (int(path.name[:6]), path.suffix == ".free")
        for path in folder.iterdir()
        if path.name[:6].isdigit()
    ]
    return max(found, default=None)


def _path(lock: Lock) -> Path:
    return lock.folder / f"{lock.number:06d}"


def _own_name() -> bytes:
    process = this_process()
    named = {"nonce": secrets.token_hex(8), "process": process.model_dump()}
    return json.dumps(named).encode()


def _clear(folder: Path, up_to: int) -> None:
    """Forget older holders; the newest number alone decides, so this is only tidiness."""
    for path in folder.iterdir():
        if path.name[:6].isdigit() and int(path.name[:6]) <= up_to:
            path.unlink(missing_ok=True)


def _sign_of_life(path: Path) -> object:
    with suppress(FileNotFoundError):
        # Reading makes an NFS client ask the server again, which a bare stat may not.
        return (path.read_bytes(), path.stat().st_mtime_ns)
    return None


def _process(path: Path) -> ProcessName | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return ProcessName.model_validate(json.loads(path.read_bytes())["process"])
    return None


def _is_dead(path: Path) -> bool:
    process = _process(path)
    return process is not None and not is_alive(process)


def _holder(path: Path) -> str:
    process = _process(path)
    return f"process {process.pid} on {process.host}" if process else "another process"


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(path)
