"""What a check found, in words and as JSON."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "notice", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "notice", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`; `notice` (worth knowing, and nothing to do); `warning` (it may be meant
            so); or `error` (shards would fail).
        check: What was looked at, in a word or two.
        message: What was found.
        fix: What to do about it; empty when nothing.
    """

    level: Level
    check: str
    message: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """Give the facts as JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Level:
    """Give the worst level among findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def dump(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Give findings as JSON."""
    return [finding.to_dict() for finding in findings]
