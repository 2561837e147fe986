"""Canonical JSON has one form, and its parser takes no other."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis_bundles import CanonicalError, canonical_json, parse_canonical, replace_surrogates

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


@given(JSON)
def test_what_is_written_is_what_is_read(value: Any) -> None:
    data = canonical_json(value)

    assert parse_canonical(data) == value
    assert canonical_json(parse_canonical(data)) == data


@given(st.dictionaries(st.text(), st.integers(-9, 9)), st.randoms())
def test_the_order_of_keys_decides_nothing(value: dict[str, int], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)

    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)


def test_keys_are_sorted_by_code_point_and_floats_are_shortest() -> None:
    value = {"\U0001f600": 1, "\uffff": 2, "b": 1e22, "a": 0.1 + 0.2, "B": -0.0}

    data = canonical_json(value)

    assert data.decode() == '{"B":-0.0,"a":0.30000000000000004,"b":1e+22,"\uffff":2,"\U0001f600":1}'


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "not a JSON number"),
        ({"a": [1, math.inf]}, "not a JSON number"),
        ("\ud800", "lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        (2**53, "beyond 2^53"),
        ([-(2**53)], "beyond 2^53"),
        (2**70, "beyond 2^53"),
        (10**5000, "beyond 2^53"),
        ({1: 2}, "not a string"),
        (nested(65), "nest more than 64"),
        (nested(300), "nest more than 64"),
        ({"a": {1, 2}}, "not a JSON value"),
        (b"bytes", "not a JSON value"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_a_canonical_form_is_refused(value: Any, words: str) -> None:
    with pytest.raises(CanonicalError, match=words.replace("^", r"\^")):
        canonical_json(value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'"\xed\xa0\x80"', "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b"NaN", "not JSON"),
        (b"[Infinity]", "not JSON"),
        (b"-Infinity", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"1e400", "not"),
        (b'{"a":1,"a":2}', "'a' appears twice"),
        (b'{"x":{"a":1,"\\u0061":2}}', "'a' appears twice"),
        (b'{"b":1,"a":2}', "not canonical from byte 2"),
        (b'{"a": 1}', "not canonical from byte 5"),
        (b'{"a":1.0e0}', "not canonical"),
        (b"1e2", "not canonical"),
        (b"1.00", "not canonical"),
        (b'"\\u0061"', "not canonical"),
        (b"{}\r", "not canonical"),
        (b" {}", "not canonical"),
        (b"9007199254740992", r"beyond 2\^53"),
        (b"-9007199254740993", r"beyond 2\^53"),
        (b"18446744073709551616", "not canonical"),
        (b"1" * 10_000, "not"),
        (b"[" * 65 + b"]" * 65, "nest more than 64"),
        (b"[" * 10_000 + b"]" * 10_000, "not JSON|nest more"),
        (b"[" * 2_000_000, "not JSON"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_a_line_that_is_not_canonical_is_refused(line: bytes, words: str) -> None:
    with pytest.raises(CanonicalError, match=words):
        parse_canonical(line)


def test_64_levels_are_allowed_and_brackets_in_text_are_not_levels() -> None:
    value = {"text": "[{" * 500, "deep": nested(63)}

    assert parse_canonical(canonical_json(value)) == value


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    try:
        value = parse_canonical(data)
    except CanonicalError:
        return

    assert canonical_json(value) == data


@given(st.text(st.characters(), max_size=20))
def test_cleaned_text_can_always_be_written(text: str) -> None:
    clean = replace_surrogates(text)

    assert parse_canonical(canonical_json(clean)) == clean


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("a\ud800b", "a\ufffdb"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("é😀", "é😀"),
    ],
)
def test_a_lone_surrogate_becomes_the_replacement_character(text: str, clean: str) -> None:
    assert replace_surrogates(text) == clean
