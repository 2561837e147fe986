"""OpenSSH signatures (SSHSIG), read and checked without OpenSSH.

Login nodes still run OpenSSH 8.0, whose ssh-keygen knows no `-Y`. The layout is that of
PROTOCOL.sshsig of OpenSSH; keys and signatures inside are those of RFC 4253, 5656, 8332 and
8709. Everything here is at least as strict as `ssh-keygen -Y verify`, and a test compares the
two verdicts. What a key may sign is decided elsewhere (`allowed_signers`).

    >>> read(b"hello")
    Traceback (most recent call last):
    ...
    ValueError: no SSH signature armour
"""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass

_BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
_END = b"\n-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG"
_RSA = "ssh-rsa"
_RSA_HASHES = {"rsa-sha2-256": "sha256", "rsa-sha2-512": "sha512"}
_RSA_BITS = range(1024, 16384 + 1)
_ED25519 = "ssh-ed25519"
_ED25519_BYTES = 32
_CURVES = {"nistp256": "sha256", "nistp384": "sha384", "nistp521": "sha512"}
_ECDSA = "ecdsa-sha2-"


class BadSignatureError(ValueError):
    """A signature is not one that its key made over the data."""


@dataclass(frozen=True, slots=True)
class SshSignature:
    """What a signature file holds; nothing of it was checked yet."""

    key: bytes
    """The public key, in OpenSSH's wire form."""

    namespace: str
    """What the signature is for."""

    hash_name: str
    """How the data was hashed: sha256 or sha512."""

    algorithm: str
    """How the key was used."""

    value: bytes
    """The signature proper."""

    @property
    def key_type(self) -> str:
        """The kind of key, such as ssh-ed25519."""
        return _text(_Fields(self.key).string())

    @property
    def fingerprint(self) -> str:
        """The key as `ssh-keygen -l` prints it."""
        digest = base64.b64encode(hashlib.sha256(self.key).digest()).decode()
        return f"SHA256:{digest.rstrip('=')}"


def read(armoured: bytes) -> SshSignature:
    """Return what an armoured signature holds.

    Raises:
        ValueError: When it is not an SSH signature, whole and of a known version.
    """
    # One line end may follow, as ssh-keygen writes it.
    body = armoured.removesuffix(b"\n")
    if not (body.startswith(_BEGIN) and body.endswith(_END)):
        raise ValueError("no SSH signature armour")
    try:
        text = body[len(_BEGIN) : -len(_END)].replace(b"\n", b"")
        blob = base64.b64decode(text, validate=True)
        if base64.b64encode(blob) != text:
            raise ValueError("damaged SSH signature: not the shortest base64")
        fields = _Fields(blob)
        if fields.take(len(_MAGIC)) != _MAGIC or fields.number() != 1:
            raise ValueError("damaged SSH signature, or one of an unknown version")
        key, namespace, reserved, hash_name, inner = (fields.string() for _ in range(5))
        fields.end()
        if reserved:
            raise ValueError("damaged SSH signature: its reserved field is in use")
        parts = _Fields(inner)
        algorithm, value = _text(parts.string()), parts.rest()
        found = SshSignature(key, _text(namespace), _text(hash_name), algorithm, value)
        _ = found.key_type
    except (binascii.Error, struct.error, UnicodeDecodeError):
        raise ValueError("damaged SSH signature") from None
    return found


def check(signature: SshSignature, data: bytes, namespace: str) -> None:
    """Prove that the key of a signature signed this data for this purpose.

    Args:
        signature: The signature.
        data: What it should be over.
        namespace: What it should be for.

    Raises:
        BadSignatureError: When it is not, or cannot be checked here, in words that follow
            "it does not fit: ".
    """
    if signature.namespace != namespace:
        raise BadSignatureError(f"it was made for {signature.namespace!r}, not for {namespace!r}")
    if signature.hash_name not in {"sha256", "sha512"}:
        raise BadSignatureError(f"it hashes with {signature.hash_name!r}")
    hashed = hashlib.new(signature.hash_name, data).digest()
    parts = (namespace.encode(), b"", signature.hash_name.encode(), hashed)
    signed = _MAGIC + b"".join(_string(part) for part in parts)
    try:
        _verify(signature, signed)
    except (struct.error, UnicodeDecodeError):
        raise BadSignatureError("its key or value is damaged") from None


def _verify(signature: SshSignature, signed: bytes) -> None:
    from cryptography.exceptions import InvalidSignature

    kind = signature.key_type
    key = _Fields(signature.key)
    key.string()
    try:
        if kind == _ED25519:
            _ed25519(key, signature, signed)
        elif kind == _RSA:
            _rsa(key, signature, signed)
        elif kind.removeprefix(_ECDSA) in _CURVES:
            _ecdsa(key, signature, signed)
        else:
            raise BadSignatureError(_unsupported(kind))
    except InvalidSignature:
        raise BadSignatureError("the signature is not one of its key over this data") from None


def _unsupported(kind: str) -> str:
    if kind.startswith("sk-"):
        return f"keys on security tokens ({kind}) are not supported; check it with ssh-keygen"
    if "-cert-" in kind:
        return f"certificates ({kind}) are not supported; check it with ssh-keygen"
    return f"keys of type {kind!r} are not supported"


def _ed25519(key: "_Fields", signature: SshSignature, signed: bytes) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    point = key.string()
    key.end()
    _expect(signature, _ED25519)
    if len(point) != _ED25519_BYTES:
        raise BadSignatureError("its key is damaged")
    Ed25519PublicKey.from_public_bytes(point).verify(_value(signature), signed)


def _rsa(key: "_Fields", signature: SshSignature, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    exponent, modulus = key.integer(), key.integer()
    key.end()
    _expect(signature, *_RSA_HASHES)
    if modulus.bit_length() not in _RSA_BITS:
        raise BadSignatureError(f"an RSA key of {modulus.bit_length()} bits")
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise BadSignatureError("its key is damaged") from None
    value = _value(signature).rjust((modulus.bit_length() + 7) // 8, b"\0")
    wide = _RSA_HASHES[signature.algorithm] == "sha512"
    public.verify(value, signed, padding.PKCS1v15(), hashes.SHA512() if wide else hashes.SHA256())


def _ecdsa(key: "_Fields", signature: SshSignature, signed: bytes) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    curve, point = _text(key.string()), key.string()
    key.end()
    _expect(signature, f"{_ECDSA}{curve}")
    if signature.key_type != f"{_ECDSA}{curve}":
        raise BadSignatureError("its key is damaged")
    known: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
        "nistp256": (ec.SECP256R1(), hashes.SHA256()),
        "nistp384": (ec.SECP384R1(), hashes.SHA384()),
        "nistp521": (ec.SECP521R1(), hashes.SHA512()),
    }
    numbers = _Fields(_value(signature))
    r, s = numbers.integer(), numbers.integer()
    numbers.end()
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(known[curve][0], point)
    except ValueError:
        raise BadSignatureError("its key is damaged") from None
    public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(known[curve][1]))


def _expect(signature: SshSignature, *algorithms: str) -> None:
    if signature.algorithm not in algorithms:
        raise BadSignatureError(
            f"a key of type {signature.key_type} does not sign with {signature.algorithm!r}"
        )


def _value(signature: SshSignature) -> bytes:
    fields = _Fields(signature.value)
    value = fields.string()
    fields.end()
    return value


class _Fields:
    """Takes the fields of OpenSSH's wire form (RFC 4251, section 5) one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise struct.error("a field is cut off")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def integer(self) -> int:
        """Take a number above zero in its shortest form."""
        data = self.string()
        value = int.from_bytes(data, "big", signed=True)
        if value <= 0 or len(data) != value.bit_length() // 8 + 1:
            raise struct.error("not a positive integer in its shortest form")
        return value

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def end(self) -> None:
        if self._data:
            raise struct.error("something follows the last field")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _text(data: bytes) -> str:
    return data.decode("ascii")
