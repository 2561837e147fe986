"""Payloads come back as they went in, or not at all."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.errors import StorageError
from themis.storage.payloads import LARGEST_IN_DATABASE, Payloads

LARGE = random.Random(1).randbytes(2 * LARGEST_IN_DATABASE)


@given(st.binary(max_size=300), st.integers(1, 300))
def test_a_payload_comes_back(data: bytes, times: int) -> None:
    payloads = Payloads(Path("/nonexistent"))

    assert payloads.decode(payloads.encode(data * times)) == data * times


def test_a_large_payload_goes_to_one_file_however_often_it_is_stored(tmp_path: Path) -> None:
    payloads = Payloads(tmp_path)

    first, second = payloads.encode(LARGE), payloads.encode(LARGE)

    assert first == second
    assert len(first) == 33
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    assert payloads.decode(first) == LARGE


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped"])
def test_a_damaged_file_is_never_returned(tmp_path: Path, damage: str) -> None:
    payloads = Payloads(tmp_path)
    stored = payloads.encode(LARGE)
    (path,) = (path for path in tmp_path.rglob("*.zst"))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "missing":
        path.unlink()
    else:
        payloads.encode(LARGE[::-1])
        (other,) = (found for found in tmp_path.rglob("*.zst") if found != path)
        path.write_bytes(other.read_bytes())

    with pytest.raises(StorageError, match=path.name):
        payloads.decode(stored)
