r"""Canonical JSON: the one byte form of a value, and the strict way back.

`canonical_json` is the only function that decides the bytes of anything Themis hashes:
keys sorted by code point, no spaces, shortest round-trip floats as orjson prints them.
`parse_canonical` accepts exactly those bytes. Comparing a line with what its own value
serialises to refuses duplicate keys, escaped keys, `-0`, spaces, byte order marks and
integers that a double cannot hold in one stroke (about 1.3 µs for a line of 1.4 KB).

    >>> canonical_json({"b": 1.50, "a": [True, None]})
    b'{"a":[true,null],"b":1.5}'
    >>> parse_canonical(b'{"a":1,"a":2}')
    Traceback (most recent call last):
    themis_bundles.errors.CanonicalError: the key 'a' appears twice
"""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from themis_bundles.errors import CanonicalError

MAX_DEPTH = 64
"""How deeply arrays and objects may nest."""

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""

LINE_LIMIT = 16 * 2**20
"""The default length of the longest line, in bytes."""

# orjson before 3.11.7 prints 1e22 where later ones print 1e+22. Two forms of one number would
# give one thing two digests, so an older one must not be used, not even by accident.
if orjson.dumps(1e22) != b"1e+22":
    raise ImportError("themis_bundles needs orjson 3.11.7 or newer: pip install 'orjson>=3.11.7'")

_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON bytes of a value.

    Args:
        value: Mappings with string keys, lists, tuples, strings, numbers, booleans, None.

    Raises:
        CanonicalError: For NaN and infinities, lone surrogates, integers beyond 2^53,
            keys that are not strings, nesting beyond 64, and types that JSON lacks.
    """
    try:
        data = orjson.dumps(value, _plain, _OPTIONS)
    except TypeError as error:
        raise CanonicalError(_why_not_encoded(value, error)) from None
    # orjson writes NaN as null without a word, so a null is looked at more closely.
    if b"null" in data:
        _refuse_not_finite(value)
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _refuse_deep(value)
    return data


def parse_canonical(data: bytes) -> Any:
    """Parse bytes that must be canonical JSON.

    Raises:
        CanonicalError: When they are not JSON, or not the canonical form of their value.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CanonicalError(f"not JSON: {error}") from None
    # An object that parsed has as many brackets as containers, plus those inside strings.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _refuse_deep(value)
    try:
        again = orjson.dumps(value, None, _OPTIONS)
    except TypeError as error:
        raise CanonicalError(_why_not_encoded(value, error)) from None
    if again != data:
        raise CanonicalError(_why_not_canonical(data, again))
    return value


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of bytes in lower-case hexadecimal.

    >>> sha256_hex(b"")[:12]
    'e3b0c44298fc'
    """
    return hashlib.sha256(data).hexdigest()


def replace_surrogates(text: str) -> str:
    r"""Return text that UTF-8 can carry: every lone surrogate becomes U+FFFD.

    Detokenisers give lone surrogates on rare outputs; a worker that writes records cleans
    them and flags the record.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _children(value: object) -> tuple[object, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, list | tuple) else ()


def _refuse_not_finite(value: object) -> None:
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, float) and not math.isfinite(current):
            raise CanonicalError(f"{current} is not a JSON number")
        pending.extend(_children(current))


def _refuse_deep(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    if any(isinstance(node, Mapping | list | tuple) for node in level):
        raise CanonicalError(f"arrays and objects nest more than {MAX_DEPTH} deep")


def _why_not_encoded(value: object, error: Exception) -> str:
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        current, depth = pending.pop()
        if depth > MAX_DEPTH:
            return f"arrays and objects nest more than {MAX_DEPTH} deep"
        if isinstance(current, int) and abs(current) > MAX_INTEGER:
            return f"the integer {_short(current)} is beyond 2^53"
        if isinstance(current, str) and not _encodable(current):
            return "a string holds a lone surrogate"
        if isinstance(current, Mapping):
            for key in current:
                if not isinstance(key, str):
                    return f"the key {key!r} is not a string"
                if not _encodable(key):
                    return "a key holds a lone surrogate"
        pending.extend((child, depth + 1) for child in _children(current))
    return f"not a JSON value: {error}"


def _short(number: int) -> str:
    # str() of an integer beyond 4300 digits raises, so a huge one is only measured.
    return str(number) if number.bit_length() < 256 else f"of {number.bit_length()} bits"  # noqa: PLR2004


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why_not_canonical(data: bytes, again: bytes) -> str:
    seen: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        seen.extend(key for key in keys if keys.count(key) > 1)
        return dict(items)

    json.loads(data, object_pairs_hook=pairs)
    if seen:
        return f"the key {seen[0]!r} appears twice"
    place = next(
        (i for i, (a, b) in enumerate(zip(data, again, strict=False)) if a != b),
        min(len(data), len(again)),
    )
    return f"not canonical from byte {place} (spaces, key order, escapes or number form)"
