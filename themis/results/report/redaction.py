"""Keep secrets out of whatever is shown or written.

A secret is known by its type (pydantic's `SecretStr`), by the name of its field, or by its
form: a password inside a URL or a connection string, a key with a well-known prefix.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import SecretBytes, SecretStr

REDACTED = "***REDACTED***"

_NAMES = ("secret", "password", "passwd", "passphrase", "apikey", "credential", "authorization")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# To the last "@" of the word: a password may itself hold one, and too much hidden is no leak.
_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*:)\S*(?=@)", re.IGNORECASE)
_URL_TOKEN = re.compile(r"(https?://)[^\s/:@]+(?=@)", re.IGNORECASE)
_SETTING = re.compile(
    r"\b((?:[a-z]+[_-])*(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|sig)\s*=\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s&;,]+)",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{20,}|gh[pousr]_\w{20,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}"
    r"|xox[abpr]-[\w-]{10,})|(?<=Bearer )\S+"
)


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a secret.

    >>> is_secret_name("hf_token"), is_secret_name("apiKey"), is_secret_name("max_tokens")
    (True, True, False)
    """
    words = [word.lower() for word in _WORD.findall(name)]
    joined = "".join(words)
    return "token" in words or any(part in joined for part in _NAMES)


def redact_text(text: str) -> str:
    """Hide passwords and keys inside a text.

    >>> redact_text("postgresql://me:hunter2@db/themis?sslmode=require")
    'postgresql://me:***REDACTED***@db/themis?sslmode=require'
    >>> redact_text("host=db user=me password=hunter2")
    'host=db user=me password=***REDACTED***'
    """
    text = _URL.sub(rf"\1{REDACTED}", text)
    text = _URL_TOKEN.sub(rf"\1{REDACTED}", text)
    text = _SETTING.sub(rf"\1{REDACTED}", text)
    return _KEY.sub(REDACTED, text)


def redact(value: Any, *, name: str = "") -> Any:
    """Hide the secrets of a JSON value, keeping its shape.

    >>> redact({"url": "s3://a:b@c", "auth": {"token": ["x"]}, "n": 1})
    {'url': 's3://a:***REDACTED***@c', 'auth': {'token': '***REDACTED***'}, 'n': 1}
    """
    if isinstance(value, SecretStr | SecretBytes) or (value is not None and is_secret_name(name)):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: redact(entry, name=str(key)) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact(entry, name=name) for entry in value]
    return value
