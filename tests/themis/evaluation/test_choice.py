"""The metrics of likelihoods, on figures that were worked out by hand."""

import math
from typing import Any

import pytest

from themis.evaluation import PluginRegistry
from themis.evaluation.scoring import score_output
from themis.specs import ParseSpec

TEXTS = ("Paris", "Rome, the eternal city", "B", "7")
SUMS = (-2.0, -4.4, -1.5, -9.0)


def output(*sums: float, texts: tuple[str, ...] = TEXTS) -> dict[str, Any]:
    found = [
        {
            "text": text,
            "sum": total,
            "tokens": 1,
            "characters": len(text),
            "bytes": len(text.encode()),
            "words": len(text.split()),
            "is_greedy": False,
        }
        for text, total in zip(texts, sums, strict=False)
    ]
    if len(found) == 1:
        del found[0]["text"]
    return {"text": "", "finish_reason": "scored", "loglikelihoods": found}


def score(
    metric: str, record: dict[str, Any], answer: Any, parse: ParseSpec | None = None
) -> tuple[float | None, str | None]:
    (found,) = score_output(
        record,
        {"answer": answer},
        transform=parse,
        metrics=[f"choice_loglikelihood_{metric}" if len(metric) < 9 else metric],
        registry=PluginRegistry(),
    ).scores
    return found.value, found.error


@pytest.mark.parametrize(
    ("answer", "right"),
    [(0, 0.0), (2, 1.0), ("Paris", 0.0), ("B", 1.0), ("(c)", 1.0), ("A", 0.0), ("7", 0.0)],
)
def test_acc_is_1_when_the_right_choice_is_the_likeliest(answer: Any, right: float) -> None:
    assert score("acc", output(*SUMS), answer) == (right, None)


def test_of_equally_likely_choices_the_first_counts() -> None:
    assert score("acc", output(-1.0, -1.0), 0) == (1.0, None)
    assert score("acc", output(-1.0, -1.0), 1) == (0.0, None)


def test_acc_norm_divides_by_characters() -> None:
    # -2/5 = -0.4, -4.4/22 = -0.2, -1.5/1, -9/1
    assert score("acc_norm", output(*SUMS), 1) == (1.0, None)
    # Two characters of four bytes: -3/2 loses against -1.4; by bytes it would win.
    assert score("acc_norm", output(-3.0, -1.4, texts=("é€", "x")), 1) == (1.0, None)


def test_brier_is_the_squared_distance_of_the_softmax_from_the_right_choice() -> None:
    sums = (math.log(0.5) - 800, math.log(0.3) - 800, math.log(0.2) - 800)

    value, _ = score("brier", output(*sums), 1)

    assert value == pytest.approx(0.5**2 + 0.7**2 + 0.2**2)
    assert score("brier", output(0.0, -9999.0), 0)[0] == pytest.approx(0.0)
    assert score("brier", output(0.0, -9999.0), 1)[0] == pytest.approx(2.0)


def test_perplexities_are_those_of_units_of_equal_probability() -> None:
    text = "one two, vier €"
    record = output(4 * math.log(0.25), texts=(text,))
    size = len(text.encode())

    assert score("word_perplexity", record, None)[0] == pytest.approx(4.0)
    assert score("bits_per_byte", record, None)[0] == pytest.approx(8 / size)
    assert score("byte_perplexity", record, None)[0] == pytest.approx(2 ** (8 / size))


@pytest.mark.parametrize(
    ("metric", "record", "answer", "words"),
    [
        ("acc", output(*SUMS), 4, "no position of 4 choices"),
        ("acc", output(*SUMS), "Berlin", "neither the position"),
        ("acc", output(*SUMS), "1", "neither the position"),
        ("acc", output(*SUMS), None, "no reference"),
        ("brier", output(-1.0), 0, "several"),
        ("acc_norm", {"text": "Paris"}, 0, "no continuations were scored"),
        ("bits_per_byte", output(*SUMS), None, "exactly one"),
        ("word_perplexity", {"text": "Paris"}, None, "exactly one"),
        ("word_perplexity", output(-1.0, texts=("  ",)), None, "no words"),
        ("byte_perplexity", output(-1e6, texts=("a",)), None, "OverflowError"),
    ],
)
def test_what_cannot_be_scored_is_null_with_the_reason(
    metric: str, record: dict[str, Any], answer: Any, words: str
) -> None:
    value, error = score(metric, record, answer)

    assert value is None
    assert words in (error or "")


def test_a_parse_makes_no_difference_to_likelihoods() -> None:
    parse = ParseSpec.model_validate({"name": "number", "extractors": ["first_number"]})

    assert score("acc", output(*SUMS), 2, parse) == (1.0, None)
