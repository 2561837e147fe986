"""Unpack a transfer file without trusting it.

Nothing is written before the head of the pack was proved: its list of members, the tag files
of the bag, which pin every payload file, and the signature where one is asked for. Tar headers
are read here: only regular files with exactly the listed names, sizes and digests, in that
order, are taken, into folders that are opened without following links. Running it again
continues.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from themis_bundles import bag, bagcheck, files, results_bag
from themis_bundles.attempts import DONE, SUFFIX, first_reason, list_folder
from themis_bundles.errors import (
    BundleExistsError,
    BundleInvalidError,
    BundleWriteError,
    SignatureRefusedError,
)
from themis_bundles.pack import lookalikes
from themis_bundles.reader import Bundle
from themis_bundles.receipts import Status, load
from themis_bundles.results_bag import MANIFEST, PREFIX, RESULTS
from themis_bundles.signatures import FOLDER as SIGNATURES
from themis_bundles.signatures import first_valid, judge, read_allowed_signers
from themis_bundles.signed_results import FOLDER as SIGNED_SETS
from themis_bundles.signed_results import set_name
from themis_bundles.transfer_file import PACK_LIST, Member, MembersReader, PackList, opened

_LIST_LIMIT = 2**28
_SIGNATURE_LIMIT = 2**16
_MOST_SIGNATURES = 64
_CHUNK = 2**20
_TAG_FILES = (*bag.TAG_FILES, bag.TAG_MANIFEST)
_ATTEMPT = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"
_SIGNATURE = rf"{SIGNATURES}/{_ATTEMPT}\.sig"
_RESULT = rf"results/[0-9]{{5,9}}/{_ATTEMPT}\.(jsonl\.zst|json)"
_PAYLOAD = (
    r"data/manifest\.json|data/components\.jsonl\.zst|data/items/[0-9]{5,9}\.(jsonl\.zst|ids)"
)
_REST = {
    "bundle": re.compile(rf"{_PAYLOAD}|{_RESULT}"),
    "results": re.compile(rf"data/manifest\.json|data/{_RESULT}"),
}
"""The members behind the tag files and the signatures, by the kind of pack."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What unpacking did."""

    path: Path
    """The bundle."""

    written: int
    """Files that were written or replaced."""

    kept: int
    """Files that were there already, the same or further on."""

    signed_by: str | None = None
    """Who signed what arrived; None when that was not asked for."""


@dataclass(frozen=True, slots=True)
class _Head:
    """What a pack begins with."""

    listing: PackList
    tag_files: dict[str, bytes]
    signatures: dict[str, bytes]


def unpack(file: Path, target: Path, *, allowed_signers: Path | None = None) -> Unpacked:
    """Unpack a transfer file, proving every member before it gets its name.

    A bundle goes to a folder that is absent or holds the same bundle; results go to a bundle
    that is there. A result file that is there already is kept when it is as far or further on,
    and replaced when the new one continues it. Running this again after a failure continues.

    Args:
        file: The transfer file, or the name that its parts share.
        target: The bundle's folder.
        allowed_signers: The verifier's list of keys; everything that arrives must then be
            signed by one of them. None asks for no signature.

    Raises:
        BundleInvalidError: When the pack is damaged, incomplete, of another bundle, or names
            anything that does not belong into a bundle; nothing of the offending member is kept.
        BundleExistsError: When the target is something else.
        BundleWriteError: When the file system refuses.
        SignatureRefusedError: When no allowed signer signed it.
        ValueError: When the list of allowed signers lies in the target.
        OSError: When the list of allowed signers cannot be read.
    """
    head = _read_head(file)
    listing = head.listing
    signer = None
    if allowed_signers is not None:
        signer = _require_signer(file, head, allowed_signers, target)
    there = _identity(target)
    _expect_target(file, head, target, there)
    # A fixed name, so that the next call goes on where a failed one stopped.
    folder = target
    if there is None:
        folder = target.with_name(f".{target.name}.{listing.bundle[:16]}.unpack")
    with files.write_errors(folder):
        files.make_folder(folder.absolute())
    written, kept = _take_all(file, folder, listing)
    if there is None:
        _prove(file, folder)
        with files.write_errors(target):
            folder.replace(target)
            files.sync_folder(target.parent)
    return Unpacked(target, written, kept, signer)


def read_list(file: Path) -> PackList:
    """Return what a pack says that it holds; of a pack in parts the first is enough.

    Raises:
        BundleInvalidError: When the pack does not begin with a list of members.
    """
    with opened(file) as source:
        return _read_list(file, source)


# The head ----------------------------------------------------------------------------------


def _read_head(file: Path) -> _Head:
    """Read and prove what the rest of a pack is held against."""
    with opened(file) as source:
        listing = _read_list(file, source)
        texts: dict[str, bytes] = {}
        for member in listing.members:
            if member.path not in _TAG_FILES and not member.path.startswith(f"{SIGNATURES}/"):
                break
            texts[member.path] = b"".join(source.chunks(member))
    tag_files = {name: text for name, text in texts.items() if name in _TAG_FILES}
    payload = {m.path: m.sha256 for m in listing.members if m.path.startswith(PREFIX)}
    problems = list(results_bag.bag_problems(tag_files, payload))
    if payload.get(MANIFEST) != listing.bundle:
        problems.append(f"{MANIFEST}: digest: not the bundle that {PACK_LIST} names")
    if problems:
        raise BundleInvalidError(file, tuple(problems))
    signatures = {name: text for name, text in texts.items() if name not in _TAG_FILES}
    return _Head(listing, tag_files, signatures)


def _read_list(file: Path, source: MembersReader) -> PackList:
    data = source.pack_list(_LIST_LIMIT)
    try:
        listing = load(PackList, data)
    except ValueError as error:
        reason = f"{PACK_LIST}: schema: {first_reason(error)}"
        raise BundleInvalidError(file, (reason,)) from None
    problems = tuple(f"{PACK_LIST}: name: {problem}" for problem in _list_problems(listing))
    if problems:
        raise BundleInvalidError(file, problems)
    return listing


def _list_problems(listing: PackList) -> Iterator[str]:
    """Say what in a list of members cannot be unpacked."""
    names = [member.path for member in listing.members]
    if len(set(names)) != len(names):
        yield "a member is listed twice"
    if tuple(names[: len(_TAG_FILES)]) != _TAG_FILES:
        yield f"it must begin with {', '.join(_TAG_FILES)}"
        return
    place = len(_TAG_FILES)
    while place < len(names) and re.fullmatch(_SIGNATURE, names[place]):
        place += 1
    if place - len(_TAG_FILES) > _MOST_SIGNATURES:
        yield f"more than {_MOST_SIGNATURES} signatures"
    of_kind = "a bundle" if listing.kind == "bundle" else "a bag of results"
    for name in names[place:]:
        if _REST[listing.kind].fullmatch(name) is None:
            yield f"{name!r} is no file of {of_kind} here"
    yield from lookalikes(names)
    limits = [_LIST_LIMIT] * len(_TAG_FILES) + [_SIGNATURE_LIMIT] * (place - len(_TAG_FILES))
    for member, limit in zip(listing.members, limits, strict=False):
        if member.bytes > limit:
            yield f"{member.path} has {member.bytes} bytes, more than {limit}"


def _require_signer(file: Path, head: _Head, allowed_signers: Path, target: Path) -> str | None:
    """Return who signed everything that a pack brings."""
    allowed = read_allowed_signers(allowed_signers, outside=target)
    data = head.tag_files[bag.TAG_MANIFEST]
    found = [judge(name, text, data, allowed) for name, text in head.signatures.items()]
    signature = first_valid(file, tuple(found))
    loose = [m.path for m in head.listing.members if m.path.startswith("results/")]
    if loose:
        reason = "a bundle's signature is not over results; they come in a pack of their own"
        raise SignatureRefusedError(file, (f"{loose[0]}: {reason}",))
    return signature.principal


def _expect_target(file: Path, head: _Head, target: Path, there: str | None) -> None:
    """Refuse a target that is not for this pack."""
    listing = head.listing
    if there is None and listing.kind == "results":
        raise BundleInvalidError(
            file, (f"{PACK_LIST}: bundle: it holds results; unpack its bundle to {target} first",)
        )
    if there is None and target.exists() and any(target.iterdir()):
        raise BundleExistsError(target)
    if there not in {None, listing.bundle}:
        reason = f"{PACK_LIST}: bundle: it is of {listing.bundle}, {target} is {there}"
        raise BundleInvalidError(file, (reason,))
    if listing.kind == "results":
        payload = [m for m in listing.members if m.path.startswith(PREFIX)]
        expected = bag.bag_info(
            date=Bundle.open(target).manifest.date,
            identifier=listing.bundle,
            files=len(payload),
            octets=sum(member.bytes for member in payload),
        )
        if head.tag_files["bag-info.txt"] != expected:
            reason = "bag-info.txt: bag: it does not describe these results"
            raise BundleInvalidError(file, (reason,))


# The members -------------------------------------------------------------------------------


def _take_all(file: Path, folder: Path, listing: PackList) -> tuple[int, int]:
    """Put every member where it belongs; return how many were written and kept."""
    written = kept = 0
    with opened(file) as source:
        # The list pins every byte that follows, so what was proved above still holds.
        if _read_list(file, source) != listing:
            raise BundleInvalidError(file, (f"{PACK_LIST}: changed: while it was read",))
        _refuse_lookalikes(file, folder, listing)
        for member in listing.members:
            path = _destination(listing, member)
            if path is None:
                for _ in source.chunks(member):
                    pass
            elif _take(file, source, folder, member, path):
                written += 1
            else:
                kept += 1
        source.end()
    return written, kept


def _destination(listing: PackList, member: Member) -> str | None:
    """Return where a member goes, relative to the bundle; None when it has no place there."""
    if listing.kind == "bundle":
        return member.path
    if member.path.startswith(RESULTS):
        return member.path.removeprefix(PREFIX)
    # What proves who signed the results stays with them.
    tag_manifest = listing.members[len(bag.TAG_FILES)]
    if member.path == MANIFEST or not listing.members[len(_TAG_FILES)].path.startswith(
        f"{SIGNATURES}/"
    ):
        return None
    return f"results/{SIGNED_SETS}/{set_name(tag_manifest.sha256)}/{member.path}"


def _refuse_lookalikes(file: Path, folder: Path, listing: PackList) -> None:
    paths = {_destination(listing, member) or "" for member in listing.members}
    shards = {path.rpartition("/")[0] for path in paths if path.startswith("results/")}
    there = [f"{shard}/{name}" for shard in sorted(shards) for name in list_folder(folder / shard)]
    names = [*there, *sorted(paths - set(there))]
    problems = tuple(f"{PACK_LIST}: name: {problem}" for problem in lookalikes(names))
    if problems:
        raise BundleInvalidError(file, problems)


def _take(file: Path, source: MembersReader, folder: Path, member: Member, path: str) -> bool:
    """Write a member below the folder; return False when what is there is kept."""
    *above, name = path.split("/")
    temporary = f".{name[:100]}.{secrets.token_hex(8)}.tmp"
    with files.write_errors(folder / path), _folder(folder, above) as at:
        try:
            try:
                _receive(source, member, temporary, at)
                keep = _keeps(file, folder, member.bytes, path, temporary)
                if not keep:
                    os.replace(temporary, name, src_dir_fd=at, dst_dir_fd=at)
                    os.fsync(at)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=at)
        except files.UnsafeFileError as error:
            reason = f"{path}: unreadable: {error.strerror}"
            raise BundleInvalidError(file, (reason,)) from None
    return not keep


def _receive(source: MembersReader, member: Member, name: str, at: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o666, dir_fd=at)
    try:
        for chunk in source.chunks(member):
            files.write_all(fd, chunk)
        os.fsync(fd)
    finally:
        os.close(fd)


def _keeps(file: Path, folder: Path, length: int, path: str, temporary: str) -> bool:
    """Tell whether a file that is there stays: it is the same, or further on.

    Raises:
        BundleInvalidError: When the two contradict each other.
    """
    new = str(Path(path).with_name(temporary))
    try:
        size = files.size_inside(folder, path)
    except FileNotFoundError:
        return False
    common = min(size, length)
    same = _digest(folder, path, common) == _digest(folder, new, common)
    if same and (size == length or path.endswith(SUFFIX)):
        return size >= length
    if path.startswith("results/") and _is_status(path):
        with suppress(ValueError):
            old_status = load(Status, files.read_inside(folder, path, _CHUNK))
            new_status = load(Status, files.read_inside(folder, new, _CHUNK))
            return (old_status.bytes, old_status.updated) >= (new_status.bytes, new_status.updated)
    reason = f"{path}: conflict: another file is there, and neither continues the other"
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


def _prove(file: Path, folder: Path) -> None:
    """Prove that what was unpacked is the whole bundle; remove it when it is not."""
    for left_over in folder.rglob(".*.tmp"):
        left_over.unlink()
    try:
        bundle = Bundle.open(folder)
        problems = [str(problem) for problem in bagcheck.bag_problems(bundle)]
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
