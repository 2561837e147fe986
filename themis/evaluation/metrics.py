"""The built-in metrics: from an answer to a score.

Unless a metric says otherwise, 1 is right and 0 is wrong, an item with several references (a
list) is answered right by any of them, and the details hold what was compared.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from themis.errors import MetricError, missing_extra
from themis.evaluation.extractors import normalize
from themis.evaluation.numeric import find_numbers, is_percent, parse_number
from themis.evaluation.protocol import MetricResult
from themis.evaluation.references import final_answer, gsm8k_answer, reference_of, references_of

RELATIVE_TOLERANCE = Fraction(1, 10**9)
"""How far apart two numbers may be and still be the same: what floating point loses."""


class ExactMatch:
    """Whether the answer is the reference, letter for letter, without outer white space."""

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare as text; numbers are compared as written in JSON."""
        given = _text(answer).strip()
        references = references_of(payload, reference_field)
        return _judged(given in [_text(reference).strip() for reference in references])


class NormalizedExactMatch:
    """Whether the answer is the reference but for case, spacing and punctuation at the ends."""

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the normalised texts."""
        given = normalize(_text(answer))
        references = references_of(payload, reference_field)
        return _judged(given in [normalize(_text(reference)) for reference in references])


class Contains:
    """Whether the reference occurs in the answer as whole words, whatever the case."""

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Look for each reference between word boundaries."""
        given = " ".join(_text(answer).casefold().split())
        for reference in references_of(payload, reference_field):
            wanted = normalize(_text(reference))
            if wanted and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given):
                return _judged(right=True)
        return _judged(right=False)


@dataclass(frozen=True)
class NumericMatch:
    r"""Whether the answer and the reference are the same number.

    Both may be written with thousands separators, a currency or percent sign, as a fraction, with
    an exponent or as `\frac{a}{b}`. `50%` is the same as 50 and as 0.5. An answer that is not one
    number counts when it holds exactly one (`18 dollars`). A reference may be a worked solution
    that ends in `#### 18`, `The answer is: 18` or `\boxed{18}`.

    Numbers are compared exactly, as fractions, up to `tolerance`.
    """

    tolerance: Fraction = RELATIVE_TOLERANCE
    """The largest difference, relative to the reference (absolute when that is 0)."""

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the numbers.

        Raises:
            MetricError: The reference is no number.
        """
        given = _text(answer)
        value = _one_number(given)
        references = references_of(payload, reference_field)
        wanted = [(reference, _reference_number(reference)) for reference in references]
        if value is None:
            return MetricResult(0.0, {"reason": "not_a_number"})
        for reference, number in wanted:
            # `50%` may mean 50 or 0.5; only when one side is a percentage is there a doubt.
            pairs = [(value, number)]
            if is_percent(given) and not is_percent(_text(reference)):
                pairs.append((value / 100, number))
            elif is_percent(_text(reference)) and not is_percent(given):
                pairs.append((value, number / 100))
            if any(self._same(*pair) for pair in pairs):
                return MetricResult(1.0, {"answer": _brief(value), "reference": str(number)})
        shown = ", ".join(str(number) for _, number in wanted)
        return MetricResult(0.0, {"answer": _brief(value), "reference": shown})

    def _same(self, given: Fraction, wanted: Fraction) -> bool:
        return abs(given - wanted) <= self.tolerance * (abs(wanted) or 1)


class Gsm8kMatch:
    """Whether GSM8K's own grader calls the answer right: the same text after `#### `.

    An answer without `####`, such as one that was parsed already, is compared as it is.
    """

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the answers as text, without commas.

        Raises:
            MetricError: The reference has no number after `####`.
        """
        reference = _text(reference_of(payload, reference_field))
        wanted = gsm8k_answer(reference)
        if wanted is None:
            raise MetricError(f"the reference {reference[:80]!r} has no number after ####")
        given = _text(answer)
        found = gsm8k_answer(given) if "####" in given else given.strip().replace(",", "")
        return MetricResult(float(found == wanted), {"answer": found, "reference": wanted})


class ChoiceMatch:
    """Whether the answer is the letter of the right choice.

    The reference is a letter (`B`, `(b)`), the position of the right choice counted from 0, or
    the text of one of the item's `choices` or `options`.
    """

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,
    ) -> MetricResult:
        """Compare the letters."""
        wanted = _choice(reference_of(payload, reference_field), payload)
        return MetricResult(float(_letter(_text(answer)) == wanted), {"reference": wanted})


class ResponseLength:
    """How many characters the output has; the details count its words."""

    reads_answer = False

    def score(
        self,
        *,
        text: str,
        answer: Any,  # noqa: ARG002
        payload: Mapping[str, Any],  # noqa: ARG002
        reference_field: str | None,  # noqa: ARG002
    ) -> MetricResult:
        """Count."""
        return MetricResult(float(len(text)), {"words": len(text.split())})


class ReasoningGym:
    """What the task that generated the item says of the answer, from 0 to 1."""

    def score(
        self,
        *,
        text: str,  # noqa: ARG002
        answer: Any,
        payload: Mapping[str, Any],
        reference_field: str | None,  # noqa: ARG002 - the task knows where its answer is
    ) -> MetricResult:
        """Ask the task.

        Raises:
            MetricError: The item was not generated by reasoning-gym.
            EnvironmentNotReadyError: reasoning-gym is not installed.
        """
        metadata = payload.get("metadata")
        task = metadata.get("source_dataset") if isinstance(metadata, Mapping) else None
        if not isinstance(task, str):
            raise MetricError("the item has no metadata.source_dataset, as reasoning-gym writes it")
        try:
            import reasoning_gym
        except ImportError as error:
            raise missing_extra("reasoning-gym", "gym") from error
        judge = reasoning_gym.get_score_answer_fn(task)
        return MetricResult(float(judge(_text(answer), dict(payload))), {"task": task})


def _judged(right: bool) -> MetricResult:  # noqa: FBT001
    return _RIGHT if right else _WRONG


_RIGHT = MetricResult(1.0)
_WRONG = MetricResult(0.0)


def _text(value: Any) -> str:
    """Write an answer or reference as text: text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _one_number(text: str) -> Fraction | None:
    value = parse_number(text)
    if value is not None:
        return value
    numbers = find_numbers(text)
    return parse_number(numbers[0]) if len(numbers) == 1 else None


def _reference_number(reference: Any) -> Fraction:
    text = final_answer(_text(reference))
    number = _one_number(text)
    if number is None:
        raise MetricError(f"the reference {text[:80]!r} is not a number")
    return number


def _brief(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004


def _letter(text: str) -> str:
    return text.strip().strip("().:[]").strip().upper()


def _choice(reference: Any, payload: Mapping[str, Any]) -> str:
    choices = payload.get("choices") or payload.get("options")
    if isinstance(reference, int) and not isinstance(reference, bool):
        if reference < 0 or (isinstance(choices, list) and reference >= len(choices)):
            raise MetricError(f"the reference {reference} is not the position of a choice")
        return chr(ord("A") + reference)
    text = _text(reference)
    letter = _letter(text)
    if len(letter) == 1:
        return letter
    if isinstance(choices, list) and text in choices:
        return chr(ord("A") + choices.index(text))
    raise MetricError(f"the reference {text[:80]!r} is neither a letter nor one of the choices")
