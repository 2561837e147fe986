import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.results.grouping import number

columns = st.integers(1, 40).flatmap(
    lambda rows: st.lists(
        st.lists(st.integers(0, 5), min_size=rows, max_size=rows), min_size=1, max_size=4
    )
)


@given(columns)
def test_numbering_by_table_and_by_sorting_agree(codes: list[list[int]]) -> None:
    given_columns = [(np.array(column), 6) for column in codes]
    rows = len(codes[0])
    tabled = number(given_columns, rows)
    place, present = number([*given_columns, (np.zeros(rows, np.int64), 10**9)], rows)

    assert np.array_equal(tabled[0], place)
    assert np.array_equal(tabled[1], present // 10**9)
    assert len(set(zip(*codes, strict=True))) == len(present)


def test_more_combinations_than_64_bits_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="too many combinations"):
        number([(np.zeros(1), 2**32), (np.zeros(1), 2**32)], 1)
