"""Metrics of likelihoods: of given choices which is the likeliest, and how well a text is foretold.

They read the log-likelihoods that were recorded for the continuations of a prompt. Only the
accuracies look at which choice wins, so only they are between 0 and 1 with 1 the best; of the
Brier score and the perplexities less is better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from themis.errors import MetricError
from themis.evaluation.protocol import MetricResult
from themis.evaluation.references import reference_of


@dataclass(frozen=True)
class ChoiceAccuracy:
    """Whether the right choice has the largest log-likelihood; of equal ones the first counts."""

    per_character: bool = False
    """Divide each log-likelihood by the choice's length in characters (Unicode code points), so
    that short choices do not win by being short, as lm-evaluation-harness's `acc_norm` does."""

    reads_answer: ClassVar = False
    reads_loglikelihoods: ClassVar = True

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the log-likelihoods.

        Raises:
            MetricError: Nothing was scored, or the reference names no choice.
        """
        found = _choices(answer)
        right = _right(found, payload, reference_field)
        values = [each["sum"] / (each["characters"] if self.per_character else 1) for each in found]
        chosen = max(range(len(values)), key=values.__getitem__)
        return MetricResult(float(chosen == right), {"chosen": chosen, "right": right})


class ChoiceBrier:
    """The Brier score of the choices' probabilities: 0 when the right one is certain, at most 2.

    Probabilities are the softmax of the log-likelihoods; the score is the sum of their squared
    differences from 1 for the right choice and 0 for the others (Brier 1950).
    """

    reads_answer = False
    reads_loglikelihoods = True

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the probabilities with the right choice.

        Raises:
            MetricError: Nothing was scored, or the reference names no choice.
        """
        found = _choices(answer)
        right = _right(found, payload, reference_field)
        probabilities = _softmax([each["sum"] for each in found])
        value = sum(
            (probability - (place == right)) ** 2 for place, probability in enumerate(probabilities)
        )
        return MetricResult(value, {"right": right, "probability": probabilities[right]})


class BitsPerByte:
    """The bits that the model needs for each byte (UTF-8) of a text: -log2 of its likelihood."""

    reads_answer = False
    reads_loglikelihoods = True

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],  # noqa: ARG002
        reference_field: str | None,  # noqa: ARG002
    ) -> MetricResult:
        """Divide by the bytes.

        Raises:
            MetricError: Not exactly one text was scored.
        """
        total, size = _one_text(answer, "bytes")
        return MetricResult(-total / size / math.log(2), {"sum": total, "bytes": size})


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a text: 1 over the geometric mean of its units' probabilities."""

    unit: Literal["bytes", "words"]
    """Bytes are those of UTF-8; words are what white space parts."""

    reads_answer: ClassVar = False
    reads_loglikelihoods: ClassVar = True

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],  # noqa: ARG002
        reference_field: str | None,  # noqa: ARG002
    ) -> MetricResult:
        """Divide the log-likelihood by the units, and take the exponential of minus that.

        Raises:
            MetricError: Not exactly one text was scored, or it has no such unit.
        """
        total, size = _one_text(answer, self.unit)
        return MetricResult(math.exp(-total / size), {"sum": total, self.unit: size})


_Found = Sequence[Mapping[str, Any]]


def _choices(answer: Any) -> _Found:
    if not answer:
        raise MetricError(
            "no continuations were scored; this metric needs a prompt variant with continuations"
        )
    if len(answer) == 1:
        raise MetricError("only one continuation was scored, and a choice needs several")
    found: _Found = answer
    return found


def _one_text(answer: Any, unit: str) -> tuple[float, int]:
    if not answer or len(answer) != 1:
        raise MetricError(
            f"{len(answer or ())} continuations were scored; this metric needs exactly one"
        )
    if not answer[0][unit]:
        raise MetricError(f"the text has no {unit}")
    return answer[0]["sum"], answer[0][unit]


def _right(found: _Found, payload: Mapping[str, Any], reference_field: str | None) -> int:
    """Return the position of the right choice: given as such, as its text or as its letter."""
    reference = reference_of(payload, reference_field)
    if isinstance(reference, int) and not isinstance(reference, bool):
        if 0 <= reference < len(found):
            return reference
        raise MetricError(f"the reference {reference} is no position of {len(found)} choices")
    given = str(reference).strip()
    texts = [each["text"].strip() for each in found]
    if texts.count(given) == 1:
        return texts.index(given)
    letter = given.strip("().:[]").upper()
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    if 0 <= place < len(found):
        return place
    raise MetricError(
        f"the reference {given[:80]!r} is neither the position of a choice (a number, from 0) "
        "nor the text of exactly one choice nor its letter"
    )


def _softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
