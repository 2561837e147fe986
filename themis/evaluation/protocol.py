"""What an extractor and a metric are.

Both are objects with one method, pure and thread-safe: the same input gives the same result,
and nothing is kept between calls. Neither ever sees a candidate whose generation failed, and a
metric that reads the answer never sees one whose parse failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an extractor found in an output."""

    success: bool
    """Whether there is an answer."""

    value: Any = None
    """The answer, a JSON value; None without success."""

    reason: str | None = None
    """Why there is no answer; None with success."""

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return a success."""
        return cls(success=True, value=value)

    @classmethod
    def failed(cls, reason: str) -> Self:
        """Return a failure."""
        return cls(success=False, reason=reason)


@dataclass(frozen=True, slots=True)
class MetricResult:
    """What a metric measured."""

    value: float
    """The score; finite."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON facts that explain it."""


class Extractor(Protocol):
    """Reads an answer out of an output.

    An extractor that also has `check(config)` is asked once, before any output, whether its
    settings are valid; it raises `SpecValidationError` when they are not.
    """

    def extract(self, text: str, config: Mapping[str, Any]) -> Extraction:
        """Return the answer in `text`, or why there is none."""
        ...


@runtime_checkable
class ChecksConfig(Protocol):
    """An extractor that can say beforehand that its settings are wrong."""

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise `SpecValidationError` when `config` is not valid."""
        ...


class Metric(Protocol):
    """Scores one answer.

    A metric that measures the text alone, such as its length, sets `reads_answer = False`; it is
    then also called when the parse failed, and `answer` is None.

    A metric that sets `reads_loglikelihoods = True` as well gets as `answer` what was recorded of
    each continuation that was scored, as in a bundle's records; None when an answer was generated.
    """

    def score(
        self, *, text: str, answer: Any, payload: Mapping[str, Any], reference_field: str | None
    ) -> MetricResult:
        """Return the score.

        Args:
            text: The whole output.
            answer: The parsed answer; the whole output when the score uses no parse.
            payload: The dataset item's fields.
            reference_field: The field that holds the right answer; None means the usual names.

        Raises:
            MetricError: The item cannot be scored; the score is then null, not 0.
        """
        ...
