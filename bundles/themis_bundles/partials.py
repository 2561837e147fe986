"""The hidden folder that a bundle grows in, and what killed exports left of theirs.

A bundle is written to `.NAME.<random>-<kernel>.partial` beside its target and renamed at the
end. Its writer holds a lock on an empty file of that name with `.lock` behind for as long as it
lives. The next export to the same target removes what is surely abandoned: the lock is free,
and the writer ran under this very kernel, so that the lock could not have been hidden. Some
network file systems keep locks to one machine, or have none; a folder of which nothing is sure
is left where it is, and named.
"""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

_LOG = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN = "0" * 16
_LOCK = ".lock"


class Partial:
    """A folder that nobody else may remove while this lives.

    Args:
        target: What the folder will be renamed to. What killed exports to the same target left
            is removed first.

    Attributes:
        folder: Where to write; it does not exist yet.

    Raises:
        OSError: When the file system refuses.
    """

    def __init__(self, target: Path) -> None:
        remove_abandoned(target)
        name = f".{target.name}.{secrets.token_hex(8)}-{_this_kernel()}.partial"
        self.folder = target.with_name(name)
        self._lock = _lock_of(self.folder)
        # Locked before the folder exists, so there is never a live folder with a free lock.
        self._file = self._lock.open("xb")
        if not _try_lock(self._file.fileno()):
            # A folder without a lock file is never removed.
            self.release()

    def release(self) -> None:
        """Give the folder up, once it was renamed or removed; a second call does nothing."""
        if not self._file.closed:
            with suppress(OSError):
                self._lock.unlink(missing_ok=True)
            self._file.close()


def remove_abandoned(target: Path) -> tuple[Path, ...]:
    """Remove what killed exports to a target left beside it; name what may still be in use.

    Returns:
        The folders that were left, because their writer may be alive.
    """
    left = tuple(folder for folder in _partials_of(target) if not _removed(folder))
    for folder in left:
        _LOG.warning(
            "%s is of an export that may still be running; when none is, remove it", folder
        )
    return left


def _partials_of(target: Path) -> list[Path]:
    """Return the hidden folders of a target, also those of which only the lock is left."""
    with suppress(FileNotFoundError, NotADirectoryError):
        random = r"[0-9a-f]{16}-[0-9a-f]{16}"
        pattern = re.compile(
            rf"(\.{re.escape(target.name)}\.{random}\.partial)({re.escape(_LOCK)})?"
        )
        names = (pattern.fullmatch(entry.name) for entry in target.parent.iterdir())
        return [target.with_name(name) for name in sorted({match[1] for match in names if match})]
    return []


def _removed(folder: Path) -> bool:
    """Remove a folder and its lock file, unless its writer may be alive."""
    lock = _lock_of(folder)
    try:
        fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return not folder.exists()
    try:
        if not _try_lock(fd):
            return not folder.exists()
        sure = _this_kernel() != _UNKNOWN and folder.name.endswith(f"-{_this_kernel()}.partial")
        if folder.exists() and not sure:
            return False
        # Does not follow a link in its place.
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            return False
        with suppress(OSError):
            lock.unlink()
        return True
    finally:
        os.close(fd)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_LOCK}")


def _try_lock(fd: int) -> bool:
    """Lock a file until it is closed, also by the end of the process; False when it cannot be."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _this_kernel() -> str:
    """Return what only processes under the same running kernel see, as 16 hexadecimal digits."""
    try:
        return hashlib.sha256(_BOOT_ID.read_bytes()).hexdigest()[:16]
    except OSError:
        return _UNKNOWN
