"""Pack a bundle, or the results of some shards, into one transfer file.

A pack is a plain tar file, optionally cut into parts (`cat FILE.* | tar t` lists it). Its first
member, `pack.json`, lists every other member with size and digest, in order; then come the tag
files and signatures of a bag, then the bag's payload. So `tar x` gives a bag that other tools
can prove: the bundle, or a bag of results (`results_bag`). `unpack` reads it.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from themis_bundles import bag, files, results_bag
from themis_bundles.attempts import DONE, SUFFIX, is_attempt_id, list_folder
from themis_bundles.bagcheck import payload_digests
from themis_bundles.canonical import sha256_hex
from themis_bundles.errors import BundleInvalidError
from themis_bundles.manifest import VERSION
from themis_bundles.reader import Bundle
from themis_bundles.receipts import dump
from themis_bundles.results import read_done
from themis_bundles.signatures import FOLDER as SIGNATURES
from themis_bundles.signatures import sign_bytes, signature_path
from themis_bundles.transfer_file import (
    BLOCK,
    PACK_LIST,
    Member,
    MembersWriter,
    PackList,
)

_CHUNK = 2**20


def pack(
    bundle: Bundle,
    file: Path,
    *,
    results_only: bool = False,
    shards: Collection[int] | None = None,
    since: Sequence[PackList] = (),
    key: Path | None = None,
    max_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a bundle, or a bag of its results, into one transfer file.

    Args:
        bundle: The bundle, with its results.
        file: The file to write; with `max_bytes`, parts `<file>.000`, `<file>.001`, …
        results_only: Leave the items out: the way back.
        shards: Take the results of these shards only; by default of all, and with
            `results_only` of those that are done.
        since: What former packs held; shards whose results are all in one of them stay out.
        key: An ssh key that signs a bag of results.
        max_bytes: The size of a part, in bytes.

    Returns:
        The files, in order; none when `results_only` and there are no results to bring.

    Raises:
        BundleExistsError: When a file of that name exists.
        BundleInvalidError: When a file changes while it is packed, or two names differ only
            by case.
        BundleWriteError: When the file system refuses.
        SignatureToolError: When ssh-keygen cannot sign.
        ValueError: For a part that is too small, a key without `results_only`, or a former
            pack of another bundle.
    """
    if max_bytes is not None and max_bytes < BLOCK:
        raise ValueError(f"a part must have at least {BLOCK} bytes")
    if key is not None and not results_only:
        raise ValueError("a bundle is signed where it lies; only a bag of results is signed here")
    if any(former.bundle != bundle.digest for former in since):
        raise ValueError("a former pack is of another bundle")
    if results_only:
        sources = _bag_of_results(bundle, shards, since, key)
        if not sources:
            return ()
    else:
        everything = [shard.index for shard in bundle.shards] if shards is None else shards
        results = (_new_results(bundle, index, since) for index in sorted(everything))
        sources = [*_payload(bundle), *chain.from_iterable(results)]
    listing = PackList(
        format="themis-pack",
        version=VERSION,
        kind="results" if results_only else "bundle",
        bundle=bundle.digest,
        members=tuple(source.member for source in sources),
    )
    problems = tuple(f"results: name: {p}" for p in lookalikes(s.path for s in sources))
    if problems:
        raise BundleInvalidError(bundle.path, problems)
    with files.write_errors(file), MembersWriter(file, max_bytes) as out:
        text = dump(listing)
        out.member(PACK_LIST, len(text), (text,))
        for source in sources:
            out.member(source.path, source.member.bytes, _bytes(bundle, source))
    return out.paths


def results_bag_texts(
    bundle: Bundle, shards: Collection[int] | None, key: Path
) -> dict[str, bytes]:
    """Return the tag files of a bag of results and a signature over them, without the bag.

    Args:
        bundle: The bundle.
        shards: The shards; by default those that are done.
        key: An ssh key.

    Returns:
        The bytes by name; nothing when there are no results.

    Raises:
        BundleInvalidError: When a result file cannot be read.
        SignatureToolError: When ssh-keygen cannot sign.
    """
    members = _bag_of_results(bundle, shards, (), key)
    return {source.path: source.text for source in members if source.text is not None}


def lookalikes(names: Iterable[str]) -> Iterator[str]:
    """Say which names differ only by case, and so are one file on some systems.

    >>> list(lookalikes(["a.json", "A.json"]))
    ["'A.json' differs from 'a.json' only by case"]
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            yield f"{name!r} differs from {other!r} only by case"


@dataclass(frozen=True, slots=True)
class _Source:
    """One member, and where its bytes come from."""

    member: Member
    """Its entry in the list."""

    root: Path
    """The folder to read it from."""

    relative: str
    """Its path below that folder."""

    text: bytes | None = None
    """Its bytes, when they were made here."""

    @property
    def path(self) -> str:
        return self.member.path


def _made(name: str, text: bytes) -> _Source:
    member = Member(path=name, bytes=len(text), sha256=sha256_hex(text))
    return _Source(member, Path(), "", text)


def _renamed(source: _Source, path: str) -> _Source:
    member = source.member.model_copy(update={"path": path})
    return _Source(member, source.root, source.relative)


def _payload(bundle: Bundle) -> Iterator[_Source]:
    signatures = [n for n in list_folder(bundle.path / SIGNATURES) if n.endswith(".sig")]
    names = [*bag.TAG_FILES, bag.TAG_MANIFEST, *(f"{SIGNATURES}/{name}" for name in signatures)]
    for name in (*names, *payload_digests(bundle)):
        yield _measured(bundle, name, bundle.path, name)


def _new_results(bundle: Bundle, index: int, since: Sequence[PackList]) -> list[_Source]:
    folder = f"{index:05d}"
    found = []
    for name in list_folder(bundle.results_dir / folder):
        stem = name.removesuffix(SUFFIX).removesuffix(".json")
        if name == DONE or (stem != name and is_attempt_id(stem)):
            path = f"{folder}/{name}"
            found.append(_measured(bundle, f"results/{path}", bundle.results_dir, path))
    for former in since:
        held = {
            (member.path.removeprefix(results_bag.PREFIX), member.sha256)
            for member in former.members
        }
        if all((source.path, source.member.sha256) in held for source in found):
            return []
    return found


def _bag_of_results(
    bundle: Bundle, shards: Collection[int] | None, since: Sequence[PackList], key: Path | None
) -> list[_Source]:
    """Return the members of a bag of results; none when there are no results."""
    if shards is None:
        shards = [s.index for s in bundle.shards if read_done(bundle, s.index) is not None]
    results = list(chain(*(_new_results(bundle, index, since) for index in sorted(shards))))
    if not results:
        return []
    payload = [_measured(bundle, results_bag.MANIFEST, bundle.path, results_bag.MANIFEST)]
    payload += [_renamed(source, f"{results_bag.PREFIX}{source.path}") for source in results]
    entries = ((s.path, s.member.bytes, s.member.sha256) for s in payload)
    texts = results_bag.tag_files(entries, date=bundle.manifest.date, identity=bundle.digest)
    sources = [_made(name, text) for name, text in texts.items()]
    if key is not None:
        signature = sign_bytes(texts[bag.TAG_MANIFEST], key)
        sources.append(_made(signature_path(signature), signature))
    return [*sources, *payload]


def _measured(bundle: Bundle, name: str, root: Path, relative: str) -> _Source:
    """Hash a file as far as it reaches now; a worker may be appending to it."""
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
    member = Member(path=name, bytes=size, sha256=digest.hexdigest())
    return _Source(member, root, relative)


def _bytes(bundle: Bundle, source: _Source) -> Iterator[bytes]:
    """Give the bytes of a member, and prove that they are those that were measured."""
    if source.text is not None:
        yield source.text
        return
    digest, left = hashlib.sha256(), source.member.bytes
    with files.opened_inside(source.root, source.relative) as fd:
        while left and (chunk := os.read(fd, min(left, _CHUNK))):
            digest.update(chunk)
            yield chunk
            left -= len(chunk)
    if left or digest.hexdigest() != source.member.sha256:
        reason = f"{source.path}: changed: it was replaced while it was packed; pack again"
        raise BundleInvalidError(bundle.path, (reason,))
