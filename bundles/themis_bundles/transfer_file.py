"""The form of a transfer file: a plain tar file of regular files, or its parts.

The first member is `pack.json`, the list of all others. Headers hold no owner, mode or time, so
the same members give the same bytes, and a reader needs to know one form only: a member whose
header is not exactly the expected one is refused, whatever else tar could say with it.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from themis_bundles import files
from themis_bundles.errors import BundleExistsError, BundleInvalidError
from themis_bundles.model import Count, Frozen, Sha256

PACK_LIST = "pack.json"
BLOCK = 512
"""Tar counts in blocks of so many bytes."""

_CHUNK = 2**20


class Member(Frozen):
    """One file of a pack."""

    path: Annotated[str, StringConstraints(max_length=200)]
    """Where it lies in the bag."""

    bytes: Annotated[Count, Field(lt=8**11)]
    """Its length."""

    sha256: Sha256
    """The digest of its bytes."""


class PackList(Frozen):
    """`pack.json`: what a pack holds."""

    format: Literal["themis-pack"]
    """Tells a pack from anything else."""

    version: Literal["1.0"]
    """The version of the format."""

    kind: Literal["bundle", "results"]
    """A whole bundle, or a bag of results for a bundle that the receiver has."""

    bundle: Sha256
    """The bundle's identity."""

    members: tuple[Member, ...]
    """Every other file, in the order of the pack."""


class MembersWriter:
    """Writes members into one file, or into parts; the files get their names at the end.

    Args:
        file: The file, or the name that its parts share.
        max_bytes: The size of a part; None for one file.

    Attributes:
        paths: The files that were written, in order; known when the block was left.

    Raises:
        BundleExistsError: When a file of that name exists.
        OSError: When the file system refuses.
    """

    def __init__(self, file: Path, max_bytes: int | None) -> None:
        self.paths: tuple[Path, ...] = ()
        self._file = file
        self._max = max_bytes
        self._temporary: list[Path] = []
        self._fd = -1
        self._room = 0

    def __enter__(self) -> Self:
        if self._file.exists() or _part(self._file, 0).exists():
            raise BundleExistsError(self._file)
        files.make_folder(self._file.parent.absolute())
        self._next()
        return self

    def member(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write one member; the chunks must have that size together."""
        self._write(_tar_header(name, size))
        for chunk in chunks:
            self._write(chunk)
        self._write(_padding(size))

    def _write(self, data: bytes) -> None:
        while self._max is not None and len(data) > self._room:
            files.write_all(self._fd, data[: self._room])
            data = data[self._room :]
            self._next()
        files.write_all(self._fd, data)
        self._room -= len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write(bytes(2 * BLOCK))
                self._finish()
                final = [_part(self._file, n) for n in range(len(self._temporary))]
                if self._max is None:
                    final = [self._file]
                for temporary, path in zip(self._temporary, final, strict=True):
                    temporary.replace(path)
                files.sync_folder(self._file.parent)
                self.paths = tuple(final)
        finally:
            if self._fd >= 0:
                os.close(self._fd)
            for temporary in self._temporary:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def _next(self) -> None:
        self._finish()
        name = f".{self._file.name}.{secrets.token_hex(8)}.tmp"
        self._temporary.append(self._file.with_name(name))
        self._fd = files.create(self._temporary[-1])
        self._room = self._max or 0

    def _finish(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
            fd, self._fd = self._fd, -1
            os.close(fd)


class MembersReader:
    """Reads the members of a transfer file, each proved to be the one that was expected.

    Get one from `opened`.
    """

    def __init__(self, file: Path, source: "_Joined") -> None:
        self._file = file
        self._source = source

    def pack_list(self, limit: int) -> bytes:
        """Read the first member, the list of all others.

        Raises:
            BundleInvalidError: When it is something else, or longer than the limit.
        """
        size = self._header(PACK_LIST)
        if size > limit:
            raise self._refused(PACK_LIST, f"size: {size} bytes are too many")
        data = self._source.read(size)
        self._padding(PACK_LIST, size)
        return data

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Give the bytes of the next member; when exhausted, they were proved.

        Raises:
            BundleInvalidError: When it is not this member, of this size and digest.
        """
        size = self._header(member.path)
        if size != member.bytes:
            raise self._refused(member.path, f"size: {size} bytes, not {member.bytes}")
        digest = hashlib.sha256()
        while size and (chunk := self._source.read(min(size, _CHUNK))):
            digest.update(chunk)
            yield chunk
            size -= len(chunk)
        if size:
            raise self._refused(member.path, "truncated: the pack ends inside it")
        if digest.hexdigest() != member.sha256:
            raise self._refused(member.path, f"digest: not what {PACK_LIST} says")
        self._padding(member.path, member.bytes)

    def end(self) -> None:
        """Prove that nothing follows.

        Raises:
            BundleInvalidError: When something does.
        """
        # Two empty blocks; tar itself fills its last record of 20 blocks with more.
        rest = self._source.read(20 * BLOCK + 1)
        if any(rest) or not 2 * BLOCK <= len(rest) <= 20 * BLOCK:
            raise self._refused("pack", "tar: its end is missing, or something follows it")

    def _header(self, name: str) -> int:
        """Read the header of a member that must have this name; return its size."""
        block = self._source.read(BLOCK)
        if len(block) < BLOCK:
            raise self._refused(name, "truncated: the pack ends before it")
        digits = block[124:135]
        if not digits.isdigit() or b"8" in digits or b"9" in digits:
            raise self._refused(name, "tar: its header is damaged")
        size = int(digits, 8)
        if block != _tar_header(name, size):
            raise self._refused(name, "tar: another member is in its place")
        return size

    def _padding(self, name: str, size: int) -> None:
        if self._source.read(-size % BLOCK) != _padding(size):
            raise self._refused(name, "tar: something else fills its last block")

    def _refused(self, name: str, reason: str) -> BundleInvalidError:
        return BundleInvalidError(self._file, (f"{name}: {reason}",))


@contextmanager
def opened(file: Path) -> Iterator[MembersReader]:
    """Open a transfer file, or the parts that share its name, for reading.

    Raises:
        BundleInvalidError: When there is none.
    """
    paths = [file]
    if not file.exists():
        paths = []
        while _part(file, len(paths)).exists():
            paths.append(_part(file, len(paths)))
    if not paths:
        raise BundleInvalidError(file, ("pack: unreadable: there is no such file, and no part",))
    source = _Joined(paths)
    try:
        yield MembersReader(file, source)
    finally:
        source.close()


class _Joined:
    """Reads a file, or its parts one after the other."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._fd = -1

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes, fewer only at the end."""
        chunks = []
        while count:
            chunk = os.read(self._fd, min(count, _CHUNK)) if self._fd >= 0 else b""
            if not chunk and not self._advance():
                break
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _advance(self) -> bool:
        self.close()
        if not self._paths:
            return False
        self._fd = os.open(self._paths.pop(0), os.O_RDONLY | os.O_CLOEXEC)
        return True


def _tar_header(name: str, size: int) -> bytes:
    """Return a ustar header for a regular file, without owner, mode bits or time."""
    prefix, _, short = name.rpartition("/") if len(name) > 100 else ("", "", name)  # noqa: PLR2004
    fields = (
        short.encode().ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        b"0" + bytes(100),
        b"ustar\00000" + bytes(80),
        prefix.encode().ljust(155, b"\0"),
        bytes(12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _padding(size: int) -> bytes:
    """Return what fills the last block of a member."""
    return bytes(-size % BLOCK)


def _part(file: Path, number: int) -> Path:
    """Return the name of a part of a transfer file."""
    return file.with_name(f"{file.name}.{number:03d}")
