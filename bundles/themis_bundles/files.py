"""The few file operations that a bundle's promises rest on.

Writing: every byte reaches the disk before a name shows it (write, fsync, rename or link,
fsync of the folder). Reading: a path from a bundle is opened component by component without
following links, and only regular files are read.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from themis_bundles.errors import BundleExistsError, BundleWriteError

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UnsafeFileError(OSError):
    """A path inside a bundle is a link, a device, a folder, or leaves the bundle."""


def write_all(fd: int, data: bytes) -> None:
    """Write all bytes, also when the system takes them in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def create(path: Path) -> int:
    """Create a file that must not exist, and return it open for writing.

    Raises:
        BundleExistsError: When something has that name.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise BundleExistsError(path) from None


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist, through to the disk."""
    fd = create(path)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a folder; they make names durable themselves.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, durably; an existing folder is fine."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_folder(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Put new content under a name; a reader sees the old or the new, never a mixture."""
    temporary = _temporary(path)
    try:
        write_new(temporary, data)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def publish_once(path: Path, data: bytes) -> bool:
    """Create a file with its whole content, unless the name is taken.

    Returns:
        Whether this call created it; False when another process was first.
    """
    temporary = _temporary(path)
    try:
        write_new(temporary, data)
        try:
            # A link fails when the name exists, and shows the file only when it is whole.
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP}:
                # NFS can repeat a request whose answer was lost; the second one then fails.
                if not _same_file(temporary, path):
                    raise
            else:
                return _create_whole(path, data)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def open_inside(root: Path, relative: str) -> int:
    """Open a regular file below a folder for reading, following no link on the way.

    Args:
        root: The folder; the caller vouches for it.
        relative: The path below it, with forward slashes.

    Raises:
        UnsafeFileError: When the path leaves the folder, or anything on it is not what it
            should be.
        OSError: When it does not exist or cannot be opened.
    """
    *folders, name = relative.split("/")
    if {"", ".", ".."} & {*folders, name}:
        raise UnsafeFileError(errno.EPERM, "not a plain path inside the bundle", relative)
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = _open_at(at, folder, os.O_DIRECTORY, relative)
            os.close(at)
            at = below
        fd = _open_at(at, name, 0, relative)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnsafeFileError(errno.EPERM, "not a regular file", relative)
    return fd


@contextmanager
def opened_inside(root: Path, relative: str) -> Iterator[int]:
    """Open a regular file below a folder as `open_inside` does, and close it at the end."""
    fd = open_inside(root, relative)
    try:
        yield fd
    finally:
        os.close(fd)


def size_inside(root: Path, relative: str) -> int:
    """Return the length of a regular file below a folder, opened as `open_inside` does."""
    with opened_inside(root, relative) as fd:
        return os.fstat(fd).st_size


def read_inside(root: Path, relative: str, limit: int) -> bytes:
    """Read a whole file below a folder.

    Args:
        root: The folder.
        relative: The path below it.
        limit: The largest size accepted, in bytes.

    Raises:
        UnsafeFileError: When it is not a regular file inside the folder, or too large.
        OSError: When it cannot be read.
    """
    with opened_inside(root, relative) as fd:
        if os.fstat(fd).st_size > limit:
            raise UnsafeFileError(errno.EFBIG, f"larger than {limit} bytes", relative)
        chunks = []
        while chunk := os.read(fd, 2**20):
            chunks.append(chunk)
            limit -= len(chunk)
            if limit < 0:
                raise UnsafeFileError(errno.EFBIG, "grew while it was read", relative)
    return b"".join(chunks)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a `BundleWriteError` that names the path."""
    try:
        yield
    except OSError as error:
        raise BundleWriteError(path, error.strerror or str(error)) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _open_at(at: int, name: str, flags: int, relative: str) -> int:
    try:
        return os.open(name, _READ_FLAGS | flags, dir_fd=at)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise UnsafeFileError(error.errno, "a link or a file on the way", relative) from None
        raise


def _same_file(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one.samefile(other)
    return False


def _create_whole(path: Path, data: bytes) -> bool:
    """Create exclusively where links are not supported; one write, so hardly ever torn."""
    try:
        write_new(path, data)
    except BundleExistsError:
        return False
    sync_folder(path.parent)
    return True
