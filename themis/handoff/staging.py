"""A private folder for one import: the copy that is proved, and rows on their way to the store.

It lies beside the store, where the disk has to have room anyway, and only its owner can enter
it. It is removed at the end, also after a failure; what a killed import left behind is removed
by the next one.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from themis.errors import ErrorCode, ImportRefusedError, StorageError
from themis_bundles import Bundle, BundleInvalidError, SignatureRefusedError
from themis_bundles.copying import copy_bundle, size_of

FOLDER = "incoming"
"""Where imports work, inside the store."""

ROWS_PER_BYTE = 2
"""How many bytes the rows of a compressed byte of results take, at the most that was seen."""


@contextmanager
def private_folder(store_root: Path) -> Iterator[Path]:
    """Give a new folder that only this process uses, and remove it at the end.

    Folders of processes that ended without removing theirs are removed first.
    """
    parent = store_root / FOLDER
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(parent):
        for left in parent.iterdir():
            _remove_abandoned(left)
        folder = Path(tempfile.mkdtemp(dir=parent))
        mine = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder that no living process holds."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    shutil.rmtree(folder, ignore_errors=True)


def open_private(
    path: Path,
    folder: Path,
    *,
    results: Path | None,
    in_place: bool,
    max_bytes: int | None,
    max_ratio: int | None,
) -> Bundle:
    """Open the copy of a bundle that an import reads; or the bundle itself, when asked to.

    Args:
        path: The bundle.
        folder: The private folder that takes the copy.
        results: Where the bundle's results are, when not inside it.
        in_place: Nobody else can write to the bundle and its results, so copy nothing.
        max_bytes: The most bytes that the bundle and its results may have.
        max_ratio: How many times its own size a frame may inflate to.

    Raises:
        BundleInvalidError: The bundle cannot be opened.
        ImportRefusedError: It has more than `max_bytes`.
        StorageError: The disk has no room.
    """
    Bundle.open(path, results=results)
    size = size_of(path, results)
    if max_bytes is not None and size > max_bytes:
        raise ImportRefusedError(
            f"{path}: the bundle and its results have {size:,} bytes; at most {max_bytes:,} are "
            "allowed (--max-bytes)",
            details={"bytes": size, "max_bytes": max_bytes},
        )
    _check_room(path, folder, size, in_place=in_place)
    if in_place:
        return Bundle.open(path, results=results, max_ratio=max_ratio)
    copy = folder / "bundle"
    copy.mkdir()
    copy_bundle(path, copy, results=results)
    with named(path):
        return Bundle.open(copy, max_ratio=max_ratio)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Let errors name the bundle that the user named, not its copy."""
    try:
        yield
    except BundleInvalidError as error:
        raise BundleInvalidError(path, error.problems) from error
    except SignatureRefusedError as error:
        raise SignatureRefusedError(path, error.reasons) from error


def _check_room(path: Path, folder: Path, size: int, *, in_place: bool) -> None:
    needed = ROWS_PER_BYTE * size + (0 if in_place else size)
    free = shutil.disk_usage(folder).free
    if free < needed:
        hint = "" if in_place else " --in-place needs a third of that, for a trusted place only."
        raise StorageError(
            f"{path}: importing it needs about {needed / 1e6:,.0f} MB on the disk of the store, "
            f"where {free / 1e6:,.0f} MB are free. Nothing was stored; make room first.{hint}",
            code=ErrorCode.STORAGE_WRITE,
            details={"needed": needed, "free": free},
        )
