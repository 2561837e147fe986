"""The directories that a task has to itself on its node: for temporary files, and for caches.

Compiled kernels depend on the versions, the GPU and the options, and two tasks that write one
cache at the same moment damage it. So each task has its own, which goes with the task, or, where
caches are kept, the first of a row of folders that no other task of this node holds.
"""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from themis.errors import EnvironmentNotReadyError

# The path of a Unix socket has at most 107 bytes; Python and vLLM add 45 of their own.
LONGEST_FOR_SOCKETS = 60
_FALLBACK = "/tmp"  # noqa: S108 - short, and on every node

_CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}
_FOR_SOCKETS = ("TMPDIR", "VLLM_RPC_BASE_PATH")


@contextmanager
def node_folders(
    environment: MutableMapping[str, str], scratch: str | None, caches: str | None
) -> Iterator[None]:
    """Point the environment's cache and temporary directories at this task's own.

    Variables of caches that are set already are left as they are.

    Args:
        environment: The task's environment, which is changed.
        scratch: Where the task's directory goes; `$NAME` is expanded. None is TMPDIR or /tmp.
        caches: Where caches are kept; None keeps none.

    Raises:
        EnvironmentNotReadyError: A directory that was asked for cannot be written here.
    """
    with ExitStack() as stack:
        place = stack.enter_context(_own_folder(_base(environment, scratch)))
        for_sockets = place
        if len(os.fsencode(place)) > LONGEST_FOR_SOCKETS:
            for_sockets = stack.enter_context(_own_folder(Path(_FALLBACK)))
        kept = place
        if caches is not None:
            row = _expanded(environment, caches) / socket.gethostname()
            lock, kept = _first_free(row)
            stack.enter_context(lock)
        for variable, name in _CACHES.items():
            if variable not in environment:
                (kept / name).mkdir(exist_ok=True)
                environment[variable] = str(kept / name)
        for variable in _FOR_SOCKETS:
            environment[variable] = str(for_sockets)
        yield


def _base(environment: Mapping[str, str], scratch: str | None) -> Path:
    if scratch is not None:
        return _expanded(environment, scratch)
    base = environment.get("TMPDIR", _FALLBACK)
    return Path(base if os.access(base, os.W_OK) else _FALLBACK)


def _expanded(environment: Mapping[str, str], text: str) -> Path:
    for name in sorted(environment, key=len, reverse=True):
        text = text.replace(f"${{{name}}}", environment[name]).replace(
            f"${name}", environment[name]
        )
    if "$" in text:
        raise EnvironmentNotReadyError(f"{text}: this node does not know that variable")
    return Path(text).expanduser()


@contextmanager
def _own_folder(base: Path) -> Iterator[Path]:
    """Make a folder that nobody else has, and take it away again."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="themis-", dir=base))
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"{base} cannot be written on {socket.gethostname()} ({error.strerror}); see "
            "`scratch` of the profile"
        ) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _first_free(row: Path) -> tuple[IO[str], Path]:
    """Give the first folder of a row that no other task holds, and the open lock that holds it."""
    try:
        row.mkdir(parents=True, exist_ok=True)
        for number in count():
            lock = (row / f"{number}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            folder = row / str(number)
            folder.mkdir(exist_ok=True)
            return lock, folder
        raise AssertionError("counting does not end")
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"{row} cannot be used for caches ({error.strerror}); see `caches` of the profile"
        ) from error
