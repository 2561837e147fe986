"""Signatures over results: which records somebody whose key counts has vouched for.

A signed set is the tag files of a bag of results and the signatures over them, kept in
`results/.signed/<id>/`; `<id>` begins the digest of `tagmanifest-sha256.txt`. `sign_results`
makes one where the results lie, and `unpack` keeps the one that arrived with them. A result
file is signed when a set that an allowed signer signed lists it with the digest that it has.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from themis_bundles import bag, files, results_bag
from themis_bundles.allowed_signers import AllowedSigners
from themis_bundles.attempts import SUFFIX, attempts_of, list_folder
from themis_bundles.canonical import sha256_hex
from themis_bundles.errors import BundleInvalidError, SignatureRefusedError
from themis_bundles.pack import results_bag_texts
from themis_bundles.reader import Bundle
from themis_bundles.signatures import FOLDER as SIGNATURES
from themis_bundles.signatures import Signature, judge, read_allowed_signers

FOLDER = ".signed"
"""Where signed sets lie, below the results."""

_TAG_LIMIT = 2**28
_SIGNATURE_LIMIT = 2**16
_CHUNK = 2**20


def set_name(tag_manifest_sha256: str) -> str:
    """Return the name of a signed set."""
    return tag_manifest_sha256[:16]


def sign_results(bundle: Bundle, key: Path, shards: Collection[int] | None = None) -> Path | None:
    """Sign the results of a bundle where they lie.

    Args:
        bundle: The bundle.
        key: A private key, or a public key whose private half an agent holds.
        shards: The shards; by default those that are done.

    Returns:
        The folder of the signed set; None when there are no results to sign.

    Raises:
        BundleInvalidError: When a result file cannot be read.
        BundleWriteError: When the file system refuses.
        SignatureToolError: When ssh-keygen is missing, too old, or cannot use the key.
    """
    texts = results_bag_texts(bundle, shards, key)
    if not texts:
        return None
    folder = bundle.results_dir / FOLDER / set_name(sha256_hex(texts[bag.TAG_MANIFEST]))
    with files.write_errors(folder):
        for name, text in texts.items():
            files.make_folder((folder / name).parent.absolute())
            files.replace(folder / name, text)
    return folder


def require_signed_results(bundle: Bundle, allowed_signers: Path) -> tuple[str, ...]:
    """Refuse results of which a file of records is not signed by an allowed signer.

    This reads every file of records once; `verify` proves what is in them.

    Returns:
        Who signed them, each once, in order; nobody when there are no results.

    Raises:
        SignatureRefusedError: Naming the files, and what is wrong with the signatures found.
        BundleInvalidError: When a file of records cannot be read.
        ValueError: When the list of allowed signers lies in the bundle.
        OSError: When the list cannot be read.
    """
    read_allowed_signers(allowed_signers, outside=bundle.results_dir)
    allowed = read_allowed_signers(allowed_signers, outside=bundle.path)
    signed: dict[str, set[tuple[str, str]]] = {}
    reasons = []
    for name in list_folder(bundle.results_dir / FOLDER):
        listed: dict[str, str] = {}
        try:
            listed, found = _read_set(bundle, name, allowed)
        except (OSError, ValueError, bag.BagError) as error:
            reasons.append(f"results/{FOLDER}/{name}: {error}")
            continue
        reasons += [
            f"{signature.path}: {signature.reason}" for signature in found if signature.reason
        ]
        for signature in found:
            for path, digest in listed.items():
                if signature.principal is not None:
                    signed.setdefault(path, set()).add((digest, signature.principal))
    signers: set[str] = set()
    unsigned = []
    for path in _records_of(bundle):
        digest = _digest(bundle, path)
        who = {signer for known, signer in signed.get(path, ()) if known == digest}
        signers |= who
        if not who:
            unsigned.append(f"results/{path}: no allowed signer signed these records")
    if unsigned:
        raise SignatureRefusedError(bundle.path, (*unsigned, *reasons))
    return tuple(sorted(signers))


def _read_set(
    bundle: Bundle, name: str, allowed: AllowedSigners
) -> tuple[dict[str, str], list[Signature]]:
    """Return the digests that a set lists, by path below the results, and its signatures.

    Raises:
        OSError: When a file of it cannot be read.
        ValueError: When its files contradict each other, or are of another bundle.
    """
    root, folder = bundle.results_dir, f"{FOLDER}/{name}"
    texts = {
        tag: files.read_inside(root, f"{folder}/{tag}", _TAG_LIMIT)
        for tag in (*bag.TAG_FILES, bag.TAG_MANIFEST)
    }
    listed = bag.parse_checksum_lines(texts[bag.PAYLOAD_MANIFEST])
    problems = list(results_bag.bag_problems(texts, listed))
    if listed.get(results_bag.MANIFEST) != bundle.digest:
        problems.append("it is of another bundle")
    if problems:
        raise ValueError("; ".join(problems))
    found = []
    for file in list_folder(root / folder / SIGNATURES):
        path = f"{folder}/{SIGNATURES}/{file}"
        signature = files.read_inside(root, path, _SIGNATURE_LIMIT)
        found.append(judge(f"results/{path}", signature, texts[bag.TAG_MANIFEST], allowed))
    prefix = results_bag.RESULTS
    return {p.removeprefix(prefix): d for p, d in listed.items() if p.startswith(prefix)}, found


def _records_of(bundle: Bundle) -> Iterator[str]:
    for shard in bundle.shards:
        for attempt in attempts_of(bundle, shard.index):
            yield f"{shard.index:05d}/{attempt}{SUFFIX}"


def _digest(bundle: Bundle, path: str) -> str:
    digest = hashlib.sha256()
    try:
        with files.opened_inside(bundle.results_dir, path) as fd:
            while chunk := os.read(fd, _CHUNK):
                digest.update(chunk)
    except OSError as error:
        reason = f"results/{path}: unreadable: {error.strerror}"
        raise BundleInvalidError(bundle.path, (reason,)) from None
    return digest.hexdigest()
