"""Signatures: who made a bundle, proved offline with the ssh keys that people have.

A signature is an OpenSSH signature (SSHSIG) over `tagmanifest-sha256.txt`, which pins the
payload list, which pins every payload file. So a good signature says something about a bundle
only together with `verify`. `ssh-keygen -Y sign` makes it, so keys stay where they are, in an
agent too; it is checked here in Python, so that machines whose OpenSSH knows no `-Y` can, and
anybody can repeat the check with `ssh-keygen -Y verify`. Who is allowed to sign always comes
from the verifier.
"""

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from themis_bundles import allowed_signers as signers
from themis_bundles import files, sshsig
from themis_bundles.attempts import list_folder
from themis_bundles.bag import TAG_MANIFEST
from themis_bundles.errors import BundleInvalidError, SignatureRefusedError, SignatureToolError

NAMESPACE = "themis-bundle"
"""What a signature is for, so that one made for something else proves nothing here."""

FOLDER = "signatures"

_LIMIT = 2**16
_TAG_LIMIT = 2**28
_TOO_OLD = ("unknown option", "illegal option", "invalid option", "nsupported operation")


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature file says and whether it can be believed."""

    path: str
    """The file, relative to the bundle."""

    principal: str | None
    """Who signed, as the verifier's list names them; None when it cannot be believed."""

    fingerprint: str
    """The key, as ssh-keygen prints it; empty when the file is malformed."""

    reason: str
    """Why it cannot be believed; empty when it can."""

    @property
    def valid(self) -> bool:
        """Whether an allowed signer made it over this bundle."""
        return self.principal is not None


def sign(bundle: Path, key: Path) -> Path:
    """Sign a bundle with an ssh key and return the signature file.

    Args:
        bundle: The bundle's folder.
        key: A private key, or a public key whose private half an agent holds.

    Raises:
        SignatureToolError: When ssh-keygen is missing, too old, or cannot use the key.
        BundleInvalidError: When the bundle has no tag manifest.
        BundleWriteError: When the file system refuses.
    """
    signature = sign_bytes(_tag_manifest(bundle), key)
    path = Path(bundle) / signature_path(signature)
    with files.write_errors(path):
        files.make_folder(path.parent.absolute())
        files.replace(path, signature)
    return path


def signature_path(signature: bytes) -> str:
    """Return where a signature goes, relative to its bag: one place for each key."""
    key = hashlib.sha256(sshsig.read(signature).key).hexdigest()
    return f"{FOLDER}/{TAG_MANIFEST}.{key[:16]}.sig"


def sign_bytes(data: bytes, key: Path) -> bytes:
    """Return an armoured signature over bytes.

    Raises:
        SignatureToolError: When ssh-keygen is missing, too old, or cannot use the key.
    """
    done = _ssh_keygen("-Y", "sign", "-q", "-n", NAMESPACE, "-f", os.fspath(key), stdin=data)
    if done.returncode:
        raise SignatureToolError(f"ssh-keygen cannot sign with {key}: {_words(done)}")
    return done.stdout


def check_signatures(bundle: Path, allowed_signers: Path) -> tuple[Signature, ...]:
    """Return every signature of a bundle, by name, with what it is worth.

    Args:
        bundle: The bundle's folder.
        allowed_signers: The verifier's list (`man ssh-keygen`, ALLOWED SIGNERS); never a file
            of the bundle.

    Raises:
        ValueError: When the list of allowed signers lies in the bundle.
        BundleInvalidError: When the bundle has no tag manifest.
        OSError: When the list cannot be read.
    """
    allowed = read_allowed_signers(allowed_signers, outside=bundle)
    data = _tag_manifest(bundle)
    return tuple(
        _check(bundle, f"{FOLDER}/{name}", data, allowed)
        for name in list_folder(bundle / FOLDER)
        if name.endswith(".sig")
    )


def require_signature(bundle: Path, allowed_signers: Path) -> Signature:
    """Return the first signature that an allowed signer made.

    Raises:
        SignatureRefusedError: When there is none, with what is wrong with those found.
        ValueError: When the list of allowed signers lies in the bundle.
        BundleInvalidError: When the bundle has no tag manifest.
        OSError: When the list cannot be read.
    """
    return first_valid(bundle, check_signatures(bundle, allowed_signers))


def first_valid(path: Path, found: tuple[Signature, ...]) -> Signature:
    """Return the first signature that can be believed.

    Raises:
        SignatureRefusedError: When there is none, with what is wrong with those found.
    """
    for signature in found:
        if signature.valid:
            return signature
    raise SignatureRefusedError(path, tuple(f"{s.path}: {s.reason}" for s in found))


def read_allowed_signers(path: Path, *, outside: Path) -> signers.AllowedSigners:
    """Read the verifier's list, which must not lie in the folder that it is to judge.

    Raises:
        ValueError: When it does.
        OSError: When it cannot be read.
    """
    allowed = path.resolve(strict=True)
    if allowed.is_relative_to(outside.resolve()):
        raise ValueError(f"{path} lies in the bundle that it is to judge")
    return signers.parse(allowed.read_bytes())


def judge(
    name: str,
    signature: bytes,
    data: bytes,
    allowed: signers.AllowedSigners,
    principal: str | None = None,
) -> Signature:
    """Return what a signature over bytes is worth now.

    Args:
        name: What to call it.
        signature: The armoured signature.
        data: What it should be over.
        allowed: The verifier's list of allowed signers.
        principal: Who must have made it; None for any of them.
    """
    try:
        found = sshsig.read(signature)
    except ValueError as error:
        return Signature(name, None, "", f"not a signature: {error}")
    print_ = found.fingerprint
    signer, reason = allowed.find(found.key, NAMESPACE, time.time(), principal)
    if signer is None:
        reason = f": {reason}" if reason else ""
        return Signature(name, None, print_, f"the key {print_} is not allowed{reason}")
    try:
        sshsig.check(found, data, NAMESPACE)
    except sshsig.BadSignatureError as error:
        return Signature(name, None, print_, f"it does not fit the bundle: {error}")
    return Signature(name, signer.principals, print_, "")


def _check(bundle: Path, name: str, data: bytes, allowed: signers.AllowedSigners) -> Signature:
    try:
        signature = files.read_inside(bundle, name, _LIMIT)
    except OSError as error:
        return Signature(name, None, "", f"not a signature: {error}")
    return judge(name, signature, data, allowed)


def _tag_manifest(bundle: Path) -> bytes:
    try:
        return files.read_inside(bundle, TAG_MANIFEST, _TAG_LIMIT)
    except OSError as error:
        reason = f"{TAG_MANIFEST}: unreadable: {error.strerror}"
        raise BundleInvalidError(bundle, (reason,)) from None


def _ssh_keygen(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(
            ("ssh-keygen", *arguments), input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise SignatureToolError("signing needs ssh-keygen (OpenSSH 8.2 or newer)") from None
    if done.returncode and any(words in _words(done) for words in _TOO_OLD):
        raise SignatureToolError(
            "this ssh-keygen cannot sign (`ssh-keygen -Y`): OpenSSH 8.2 or newer is needed. "
            "Sign on another machine; checking a signature needs no ssh-keygen."
        )
    return done


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join((done.stderr + b" " + done.stdout).decode("utf-8", "replace").split())
