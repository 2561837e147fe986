"""Numbers are read as people write them, exactly."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.evaluation.numeric import find_numbers, first_number, last_number, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        (" 18. ", 18),
        ("-5", -5),
        ("−5", -5),  # noqa: RUF001
        ("+5", 5),
        ("1,234,567.5", Fraction("1234567.5")),
        ("1 234 567", 1234567),
        ("1\u202f234", 1234),
        ("$18", 18),
        ("-$18", -18),
        ("$ 18", 18),
        ("18 €", 18),
        ("50%", 50),
        (r"50\%", 50),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        ("1e3", 1000),
        ("2.5E-3", Fraction("0.0025")),
        (".5", Fraction(1, 2)),
        ("$18$", 18),
        (r"\(18\)", 18),
        (r"\$18", 18),
        ("**18**", 18),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"$\dfrac{3}{4}$", Fraction(3, 4)),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_one_number_is_read(text: str, value: Fraction | int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "18 dollars",
        "1,23",
        "1,2345",
        "1.2.3",
        "3/0",
        "1/2/3",
        "--5",
        "1e99999",
        "1e-9999",
        "NaN",
        "inf",
        "0x10",
        "5-3",
        "9" * 500,
        "$",
        "%",
        ".",
        "-",
    ],
)
def test_what_is_not_one_number_is_refused(text: str) -> None:
    assert parse_number(text) is None


@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_grouped_decimals_round_trip(whole: int, cents: int) -> None:
    text = f"{whole:,}.{cents:02d}"

    assert parse_number(text) == Fraction(text.replace(",", ""))


@given(st.text(alphabet="0123456789.,-+/$%eE {}\\frac", max_size=30))
def test_any_text_is_read_or_refused_without_an_error(text: str) -> None:
    parse_number(text)
    for number in find_numbers(text):
        assert number in text


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("She has 1,234.50 dollars and 3 cats.", ["1,234.50", "3"]),
        ("10 - 7 = 3", ["10", "7", "3"]),
        ("5-3", ["5", "3"]),
        ("x = -3, y=-4", ["-3", "-4"]),
        ("(-2)", ["-2"]),
        ("3/4 of 100", ["3/4", "100"]),
        ("on 2024/05/06", ["2024", "05", "06"]),
        ("$18.", ["18"]),
        ("50%", ["50"]),
        ("1, 2, 3", ["1", "2", "3"]),
        ("5km at 1e3 m", ["5", "1e3"]),
        ("SmolLM2 has H2O", []),
        ("no numbers", []),
        ("<<16-3-4=9>>9", ["16", "3", "4", "9", "9"]),
        ("temperature −5 degrees", ["-5"]),  # noqa: RUF001
    ],
)
def test_numbers_are_found_in_prose(text: str, numbers: list[str]) -> None:
    assert find_numbers(text) == numbers
    assert first_number(text) == (numbers[0] if numbers else None)
    assert last_number(text) == (numbers[-1] if numbers else None)
