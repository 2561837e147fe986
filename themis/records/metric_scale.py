"""What the numbers of a metric mean: which way is better, and how far they can go.

A metric declares its scale where it is registered; a plan keeps it beside the metric's name, so
that results can be read without the plugin.

    >>> scale = MetricScale(direction="lower", unit=False)
    >>> MetricScale.of_record(scale.to_record()) == scale
    True
    >>> gain(scale.direction), gain("none"), gain(None)
    (-1, 0, 1)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

Direction: TypeAlias = Literal["higher", "lower", "none"]
"""Which scores are better; "none" for a measure that is neither good nor bad, as a length."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True, slots=True)
class MetricScale:
    """What a metric declares about its scores.

    Attributes:
        direction: Which scores are better.
        unit: Whether 0 and 1 are the worst and the best (or best and worst) that a score can
            be. Where they are not, what is absent cannot be bounded.
    """

    direction: Direction = "higher"
    unit: bool = True

    def to_record(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"direction": self.direction, "unit": self.unit}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Read it from a JSON object."""
        return cls(record["direction"], record["unit"])


def gain(direction: Direction | None) -> int:
    """Return the sign of a difference that is a gain: 1 or -1, and 0 where nothing is better.

    Args:
        direction: None where no direction was recorded; higher is then taken as better.
    """
    return {"lower": -1, "none": 0}.get(direction or "higher", 1)
