"""A problem found in a bundle or its results, and where it is."""

import re
from dataclasses import asdict, dataclass
from typing import Literal, Self

_TEXT = re.compile(
    r"(?s)([^:]+)(?:: frame (\d+)(?:, line (\d+))?)?: ([a-z][a-z0-9-]*|[a-z_.0-9]+): (.*)"
)

Kind = Literal["corrupt", "foreign", "mismatched", "conflict", "note"]
"""What a problem counts as; a note refuses nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be."""

    path: str
    """The file, relative to the bundle."""

    frame: int | None
    """The frame of the file, from 0."""

    line: int | None
    """The line of the frame, from 1."""

    rule: str
    """The rule that is broken, one word."""

    message: str
    """What was found, in words."""

    kind: Kind = "corrupt"
    """What it counts as in the census."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a problem of a payload file back from its line.

        >>> Problem.parse("data/items/00000.ids: digest: not those").rule
        'digest'
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not the line of a problem: {text}")
        path, frame, line, rule, message = match.groups()
        return cls(path, int(frame) if frame else None, int(line) if line else None, rule, message)

    def __str__(self) -> str:
        """Give the place, the rule and what was found, as one line."""
        place = self.path
        if self.frame is not None:
            place += f": frame {self.frame}"
        if self.line is not None:
            place += f", line {self.line}"
        return f"{place}: {self.rule}: {self.message}"

    def to_dict(self) -> dict[str, str | int | None]:
        """Return the facts for programs."""
        return asdict(self)
