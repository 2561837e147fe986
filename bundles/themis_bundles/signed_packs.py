"""Signatures of transfer files: who packed what comes back.

A bundle's own signature covers its payload, not the results that workers add. For the way back
the pack is signed: `<file>.sig` is an OpenSSH signature over `pack.json`, the first member,
which pins every other member by size and digest.
"""

from pathlib import Path

from themis_bundles import files
from themis_bundles.errors import SignatureRefusedError
from themis_bundles.pack import pack_list
from themis_bundles.signatures import Signature, judge, read_allowed_signers, sign_bytes

_LIMIT = 2**16


def sign_pack(file: Path, key: Path) -> Path:
    """Sign a transfer file, or the name that its parts share; return the signature file.

    Raises:
        BundleInvalidError: When it is not a pack.
        BundleWriteError: When the file system refuses.
        SignatureToolError: When ssh-keygen is missing, too old, or cannot use the key.
    """
    signature = sign_bytes(pack_list(file), key)
    path = file.with_name(f"{file.name}.sig")
    with files.write_errors(path):
        files.replace(path, signature)
    return path


def require_pack_signature(file: Path, allowed_signers: Path) -> Signature:
    """Return the signature of a transfer file when an allowed signer made it.

    It says something about the members only together with `unpack`, which proves each against
    `pack.json`.

    Args:
        file: The transfer file, or the name that its parts share.
        allowed_signers: The verifier's list.

    Raises:
        BundleInvalidError: When it is not a pack.
        SignatureRefusedError: When there is no signature, or none that counts.
        SignatureToolError: When ssh-keygen is missing or too old.
        OSError: When the list of allowed signers cannot be read.
    """
    allowed = read_allowed_signers(allowed_signers, outside=file)
    data = pack_list(file)
    name = f"{file.name}.sig"
    try:
        signature = files.read_inside(file.parent, name, _LIMIT)
    except FileNotFoundError:
        raise SignatureRefusedError(file, ()) from None
    except OSError as error:
        raise SignatureRefusedError(file, (f"{name}: {error}",)) from None
    found = judge(name, signature, data, allowed)
    if not found.valid:
        raise SignatureRefusedError(file, (f"{name}: {found.reason}",))
    return found
