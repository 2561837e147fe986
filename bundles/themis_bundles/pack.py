"""Pack a bundle or its results into one transfer file, and unpack it without trusting it.

A pack is a plain tar file, optionally cut into parts (`cat FILE.* | tar t` lists it). Its first
member, `pack.json`, lists every other member with size and digest, in order. The unpacker reads
tar headers itself: it takes regular files only, with exactly those names, sizes and digests, in
that order, into folders that it opens without following links. Running it again continues.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from themis_bundles import bag, files
from themis_bundles.attempts import DONE, SUFFIX, first_reason, is_attempt_id, list_folder
from themis_bundles.bagcheck import bag_problems, payload_digests
from themis_bundles.errors import BundleExistsError, BundleInvalidError, BundleWriteError
from themis_bundles.manifest import VERSION
from themis_bundles.model import Count, Frozen, Sha256
from themis_bundles.reader import Bundle
from themis_bundles.receipts import Status, dump, load
from themis_bundles.results import read_done
from themis_bundles.signatures import FOLDER as SIGNATURES

PACK_LIST = "pack.json"
MANIFEST = "data/manifest.json"

_LIST_LIMIT = 2**28
_BLOCK = 512
_CHUNK = 2**20
_ATTEMPT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
_NAMES = re.compile(
    r"bagit\.txt|bag-info\.txt|manifest-sha256\.txt|tagmanifest-sha256\.txt"
    r"|data/manifest\.json|data/components\.jsonl\.zst|data/items/[0-9]{5,9}\.(jsonl\.zst|ids)"
    rf"|signatures/{_ATTEMPT}\.sig|results/[0-9]{{5,9}}/{_ATTEMPT}\.(jsonl\.zst|json)"
)


class Member(Frozen):
    """One file of a pack."""

    path: Annotated[str, StringConstraints(max_length=200)]
    """Where it goes, relative to the bundle."""

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
    """A whole bundle, or results for a bundle that the receiver has."""

    bundle: Sha256
    """The bundle's identity."""

    members: tuple[Member, ...]
    """Every other file, in the order of the pack."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What unpacking did."""

    path: Path
    """The bundle."""

    written: int
    """Files that were written or replaced."""

    kept: int
    """Files that were there already, the same or further on."""


def pack(
    bundle: Bundle,
    file: Path,
    *,
    results_only: bool = False,
    shards: Collection[int] | None = None,
    max_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a bundle into one transfer file.

    Args:
        bundle: The bundle, with its results.
        file: The file to write; with `max_bytes`, parts `<file>.000`, `<file>.001`, …
        results_only: Leave the payload out: the way back.
        shards: Take the results of these shards only; by default of all, and with
            `results_only` of those that are done.
        max_bytes: The size of a part, in bytes.

    Returns:
        The files, in order.

    Raises:
        BundleExistsError: When a file of that name exists.
        BundleInvalidError: When a file changes while it is packed.
        BundleWriteError: When the file system refuses.
    """
    if max_bytes is not None and max_bytes < _BLOCK:
        raise ValueError(f"a part must have at least {_BLOCK} bytes")
    if shards is None:
        everything = [shard.index for shard in bundle.shards]
        shards = [i for i in everything if not results_only or read_done(bundle, i) is not None]
    sources = [] if results_only else list(_payload(bundle))
    sources += [source for index in sorted(shards) for source in _results(bundle, index)]
    members = [_measure(bundle, source) for source in sources]
    listing = PackList(
        format="themis-pack",
        version=VERSION,
        kind="results" if results_only else "bundle",
        bundle=bundle.digest,
        members=tuple(members),
    )
    with files.write_errors(file), _Parts(file, max_bytes) as out:
        data = dump(listing)
        out.write(_header(PACK_LIST, len(data)) + data + _padding(len(data)))
        for source, member in zip(sources, members, strict=True):
            out.write(_header(member.path, member.bytes))
            _copy(bundle, source, member, out.write)
            out.write(_padding(member.bytes))
        out.write(bytes(2 * _BLOCK))
    return out.paths


def unpack(file: Path, target: Path) -> Unpacked:
    """Unpack a transfer file, proving every member before it gets its name.

    A bundle goes to a folder that is absent or holds the same bundle; results go to a bundle
    that is there. A result file that is there already is kept when it is as far or further on,
    and replaced when the new one continues it. Running this again after a failure continues.

    Args:
        file: The transfer file, or the name that its parts share.
        target: The bundle's folder.

    Raises:
        BundleInvalidError: When the pack is damaged, incomplete, of another bundle, or names
            anything that does not belong into a bundle; nothing of the offending member is kept.
        BundleExistsError: When the target is something else.
        BundleWriteError: When the file system refuses.
    """
    with ExitStack() as stack:
        source = stack.enter_context(_joined(file))
        listing = _read_list(file, source)
        there = _identity(target)
        if there is None and listing.kind == "results":
            raise BundleInvalidError(
                file,
                (f"{PACK_LIST}: bundle: it holds results; unpack its bundle to {target} first",),
            )
        if there is None and target.exists() and any(target.iterdir()):
            raise BundleExistsError(target)
        if there not in {None, listing.bundle}:
            reason = f"{PACK_LIST}: bundle: it is of {listing.bundle}, {target} is {there}"
            raise BundleInvalidError(file, (reason,))
        # A fixed name, so that the next call goes on where a failed one stopped.
        folder = target
        if there is None:
            folder = target.with_name(f".{target.name}.{listing.bundle[:16]}.unpack")
        with files.write_errors(folder):
            files.make_folder(folder.absolute())
        written = kept = 0
        for member in listing.members:
            if _take(file, source, folder, member):
                written += 1
            else:
                kept += 1
        _expect_end(file, source)
    if there is None:
        _prove(file, folder, listing)
        with files.write_errors(target):
            folder.replace(target)
            files.sync_folder(target.parent)
    return Unpacked(target, written, kept)


def pack_list(file: Path) -> bytes:
    """Return the bytes of a pack's `pack.json`, which pins every member of it.

    Raises:
        BundleInvalidError: When the pack does not begin with a list of members.
    """
    with _joined(file) as source:
        return dump(_read_list(file, source))


# Packing -----------------------------------------------------------------------------------

_Source = tuple[str, Path, str]
"""The name in the pack, and the folder and the path below it to read from."""


def _payload(bundle: Bundle) -> Iterator[_Source]:
    for name in (*bag.TAG_FILES, bag.TAG_MANIFEST, *payload_digests(bundle)):
        yield name, bundle.path, name
    for name in list_folder(bundle.path / SIGNATURES):
        if name.endswith(".sig"):
            yield f"{SIGNATURES}/{name}", bundle.path, f"{SIGNATURES}/{name}"


def _results(bundle: Bundle, index: int) -> Iterator[_Source]:
    folder = f"{index:05d}"
    for name in list_folder(bundle.results_dir / folder):
        stem = name.removesuffix(SUFFIX).removesuffix(".json")
        if name == DONE or (stem != name and is_attempt_id(stem)):
            yield f"results/{folder}/{name}", bundle.results_dir, f"{folder}/{name}"


def _measure(bundle: Bundle, source: _Source) -> Member:
    """Hash a file as far as it reaches now; a worker may be appending to it."""
    name, root, relative = source
    digest, size = hashlib.sha256(), 0
    try:
        with files.opened_inside(root, relative) as fd:
            left = os.fstat(fd).st_size
            while left and (chunk := os.read(fd, min(left, _CHUNK))):
                digest.update(chunk)
                size, left = size + len(chunk), left - len(chunk)
    except OSError as error:
        reason = f"{name}: unreadable: {error.strerror}"
        raise BundleInvalidError(bundle.path, (reason,)) from None
    return Member(path=name, bytes=size, sha256=digest.hexdigest())


def _copy(bundle: Bundle, source: _Source, member: Member, write: Callable[[bytes], None]) -> None:
    digest, left = hashlib.sha256(), member.bytes
    with files.opened_inside(source[1], source[2]) as fd:
        while left and (chunk := os.read(fd, min(left, _CHUNK))):
            digest.update(chunk)
            write(chunk)
            left -= len(chunk)
    if left or digest.hexdigest() != member.sha256:
        reason = f"{member.path}: changed: it was replaced while it was packed; pack again"
        raise BundleInvalidError(bundle.path, (reason,))


def _header(name: str, size: int) -> bytes:
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
    return bytes(-size % _BLOCK)


class _Parts:
    """Writes a stream into one file, or into parts; they get their names at the end."""

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

    def write(self, data: bytes) -> None:
        while self._max is not None and len(data) > self._room:
            files.write_all(self._fd, data[: self._room])
            data = data[self._room :]
            self._next()
        files.write_all(self._fd, data)
        self._room -= len(data)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
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


def _part(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name}.{number:03d}")


# Unpacking ---------------------------------------------------------------------------------


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


@contextmanager
def _joined(file: Path) -> Iterator[_Joined]:
    paths = [file]
    if not file.exists():
        paths = []
        while _part(file, len(paths)).exists():
            paths.append(_part(file, len(paths)))
    if not paths:
        raise BundleInvalidError(file, ("pack: unreadable: there is no such file, and no part",))
    source = _Joined(paths)
    try:
        yield source
    finally:
        source.close()


def _read_list(file: Path, source: _Joined) -> PackList:
    size = _expect_header(file, source, PACK_LIST)
    if size > _LIST_LIMIT:
        raise BundleInvalidError(file, (f"{PACK_LIST}: size: {size} bytes are too many",))
    data = source.read(size)
    _expect_padding(file, source, PACK_LIST, size)
    try:
        listing = load(PackList, data)
    except ValueError as error:
        reason = f"{PACK_LIST}: schema: {first_reason(error)}"
        raise BundleInvalidError(file, (reason,)) from None
    names = [member.path for member in listing.members]
    problems = [
        f"{PACK_LIST}: name: {name!r} is no file of a bundle" for name in names if not _may(name)
    ]
    if len(set(names)) != len(names):
        problems.append(f"{PACK_LIST}: name: a member is listed twice")
    if listing.kind == "results" and not all(name.startswith("results/") for name in names):
        problems.append(f"{PACK_LIST}: name: a pack of results may hold nothing else")
    if problems:
        raise BundleInvalidError(file, tuple(problems))
    return listing


def _may(name: str) -> bool:
    return _NAMES.fullmatch(name) is not None


def _expect_header(file: Path, source: _Joined, name: str) -> int:
    """Read the header of a member that must have this name; return its size."""
    block = source.read(_BLOCK)
    if len(block) < _BLOCK:
        raise BundleInvalidError(file, (f"{name}: truncated: the pack ends before it",))
    digits = block[124:135]
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise BundleInvalidError(file, (f"{name}: tar: its header is damaged",))
    size = int(digits, 8)
    if block != _header(name, size):
        raise BundleInvalidError(file, (f"{name}: tar: another member is in its place",))
    return size


def _expect_padding(file: Path, source: _Joined, name: str, size: int) -> None:
    if source.read(-size % _BLOCK) != _padding(size):
        raise BundleInvalidError(file, (f"{name}: tar: something else fills its last block",))


def _expect_end(file: Path, source: _Joined) -> None:
    # Two empty blocks; tar itself fills its last record of 20 blocks with more.
    rest = source.read(20 * _BLOCK + 1)
    if any(rest) or not 2 * _BLOCK <= len(rest) <= 20 * _BLOCK:
        raise BundleInvalidError(file, ("pack: tar: its end is missing, or something follows it",))


def _take(file: Path, source: _Joined, folder: Path, member: Member) -> bool:
    """Write a member below the folder; return False when what is there is kept."""
    size = _expect_header(file, source, member.path)
    if size != member.bytes:
        raise BundleInvalidError(file, (f"{member.path}: size: {size} bytes, not {member.bytes}",))
    *above, name = member.path.split("/")
    temporary = f".{name[:100]}.{secrets.token_hex(8)}.tmp"
    with files.write_errors(folder / member.path), _folder(folder, above) as at:
        try:
            try:
                _receive(file, source, member, temporary, at)
                keep = _keeps(file, folder, member, temporary)
                if not keep:
                    os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                    os.fsync(at)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=at)
        except files.UnsafeFileError as error:
            reason = f"{member.path}: unreadable: {error.strerror}"
            raise BundleInvalidError(file, (reason,)) from None
    return not keep


def _receive(file: Path, source: _Joined, member: Member, name: str, at: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o666, dir_fd=at)
    try:
        digest, left = hashlib.sha256(), member.bytes
        while left and (chunk := source.read(min(left, _CHUNK))):
            digest.update(chunk)
            files.write_all(fd, chunk)
            left -= len(chunk)
        if left:
            raise BundleInvalidError(file, (f"{member.path}: truncated: the pack ends inside it",))
        if digest.hexdigest() != member.sha256:
            raise BundleInvalidError(file, (f"{member.path}: digest: not what {PACK_LIST} says",))
        _expect_padding(file, source, member.path, member.bytes)
        os.fsync(fd)
    finally:
        os.close(fd)


def _keeps(file: Path, folder: Path, member: Member, temporary: str) -> bool:
    """Tell whether a file that is there stays: it is the same, or further on.

    Raises:
        BundleInvalidError: When the two contradict each other.
    """
    new = str(Path(member.path).with_name(temporary))
    try:
        size = files.size_inside(folder, member.path)
    except FileNotFoundError:
        return False
    common = min(size, member.bytes)
    same = _digest(folder, member.path, common) == _digest(folder, new, common)
    if same and (size == member.bytes or member.path.endswith(SUFFIX)):
        return size >= member.bytes
    if member.path.startswith("results/") and _is_status(member.path):
        with suppress(ValueError):
            old_status = load(Status, files.read_inside(folder, member.path, _CHUNK))
            new_status = load(Status, files.read_inside(folder, new, _CHUNK))
            return (old_status.bytes, old_status.updated) >= (new_status.bytes, new_status.updated)
    reason = f"{member.path}: conflict: another file is there, and neither continues the other"
    raise BundleInvalidError(file, (reason,))


def _is_status(path: str) -> bool:
    return path.endswith(".json") and not path.endswith(f"/{DONE}")


def _digest(folder: Path, relative: str, length: int) -> bytes:
    digest = hashlib.sha256()
    with files.opened_inside(folder, relative) as fd:
        while length and (chunk := os.read(fd, min(length, _CHUNK))):
            digest.update(chunk)
            length -= len(chunk)
    return digest.digest()


@contextmanager
def _folder(root: Path, above: list[str]) -> Iterator[int]:
    """Open a folder below the root for writing into, making it where it is missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in above:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=at)
                os.fsync(at)
            try:
                below = os.open(name, flags, dir_fd=at)
            except OSError as error:
                if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                words = "a link or a file in place of a folder"
                raise BundleWriteError(root / "/".join(above), words) from None
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _prove(file: Path, folder: Path, listing: PackList) -> None:
    """Prove that what was unpacked is the whole bundle; remove it when it is not."""
    for left_over in folder.rglob(".*.tmp"):
        left_over.unlink()
    try:
        bundle = Bundle.open(folder)
        problems = [str(problem) for problem in bag_problems(bundle)]
        # The bytes of every member were proved against the list; so the list must be right.
        listed = {member.path: member.sha256 for member in listing.members}
        problems += [
            f"{path}: digest: not what the manifest says"
            for path, digest in payload_digests(bundle).items()
            if listed.get(path) != digest
        ]
        if bundle.digest != listing.bundle:
            problems.append(f"{MANIFEST}: digest: not the bundle that {PACK_LIST} names")
    except BundleInvalidError as error:
        problems = list(error.problems)
    if problems:
        shutil.rmtree(folder, ignore_errors=True)
        raise BundleInvalidError(file, tuple(problems))


def _identity(folder: Path) -> str | None:
    """Return the identity of the bundle in a folder, None when there is none."""
    with suppress(OSError):
        digest = hashlib.sha256()
        with files.opened_inside(folder, MANIFEST) as fd:
            while chunk := os.read(fd, _CHUNK):
                digest.update(chunk)
        return digest.hexdigest()
    return None
