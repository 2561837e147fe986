"""Who may sign: OpenSSH's allowed-signers file (`man ssh-keygen`, ALLOWED SIGNERS).

A line names principals, options and a public key:

    alice@example.org,bob@example.org namespaces="themis-bundle" ssh-ed25519 AAAA…

Lines are read as `ssh-keygen -Y verify` reads them: each stands alone, and a line that cannot
be read allows nobody. `cert-authority` lines allow nobody here, since certificates are not
checked; they are named when nothing else allows a key.

    >>> matches("themis-bundle", "git,themis-*")
    True
    >>> matches("git", "!git,*")
    False
"""

import base64
import binascii
import calendar
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_KEY = re.compile(r"((?:sk-)?(?:ssh|ecdsa)-[A-Za-z0-9@.-]+)[ \t]+([A-Za-z0-9+/=]+)(?:[ \t].*)?")
_OPTION = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?')
_KNOWN = ("cert-authority", "namespaces", "valid-after", "valid-before")
_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


@dataclass(frozen=True, slots=True)
class Signer:
    """One line of the list."""

    line: int
    """Its number, from 1."""

    principals: str
    """Whom it names: patterns, separated by commas."""

    key: bytes
    """The public key, in OpenSSH's wire form."""

    authority: bool = False
    """Whether it allows what the key certified, instead of the key."""

    namespaces: str | None = None
    """What it may sign for; None allows everything."""

    valid_after: float | None = None
    """From when the key may sign, in seconds since 1970."""

    valid_before: float | None = None
    """Until when the key may sign, in seconds since 1970."""

    def refusal(self, namespace: str, at: float) -> str:
        """Say why it does not allow its own key to sign for something at a time.

        Returns:
            Words that follow the line's place; empty when it allows it.
        """
        if self.authority:
            return "is for certificates (cert-authority), which are not checked here"
        if self.namespaces is not None and not matches(namespace, self.namespaces):
            return f"allows signatures for {self.namespaces!r} only"
        if self.valid_after is not None and at < self.valid_after:
            return "is not valid yet"
        if self.valid_before is not None and at > self.valid_before:
            return "has expired"
        return ""


@dataclass(frozen=True, slots=True)
class AllowedSigners:
    """A list of allowed signers, read."""

    signers: tuple[Signer, ...] = ()
    """The lines that could be read."""

    unread: dict[int, str] = field(default_factory=dict)
    """Why a line could not be read, by its number; such a line allows nobody."""

    def find(
        self, key: bytes, namespace: str, at: float, principal: str | None = None
    ) -> tuple[Signer | None, str]:
        """Return the first line that allows a key to sign.

        Args:
            key: The key, in OpenSSH's wire form.
            namespace: What it signs for.
            at: When, in seconds since 1970.
            principal: Whom the line must name; None for anybody.

        Returns:
            The line, or None and the reason in words.
        """
        reasons = []
        for signer in self.signers:
            if principal is not None and not matches(principal, signer.principals):
                continue
            if signer.key != key and not signer.authority:
                continue
            reason = signer.refusal(namespace, at)
            if not reason:
                return signer, ""
            reasons.append(f"line {signer.line} {reason}")
        reasons += [f"line {number} cannot be read: {why}" for number, why in self.unread.items()]
        return None, "; ".join(reasons)


def parse(data: bytes) -> AllowedSigners:
    """Read a list of allowed signers; a line that cannot be read is kept with the reason."""
    signers: list[Signer] = []
    unread: dict[int, str] = {}
    for number, raw in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        line = raw.removesuffix("\r").strip(" \t")
        if not line or line.startswith("#"):
            continue
        try:
            signers.append(_signer(number, line))
        except ValueError as error:
            unread[number] = str(error)
    return AllowedSigners(tuple(signers), unread)


def matches(text: str, patterns: str) -> bool:
    """Tell whether a comma-separated list of patterns takes a text.

    `*` stands for anything, `?` for one character, and a `!` in front refuses whatever the
    rest of the list says, as ssh-keygen reads it.
    """
    found = False
    for pattern in patterns.split(","):
        if _matches_one(text, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches_one(text: str, pattern: str) -> bool:
    parts = {"*": ".*", "?": "."}
    wanted = "".join(parts.get(character) or re.escape(character) for character in pattern)
    return re.fullmatch(wanted, text, re.DOTALL) is not None


def _signer(number: int, line: str) -> Signer:
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
        raise ValueError("a control character")
    principals, rest = _principals(line)
    words = _KEY.fullmatch(rest)
    options = ""
    if words is None:
        options, rest = _split_options(rest)
        words = _KEY.fullmatch(rest)
    if words is None:
        raise ValueError("no public key")
    found = _options(options)
    after, before = _time(found.get("valid-after")), _time(found.get("valid-before"))
    if after is not None and before is not None and after >= before:
        raise ValueError("it is never valid")
    return Signer(
        line=number,
        principals=principals,
        key=_blob(words[1], words[2]),
        authority="cert-authority" in found,
        namespaces=found.get("namespaces"),
        valid_after=after,
        valid_before=before,
    )


def _principals(line: str) -> tuple[str, str]:
    match = re.fullmatch(r'(?:"([^"]*)"|([^ \t"]+))[ \t]+(.*)', line)
    if match is None:
        raise ValueError("no principals and key")
    return match[1] or match[2] or "", match[3]


def _split_options(text: str) -> tuple[str, str]:
    """Part the options from what follows at the first space outside of quotes."""
    match = re.match(r'((?:[^ \t"]|"(?:[^"\\]|\\.)*")+)[ \t]+', text)
    if match is None:
        raise ValueError("no public key")
    return match[1], text[match.end() :]


def _pairs(options: str) -> Iterator[tuple[str, str | None]]:
    place = 0
    while place < len(options):
        match = _OPTION.match(options, place)
        if match is None or options[match.end() : match.end() + 1] not in {"", ","}:
            raise ValueError("bad options")
        yield match[1].lower(), match[2]
        place = match.end() + 1
    if options.endswith(","):
        raise ValueError("bad options")


def _options(text: str) -> dict[str, str | None]:
    """Return the options by name, each known and given once.

    Raises:
        ValueError: When one is not.
    """
    found: dict[str, str | None] = {}
    for name, value in _pairs(text):
        if name in found:
            raise ValueError(f"option {name} twice")
        if (value is None) != (name == "cert-authority") or name not in _KNOWN:
            raise ValueError(f"unknown option {name}")
        found[name] = None if value is None else value.replace('\\"', '"')
    return found


def _time(text: str | None) -> float | None:
    """Read YYYYMMDD[HHMM[SS]], in local time or, with a Z behind, in UTC."""
    if text is None:
        return None
    digits = text.removesuffix("Z").removesuffix("z")
    if not (digits.isascii() and digits.isdigit() and len(digits) in _DATES):
        raise ValueError(f"{text!r} is no time")
    moment = time.strptime(digits, _DATES[len(digits)])
    return time.mktime(moment) if digits == text else float(calendar.timegm(moment))


def _blob(kind: str, text: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a damaged public key") from None
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        raise ValueError(f"a public key that is not {kind}")
    return blob
