from collections.abc import Callable

import pytest

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.aggregate import aggregate
from themis.results.flips import flips
from themis.results.leaderboard import leaderboard
from themis.results.macro import macro_average

Build = Callable[..., ScoreTable]


class TestMacro:
    """Each slice counts the same."""

    def test_the_golden_groups_have_their_macro_mean_and_error(self, table: Build) -> None:
        groups: dict[str, list[float]] = {
            "a": [1, 0, 1, 1, 0, 1, 1, 1],
            "b": [0.5, 0.25, 1, 0],
            "c": [1, 1, 1, 0, 1],
        }
        scores = table(
            [
                {"slice": name, "item": str(i), "value": v}
                for name, values in groups.items()
                for i, v in enumerate(values)
            ]
        )

        (macro,) = macro_average(aggregate(scores, ["model_id", "slice_id"]))
        (micro,) = aggregate(scores, ["model_id"])

        assert macro.mean == pytest.approx(0.6625)
        assert macro.stderr == pytest.approx(0.11173312994829387)
        assert macro.method == "stratified_t"
        parts = aggregate(scores, ["slice_id"])
        variances = [(row.stderr or 0) ** 2 for row in parts]
        spread = sum(v**2 / (row.df or 0) for v, row in zip(variances, parts, strict=True))
        assert macro.df == pytest.approx(sum(variances) ** 2 / spread)
        assert micro.mean == pytest.approx(0.6911764705882353)
        assert macro.item_count == micro.item_count == 17

    def test_a_slice_without_scores_is_flagged_and_counted(self, table: Build) -> None:
        scores = table(
            [
                {"slice": "x", "item": "1", "value": 0.5},
                {"slice": "x", "item": "2", "value": 1.0},
                {"slice": "y", "item": "1", "status": ScoreStatus.GENERATION_MISSING},
            ]
        )

        (row,) = macro_average(aggregate(scores, ["slice_id"]))

        assert row.mean == pytest.approx(0.75)
        assert (row.n_planned, row.n_missing) == (3, 1)
        assert "slice_without_scores" in row.flags
        assert row.bound_lower == pytest.approx(0.375)

    def test_rows_without_the_key_are_refused(self, table: Build) -> None:
        with pytest.raises(ValueError, match="not grouped by 'slice_id'"):
            macro_average(aggregate(table([{"value": 1.0}]), ["model_id"]))


class TestLeaderboard:
    """Order by mean, with doubt."""

    def scores(self, table: Build) -> ScoreTable:
        right = {"good": 60, "near": 58, "bad": 10, "twin": 10}
        rows = [
            {"model": model, "item": str(i), "value": float(i < n)}
            for model, n in right.items()
            for i in range(80)
        ]
        failed = {"status": ScoreStatus.GENERATION_FAILED}
        return table([*rows, *({"model": "broken", "item": str(i), **failed} for i in range(80))])

    def test_models_are_ranked_and_those_level_with_the_first_say_so(self, table: Build) -> None:
        rows = leaderboard(self.scores(table))

        assert [(row.rank, row.model_id) for row in rows] == [
            (1, "good"), (2, "near"), (3, "bad"), (3, "twin"), (None, "broken"),
        ]  # fmt: skip
        assert [row.level_with_first for row in rows] == [False, True, False, False, False]
        assert rows[0].behind is None
        assert rows[4].behind is None
        assert rows[2].behind is not None
        assert rows[2].behind.delta_mean == pytest.approx(-50 / 80)
        assert (rows[2].behind.adjustment_method, rows[2].behind.family_size) == ("holm", 6)
        assert rows[2].to_dict()["behind_first"]["baseline"] == "good"

    def test_each_group_has_its_own_ranking(self, table: Build) -> None:
        scores = table(
            [
                {"model": m, "slice": s, "item": str(i), "value": float(i < n)}
                for (m, s), n in {
                    ("a", "x"): 9,
                    ("b", "x"): 2,
                    ("a", "y"): 1,
                    ("b", "y"): 8,
                }.items()
                for i in range(10)
            ]
        )

        rows = leaderboard(scores, group_by=["slice_id"])
        macro = leaderboard(scores, weights="macro")

        assert [(r.score.keys["slice_id"], r.rank, r.model_id) for r in rows] == [
            ("x", 1, "a"), ("x", 2, "b"), ("y", 1, "b"), ("y", 2, "a"),
        ]  # fmt: skip
        assert [r.score.method for r in macro] == ["stratified_t", "stratified_t"]

    def test_models_cannot_be_a_group_of_models(self, table: Build) -> None:
        with pytest.raises(ValueError, match="ranks models"):
            leaderboard(self.scores(table), group_by=["model_id"])


class TestFlips:
    """Every changed item, biggest change first."""

    def test_gains_and_losses_are_listed_with_their_scores(self, pairs: Build) -> None:
        scores = pairs([1, 0, 0.5, 1, float("nan")], [1, 1, 0.25, 0, 1])

        found = flips(scores, baseline="base", treatment="new")

        assert [(f.item_id, f.baseline_value, f.treatment_value) for f in found] == [
            ("1", 0.0, 1.0), ("3", 1.0, 0.0), ("2", 0.5, 0.25),
        ]  # fmt: skip
        assert found[0].to_dict()["delta"] == 1.0

    def test_an_unknown_arm_lists_the_known_ones(self, pairs: Build) -> None:
        with pytest.raises(ValueError, match="known: base, new"):
            flips(pairs([1], [0]), baseline="base", treatment="old")
