"""Tests that look to one side only, from the table to the verdict."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from themis.records.score_table import ScoreTable
from themis.results.compare import PairedRow, paired_compare

Build = Callable[..., ScoreTable]
BASE = [0.2, 0.4, 0.1, 0.9, 0.3, 0.5, 0.6, 0.15, 0.35]
NEW = [0.6, 0.5, 0.4, 0.8, 0.7, 0.55, 0.9, 0.1, 0.65]


def compared(table: ScoreTable, alternative: Any, **options: Any) -> PairedRow:
    (row,) = paired_compare(
        table, baseline="base", group_by=None, alternative=alternative, **options
    )
    return row


@pytest.mark.parametrize("method", ["paired_t", "sign_flip", "sign", "wilcoxon"])
def test_the_two_sides_share_the_two_sided_p(pairs: Build, method: Any) -> None:
    table = pairs(BASE, NEW)
    both, greater, less = (
        compared(table, side, method=method) for side in ("two-sided", "greater", "less")
    )

    assert both.p_value == pytest.approx(2 * float(greater.p_value or 0))
    assert greater.p_value is not None
    assert less.p_value is not None
    assert greater.p_value < 0.1
    assert less.p_value == pytest.approx(1 - greater.p_value, abs=0.1)
    assert (greater.alternative, less.alternative) == ("greater", "less")
    assert (greater.ci_lower, greater.ci_upper) == (both.ci_lower, both.ci_upper)


def test_right_and_wrong_answers_are_tested_on_one_side(pairs: Build) -> None:
    table = pairs([0.0] * 5 + [1.0] * 6, [1.0] * 5 + [1.0] * 6)

    greater, less = compared(table, "greater"), compared(table, "less")

    assert greater.method == "mcnemar_midp+bonett_price"
    assert greater.p_value == pytest.approx(1 / 64)
    assert less.p_value == pytest.approx(63 / 64)
    assert (greater.verdict, less.verdict) == ("better", "inconclusive")


def test_the_same_difference_everywhere_counts_one_sign_pattern(pairs: Build) -> None:
    table = pairs([0.25] * 6, [0.5] * 6)

    assert compared(table, "greater").p_value == 1 / 64
    assert compared(table, "less").p_value == 1
    assert compared(pairs([0.5] * 6, [0.5] * 6), "greater").p_value == 1


def test_swapping_the_arms_turns_the_question_around(pairs: Build) -> None:
    there = compared(pairs(BASE, NEW), "greater")
    back = compared(pairs(NEW, BASE), "less")

    assert there.p_value == back.p_value
    assert there.delta_mean == -(back.delta_mean or 0)


def test_looking_to_one_side_sees_smaller_differences(pairs: Build) -> None:
    row = compared(pairs(BASE, NEW), "greater")

    assert row.mde == pytest.approx(float(ndtri(0.95) + ndtri(0.8)) * float(row.stderr or 0))


def test_an_unknown_alternative_names_the_known_ones(pairs: Build) -> None:
    with pytest.raises(ValueError, match="known: two-sided, greater, less"):
        compared(pairs(np.ones(2), np.ones(2)), "better")
