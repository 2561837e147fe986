"""The right answer of a dataset item, as a metric needs it."""

import re
from collections.abc import Mapping
from typing import Any

from themis.errors import MetricError
from themis.evaluation.latex import last_boxed

USUAL_FIELDS = ("answer", "reference", "target", "expected", "solution")
"""Where the right answer is looked for when a score does not say."""

_GSM8K = re.compile(r"#### (-?[0-9.,]+)")
_STATED = re.compile(r"\banswer is:", re.IGNORECASE)


def reference_of(payload: Mapping[str, Any], reference_field: str | None) -> Any:
    """Return the right answer of an item.

    Args:
        payload: The item's fields.
        reference_field: The field to read; None means the first of `USUAL_FIELDS` that exists.

    Raises:
        MetricError: There is no such field, or it is null.
    """
    fields = USUAL_FIELDS if reference_field is None else (reference_field,)
    for field in fields:
        if payload.get(field) is not None:
            return payload[field]
    raise MetricError(
        f"the item has no reference in {' or '.join(map(repr, fields))}; "
        f"its fields are {', '.join(sorted(payload)) or 'none'}. Name it with reference_field."
    )


def references_of(payload: Mapping[str, Any], reference_field: str | None) -> list[Any]:
    """Return the right answers of an item: the elements of a list, or the one value.

    Raises:
        MetricError: There is no such field, it is null, or the list is empty.
    """
    reference = reference_of(payload, reference_field)
    if not isinstance(reference, list):
        return [reference]
    if not reference:
        raise MetricError("the item's reference is an empty list")
    return reference


def gsm8k_answer(text: str) -> str | None:
    r"""Return what GSM8K's own grader takes from a solution; None where it finds nothing.

    >>> gsm8k_answer("so it is 70,000\n#### 70,000")
    '70000'
    """
    match = _GSM8K.search(text)
    return match[1].replace(",", "") if match else None


def final_answer(reference: str) -> str:
    r"""Return the answer that a worked solution ends in; the text itself when it ends in none.

    Known endings, in this order: `#### 18` (GSM8K), `The answer is: 18` (MATH-500), `\boxed{18}`.

    >>> final_answer("She sells 9 * 2 = 18.\n#### 18")
    '18'
    """
    _, mark, tail = reference.rpartition("####")
    if mark:
        return tail.strip()
    stated = after_last(_STATED, reference)
    if stated is not None:
        return stated.strip().removesuffix(".")
    boxed = last_boxed(reference)
    return reference.strip() if boxed is None else boxed


def after_last(pattern: re.Pattern[str], text: str) -> str | None:
    """Return what follows the last match of a pattern; None when there is no match."""
    matches = list(pattern.finditer(text))
    return text[matches[-1].end() :] if matches else None
