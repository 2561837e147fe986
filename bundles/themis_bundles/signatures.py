"""Signatures: who made a bundle, proved offline with the ssh keys that people have.

A signature is an OpenSSH signature (SSHSIG) over `tagmanifest-sha256.txt`, which pins the
payload list, which pins every payload file. So a good signature says something about a bundle
only together with `verify`. Signing and checking are done by `ssh-keygen -Y` (OpenSSH 8.2 or
newer): it knows agents, hardware keys, certificates, expiry and revocation, and anybody can
repeat the check without Themis. Who is allowed to sign always comes from the verifier.
"""

import base64
import binascii
import hashlib
import os
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from themis_bundles import files
from themis_bundles.attempts import list_folder
from themis_bundles.bag import TAG_MANIFEST
from themis_bundles.errors import SignatureRefusedError, SignatureToolError

NAMESPACE = "themis-bundle"
"""What a signature is for, so that one made for something else proves nothing here."""

FOLDER = "signatures"

_LIMIT = 2**16
_TAG_LIMIT = 2**28
_ARMOUR = ("-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----")
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
        BundleWriteError: When the file system refuses.
        OSError: When the bundle has no tag manifest.
    """
    signature = sign_bytes(files.read_inside(bundle, TAG_MANIFEST, _TAG_LIMIT), key)
    blob = _public_key(signature)
    name = f"{TAG_MANIFEST}.{hashlib.sha256(blob).hexdigest()[:16]}.sig"
    path = Path(bundle) / FOLDER / name
    with files.write_errors(path):
        files.make_folder(path.parent.absolute())
        files.replace(path, signature)
    return path


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
        SignatureToolError: When ssh-keygen is missing or too old.
        ValueError: When the list of allowed signers lies in the bundle.
        OSError: When the bundle has no tag manifest, or the list cannot be read.
    """
    allowed = allowed_signers.resolve(strict=True)
    if allowed.is_relative_to(bundle.resolve()):
        raise ValueError(f"{allowed_signers} lies in the bundle that it is to judge")
    data = files.read_inside(bundle, TAG_MANIFEST, _TAG_LIMIT)
    return tuple(
        _check(bundle, f"{FOLDER}/{name}", data, allowed)
        for name in list_folder(bundle / FOLDER)
        if name.endswith(".sig")
    )


def require_signature(bundle: Path, allowed_signers: Path) -> Signature:
    """Return the first signature that an allowed signer made.

    Raises:
        SignatureRefusedError: When there is none, with what is wrong with those found.
        SignatureToolError: When ssh-keygen is missing or too old.
        ValueError: When the list of allowed signers lies in the bundle.
        OSError: When the bundle has no tag manifest, or the list cannot be read.
    """
    found = check_signatures(bundle, allowed_signers)
    for signature in found:
        if signature.valid:
            return signature
    raise SignatureRefusedError(bundle, tuple(f"{s.path}: {s.reason}" for s in found))


def _check(bundle: Path, name: str, data: bytes, allowed: Path) -> Signature:
    try:
        signature = files.read_inside(bundle, name, _LIMIT)
    except OSError as error:
        return Signature(name, None, "", f"not a signature: {error}")
    return judge(name, signature, data, allowed)


def judge(name: str, signature: bytes, data: bytes, allowed: Path) -> Signature:
    """Return what a signature over bytes is worth.

    Args:
        name: What to call it.
        signature: The armoured signature.
        data: What it should be over.
        allowed: The verifier's list of allowed signers.

    Raises:
        SignatureToolError: When ssh-keygen is missing or too old.
    """
    try:
        blob = _public_key(signature)
    except ValueError as error:
        return Signature(name, None, "", f"not a signature: {error}")
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    fingerprint = f"SHA256:{digest}"
    # ssh-keygen wants a file; a copy cannot be swapped between the two calls.
    with tempfile.NamedTemporaryFile() as copy:
        copy.write(signature)
        copy.flush()
        common = ("-f", os.fspath(allowed), "-s", copy.name, "-n", NAMESPACE)
        found = _ssh_keygen("-Y", "find-principals", *common, stdin=data)
        principals = found.stdout.decode("utf-8", "replace").split("\n")[0].split(",")
        if found.returncode or not principals[0]:
            return Signature(name, None, fingerprint, f"the key {fingerprint} is not allowed")
        principal = principals[0]
        done = _ssh_keygen("-Y", "verify", *common, "-I", principal, stdin=data)
    if done.returncode:
        return Signature(name, None, fingerprint, f"it does not fit the bundle: {_words(done)}")
    return Signature(name, principal, fingerprint, "")


def _ssh_keygen(*arguments: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(
            ("ssh-keygen", *arguments), input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise SignatureToolError("signatures need ssh-keygen (OpenSSH 8.2 or newer)") from None
    if done.returncode and any(words in _words(done) for words in _TOO_OLD):
        raise SignatureToolError(
            "this ssh-keygen cannot handle signatures (`ssh-keygen -Y`): OpenSSH 8.2 or newer "
            "is needed. Check the signature on another machine."
        )
    return done


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join((done.stderr + b" " + done.stdout).decode("utf-8", "replace").split())


def _public_key(signature: bytes) -> bytes:
    """Return the public key blob of an armoured signature.

    The layout is that of PROTOCOL.sshsig of OpenSSH: a magic, a version, then strings.

    Raises:
        ValueError: When it is not an SSH signature.
    """
    lines = signature.decode("ascii").split("\n")
    lines = [line for line in lines if line]
    if (lines[:1], lines[-1:]) != ([_ARMOUR[0]], [_ARMOUR[1]]):
        raise ValueError("no SSH signature armour")
    try:
        blob = base64.b64decode("".join(lines[1:-1]), validate=True)
        magic, version, length = struct.unpack_from(">6sII", blob)
    except (binascii.Error, struct.error):
        raise ValueError("damaged SSH signature") from None
    key = blob[14 : 14 + length]
    if magic != b"SSHSIG" or version != 1 or len(key) != length:
        raise ValueError("damaged SSH signature")
    return key
