import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from themis.records.score_table import Dimension, ScoreStatus, ScoreTable
from themis.results.aggregate import aggregate
from themis.statistics import means, proportions

Build = Callable[..., ScoreTable]

FAILED, MISSING = ScoreStatus.GENERATION_FAILED, ScoreStatus.GENERATION_MISSING


class TestCounts:
    """Failed and missing scores stay in view, and in the denominators that say so."""

    def test_one_failure_in_three_is_not_a_mean_of_one(self, table: Build) -> None:
        scores = table(
            [
                {"item": "1", "value": 1.0},
                {"item": "2", "value": 1.0},
                {"item": "3", "status": FAILED},
            ]
        )

        (row,) = aggregate(scores, ["model_id"])

        assert (row.n_planned, row.n_scored, row.n_failed, row.n_missing) == (3, 2, 1, 0)
        assert row.mean == 1.0
        assert row.mean_failed_as_zero == pytest.approx(2 / 3)
        assert (row.bound_lower, row.bound_upper) == pytest.approx((2 / 3, 1.0))

    def test_missing_is_bounded_and_failed_counts_as_zero(self, table: Build) -> None:
        scores = table(
            [
                {"item": "1", "value": 1.0},
                {"item": "2", "value": 0.0},
                {"item": "3", "status": MISSING},
                {"item": "4", "status": ScoreStatus.NOT_EVALUATED},
                {"item": "5", "status": ScoreStatus.METRIC_FAILED},
                {"item": "6", "status": ScoreStatus.EXTRACTION_FAILED, "value": 0.0},
            ]
        )

        (row,) = aggregate(scores, ["model_id"])

        assert (row.n_planned, row.n_scored, row.n_failed, row.n_missing) == (6, 3, 1, 2)
        assert row.n_unreadable == 1
        assert row.mean == pytest.approx(1 / 3)
        assert row.mean_failed_as_zero == pytest.approx(1 / 4)
        assert row.bound_lower == pytest.approx(1 / 6)
        assert row.bound_upper == pytest.approx(4 / 6)

    def test_a_group_without_any_score_is_shown_with_its_counts(self, table: Build) -> None:
        scores = table(
            [
                {"model": "a", "item": "1", "value": 1.0},
                {"model": "b", "item": "1", "status": MISSING},
            ]
        )

        rows = aggregate(scores, ["model_id"])

        assert [row.keys["model_id"] for row in rows] == ["a", "b"]
        assert rows[1].mean is None
        assert rows[1].method == "none"
        assert rows[1].flags == ("no_scores",)
        assert (rows[1].n_planned, rows[1].n_missing) == (1, 1)
        assert (rows[1].bound_lower, rows[1].bound_upper) == (0.0, 1.0)

    def test_scores_beyond_0_and_1_have_no_bounds(self, table: Build) -> None:
        scores = table([{"item": "1", "value": 3.0}, {"item": "2", "value": 5.0}])

        (row,) = aggregate(scores, ["model_id"])

        assert row.bound_lower is None
        assert row.bound_upper is None

    def test_no_rows_at_all_give_no_groups(self, table: Build) -> None:
        scores = table([{"value": 1.0}]).where(np.array([False]))

        assert aggregate(scores, ["model_id"]) == []


class TestKeys:
    """Rows are grouped by names, sorted, and never mix what must not be mixed."""

    def test_an_unknown_key_lists_the_known_ones(self, table: Build) -> None:
        scores = table([{"value": 1.0}], slice_dimensions={"language": {"default": "de"}})

        with pytest.raises(ValueError, match=r"'colour'.*model_id.*status, language"):
            aggregate(scores, ["colour"])

    def test_none_comes_first_then_text_order(self, table: Build) -> None:
        scores = table(
            [{"slice": name, "value": 1.0} for name in ("z", "a", "m")],
            slice_dimensions={"language": {"z": "en", "a": "de"}},
        )

        rows = aggregate(scores, ["language"])

        assert [row.keys["language"] for row in rows] == [None, "de", "en"]

    def test_items_can_be_grouped_by_their_own_dimensions(self, table: Build) -> None:
        scores = table(
            [{"item": str(i), "value": float(i % 2)} for i in range(4)],
            item_dimensions={"level": {"0": "easy", "1": "hard", "2": "easy", "3": "hard"}},
        )

        rows = aggregate(scores, ["level"])

        assert {row.keys["level"]: row.mean for row in rows} == {"easy": 0.0, "hard": 1.0}

    def test_metrics_and_evaluations_are_never_averaged_together(self, table: Build) -> None:
        scores = table(
            [
                {"metric": metric, "evaluation": evaluation, "value": value}
                for metric, evaluation, value in (("em", "strict", 0.0), ("f1", "loose", 1.0))
            ]
        )

        rows = aggregate(scores, ["model_id"])

        assert [row.keys for row in rows] == [
            {"model_id": "default", "metric_id": "em", "evaluation": "strict"},
            {"model_id": "default", "metric_id": "f1", "evaluation": "loose"},
        ]

    def test_one_metric_can_be_chosen_and_an_unknown_one_is_refused(self, table: Build) -> None:
        scores = table([{"metric": "em", "value": 0.0}, {"metric": "f1", "value": 1.0}])

        (row,) = aggregate(scores, ["model_id"], metric_id="f1")

        assert row.mean == 1.0
        with pytest.raises(ValueError, match="known: em, f1"):
            aggregate(scores, ["model_id"], metric_id="bleu")

    def test_status_groups_rows_by_what_became_of_them(self, table: Build) -> None:
        scores = table([{"item": "1", "value": 1.0}, {"item": "2", "status": FAILED}])

        rows = aggregate(scores, ["status"])

        assert [(row.keys["status"], row.n_planned) for row in rows] == [
            ("generation_failed", 1),
            ("scored", 1),
        ]

    def test_a_key_named_twice_is_refused(self, table: Build) -> None:
        with pytest.raises(ValueError, match="twice"):
            aggregate(table([{"value": 1.0}]), ["model_id", "model_id"])


class TestIntervals:
    """The interval fits the scores, says its name, and is absent where nothing is known."""

    def test_right_and_wrong_get_wilson(self, table: Build) -> None:
        scores = table([{"item": str(i), "value": float(i < 7)} for i in range(10)])

        (row,) = aggregate(scores, ["model_id"])

        lower, upper = proportions.wilson(7, 10)
        assert row.method == "wilson"
        assert (row.ci_lower, row.ci_upper) == pytest.approx((float(lower), float(upper)))

    def test_other_numbers_get_t(self, table: Build) -> None:
        values = [0.12, 0.5, 0.73, 0.25, 0.9, 0.33, 0.61, 0.08]
        scores = table([{"item": str(i), "value": v} for i, v in enumerate(values)])

        (row,) = aggregate(scores, ["model_id"])

        assert row.method == "t"
        assert row.stderr == pytest.approx(0.1042318843458455)
        assert row.ci_lower == pytest.approx(0.19353075848659945)
        assert row.df == 7

    def test_repeats_are_averaged_before_anything_else(self, table: Build) -> None:
        draws = np.random.default_rng(3).integers(0, 2, (12, 5)).astype(float)
        scores = table(
            [
                {"item": str(i), "sample": s, "value": draws[i, s]}
                for i in range(12)
                for s in range(5)
            ]
        )

        (row,) = aggregate(scores, ["model_id"])

        summary = means.summarise(draws.mean(axis=1))
        assert (row.n_scored, row.item_count) == (60, 12)
        assert row.mean == pytest.approx(summary.mean)
        assert row.stderr == pytest.approx(summary.stderr)
        assert row.flags == ()

    def test_an_item_asked_more_often_counts_no_more(self, table: Build) -> None:
        scores = table(
            [{"item": "1", "sample": s, "value": 1.0} for s in range(9)]
            + [{"item": "2", "value": 0.0}]
        )

        (row,) = aggregate(scores, ["model_id"])

        assert row.mean == 0.5
        assert row.flags == ("unequal_repeats",)

    def test_clusters_get_cr2(self, table: Build) -> None:
        values = [1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1]
        documents = [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 5, 6, 6]
        scores = table(
            [{"item": str(i), "value": float(v)} for i, v in enumerate(values)],
            item_dimensions={"document": {str(i): str(d) for i, d in enumerate(documents)}},
        )

        (row,) = aggregate(scores, ["model_id"], cluster_by="document")

        assert row.method == "clustered_t_cr2"
        assert row.cluster_count == 6
        assert row.stderr == pytest.approx(0.1447473570937339)
        assert row.df == pytest.approx(4.425873844917638)

    def test_clusters_smaller_than_an_item_are_refused(self, table: Build) -> None:
        scores = table([{"item": "1", "prompt": p, "value": 1.0} for p in "ab"])

        with pytest.raises(ValueError, match="cannot cluster by 'prompt_variant_id'"):
            aggregate(scores, ["model_id"], cluster_by="prompt_variant_id")

    def test_one_item_says_nothing_about_spread(self, table: Build) -> None:
        (row,) = aggregate(table([{"value": 1.0}]), ["model_id"])

        assert (row.mean, row.ci_lower, row.stderr) == (1.0, None, None)
        assert row.flags == ("too_few_items",)

    def test_a_constant_that_is_not_0_or_1_has_no_interval(self, table: Build) -> None:
        scores = table([{"item": str(i), "value": 0.7} for i in range(9)])

        (row,) = aggregate(scores, ["model_id"])

        assert (row.ci_lower, row.ci_upper, row.method) == (None, None, "none")
        assert row.flags == ("degenerate",)

    @pytest.mark.parametrize("method", ["clopper_pearson", "bayes", "bootstrap", "bca", "t"])
    def test_an_interval_can_be_asked_for_by_name(self, table: Build, method: Any) -> None:
        scores = table([{"item": str(i), "value": float(i < 60)} for i in range(90)])

        (row,) = aggregate(scores, ["model_id"], ci=method)

        assert row.method == method
        assert row.ci_lower is not None
        assert row.ci_upper is not None
        assert 0.5 < row.ci_lower < 2 / 3 < row.ci_upper < 0.8

    def test_an_interval_that_does_not_fit_is_refused(self, table: Build) -> None:
        scores = table([{"item": str(i), "value": i / 7} for i in range(7)])

        with pytest.raises(ValueError, match="needs scores of 0 and 1"):
            aggregate(scores, ["model_id"], ci="wilson")
        with pytest.raises(ValueError, match="known: auto, none, wilson"):
            aggregate(scores, ["model_id"], ci="z")  # type: ignore[arg-type]

    def test_bootstrap_of_clusters_resamples_clusters(self, table: Build) -> None:
        scores = table(
            [{"item": str(i), "value": float(i // 10 % 2)} for i in range(200)],
            item_dimensions={"document": {str(i): str(i // 10) for i in range(200)}},
        )

        (whole,) = aggregate(scores, ["model_id"], ci="bootstrap", cluster_by="document")
        (items,) = aggregate(scores, ["model_id"], ci="bootstrap")

        def width(row: Any) -> float:
            return float(row.ci_upper - row.ci_lower)

        assert width(whole) > 2 * width(items)


class TestEstimators:
    """pass@k and its kin are averages over items of an estimate per cell."""

    def test_pass_at_5_meets_the_golden_benchmark(self, table: Build) -> None:
        answers = [(10, 3), (10, 0), (10, 10), (10, 7), (8, 2)]
        scores = table(
            [
                {"item": str(item), "sample": s, "value": float(s < c)}
                for item, (n, c) in enumerate(answers)
                for s in range(n)
            ]
        )

        (row,) = aggregate(scores, ["model_id"], estimator="pass@5")

        assert row.estimator == "pass@5"
        assert row.mean == pytest.approx(0.7619047619047619)
        assert row.stderr == pytest.approx(0.19169993795813267)
        assert row.ci_lower == pytest.approx(0.2296604074941837)

    def test_items_with_too_few_answers_are_left_out(self, table: Build) -> None:
        scores = table(
            [{"item": "1", "sample": s, "value": 1.0} for s in range(3)]
            + [{"item": "2", "value": 0.0}]
        )

        (row,) = aggregate(scores, ["model_id"], estimator="pass^2")

        assert (row.mean, row.item_count) == (1.0, 1)
        assert "unequal_repeats" in row.flags

    @pytest.mark.parametrize(
        ("name", "expected"), [("pass@2", 1.0), ("pass^2", 1 / 3), ("maj@3", 1.0), ("maj@1", 2 / 3)]
    )
    def test_every_form_is_known_by_its_name(
        self, table: Build, name: str, expected: float
    ) -> None:
        scores = table([{"value": value, "sample": n} for n, value in enumerate([1.0, 0.0, 1.0])])

        (row,) = aggregate(scores, ["model_id"], estimator=name)

        assert row.mean == pytest.approx(expected)

    @pytest.mark.parametrize("name", ["pass@0", "pass@", "pass@x", "median", "best@2", "maj@1x"])
    def test_an_unknown_estimator_lists_the_known_ones(self, table: Build, name: str) -> None:
        with pytest.raises(ValueError, match="known: mean, pass@k"):
            aggregate(table([{"value": 1.0}]), ["model_id"], estimator=name)

    def test_partial_credit_cannot_pass(self, table: Build) -> None:
        with pytest.raises(ValueError, match="scores of 0 and 1"):
            aggregate(table([{"value": 0.5}]), ["model_id"], estimator="pass@1")


class TestProperties:
    """Algebra of means, on any scores."""

    @settings(max_examples=50)
    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1))),
            min_size=1,
            max_size=40,
        ),
        st.integers(0, 2**32 - 1),
    )
    def test_order_does_not_matter_and_bounds_hold_the_truth(
        self, table: Build, rows: list[tuple[int, int, float | None]], seed: int
    ) -> None:
        entries = [
            {"item": str(item), "sample": sample}
            | ({"status": MISSING} if value is None else {"value": value})
            for item, sample, value in rows
        ]
        shuffle = np.random.default_rng(seed).permutation(len(entries))

        (plain,) = aggregate(table(entries), ["model_id"])
        (shuffled,) = aggregate(table([entries[k] for k in shuffle]), ["model_id"])

        for name in ("mean", "stderr", "ci_lower", "bound_lower", "bound_upper"):
            one, two = getattr(plain, name), getattr(shuffled, name)
            assert one == pytest.approx(two, abs=1e-9), name
        assert plain.n_planned == plain.n_scored + plain.n_failed + plain.n_missing == len(rows)
        assert plain.bound_lower is not None
        assert plain.bound_upper is not None
        by_item: dict[int, list[float]] = {}
        guess = np.random.default_rng(seed)
        for item, _, value in rows:
            by_item.setdefault(item, []).append(guess.random() if value is None else value)
        truth = float(np.mean([np.mean(values) for values in by_item.values()]))
        assert plain.bound_lower - 1e-9 <= truth <= plain.bound_upper + 1e-9


class TestTable:
    """A table that contradicts itself is refused when it is made."""

    def test_a_code_beyond_its_labels_is_refused(self, table: Build) -> None:
        scores = table([{"value": 1.0}])

        with pytest.raises(ValueError, match="model has a code outside"):
            _changed(scores, model=np.array([1]))

    def test_a_scored_row_needs_a_value(self, table: Build) -> None:
        scores = table([{"value": 1.0}])

        with pytest.raises(ValueError, match="finite value exactly when"):
            _changed(scores, value=np.array([math.nan]))

    def test_columns_of_different_lengths_are_refused(self, table: Build) -> None:
        scores = table([{"value": 1.0}])

        with pytest.raises(ValueError, match="column slice has 2 rows"):
            _changed(scores, slice=np.array([0, 0]))

    def test_a_dimension_needs_a_code_per_slice(self, table: Build) -> None:
        scores = table([{"value": 1.0}])

        with pytest.raises(ValueError, match="one code per slice"):
            _changed(scores, dimensions={"x": Dimension(("a",), np.zeros(2, np.int32))})


def _changed(table: ScoreTable, **changes: Any) -> ScoreTable:
    return replace(table, **changes)
