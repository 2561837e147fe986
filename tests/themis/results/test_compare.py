import json
from collections.abc import Callable
from dataclasses import replace
from math import erfc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.compare import PairedRow, paired_compare
from themis.results.paired_tests import PAIRED_METHODS

Build = Callable[..., ScoreTable]
GOLDEN = {
    case["id"]: case
    for case in json.loads(
        (Path(__file__).parents[2] / "fixtures" / "golden_stats.json").read_text()
    )["cases"]
}


def compare(scores: ScoreTable, **asked: Any) -> PairedRow:
    (row,) = paired_compare(scores, baseline="base", treatment="new", **asked)
    return row


def agree(row: PairedRow, case: str, keys: str) -> None:
    expected = GOLDEN[case]["expected"]
    for key in keys.split():
        assert getattr(row, key) == pytest.approx(expected[key], rel=1e-9), key


class TestGolden:
    """The table gives what the formulas give, on the cases of the golden file."""

    def test_student_sleep_is_a_paired_t(self, pairs: Build) -> None:
        case = GOLDEN["sleep_paired_t"]["input"]

        row = compare(pairs(case["baseline"], case["treatment"]))

        agree(
            row,
            "sleep_paired_t",
            "pair_count baseline_mean treatment_mean delta_mean stderr statistic df p_value "
            "ci_lower ci_upper",
        )
        assert (row.method, row.verdict) == ("paired_t", "better")
        assert row.effect_size_name == "d_z"
        assert row.effect_size == pytest.approx(1.2845575625910546)
        assert row.delta_lower_bound is None  # scores leave 0..1

    def test_three_slices_of_right_and_wrong_end_to_end(self, table: Build) -> None:
        case = GOLDEN["end_to_end_binary_3_slices"]
        rows = []
        for name, (both, treatment, baseline, neither) in case["input"]["tables"].items():
            b = [1] * both + [0] * treatment + [1] * baseline + [0] * neither
            t = [1] * both + [1] * treatment + [0] * baseline + [0] * neither
            for model, values in (("base", b), ("new", t)):
                rows += [
                    {"model": model, "slice": name, "item": str(i), "value": float(v)}
                    for i, v in enumerate(values)
                ]
        scores = table(rows)

        holm, bh = (
            paired_compare(scores, baseline="base", p_value_correction=correction)
            for correction in ("holm", "bh")
        )

        expected = case["expected"]
        for field in [
            "pair_count",
            "baseline_mean",
            "treatment_mean",
            "delta_mean",
            "p_value",
            "ci_lower",
            "ci_upper",
        ]:
            assert [getattr(row, field) for row in holm] == pytest.approx(expected[field]), field
        assert [row.adjusted_p_value for row in holm] == pytest.approx(expected["holm"])
        assert [row.adjusted_p_value for row in bh] == pytest.approx(expected["bh"])
        assert {row.family_size for row in holm} == {3}
        assert {row.method for row in holm} == {"mcnemar_midp+bonett_price"}
        assert [row.keys["slice_id"] for row in holm] == ["s1", "s2", "s3"]

    def test_clusters_get_cr2(self, table: Build) -> None:
        case = GOLDEN["paired_clustered_cr2_20x6"]["input"]
        documents = {str(i): str(c) for i, c in enumerate(case["cluster"])}
        rows = [
            {"model": model, "item": str(i), "value": float(v)}
            for model, key in (("base", "baseline"), ("new", "treatment"))
            for i, v in enumerate(case[key])
        ]
        scores = table(rows, item_dimensions={"document": documents})

        row = compare(scores, cluster_by="document")
        flipped = compare(scores, cluster_by="document", method="sign_flip")

        agree(
            row,
            "paired_clustered_cr2_20x6",
            "pair_count cluster_count baseline_mean treatment_mean delta_mean stderr df p_value "
            "ci_lower ci_upper",
        )
        assert row.method == "clustered_t_cr2"
        agree(flipped, "paired_clustered_signflip", "p_value")

    def test_a_constant_difference_is_never_p_0(self, pairs: Build) -> None:
        row = compare(pairs([0.1, 0.5, 0.3, 0.7, 0.0], [0.3, 0.7, 0.5, 0.9, 0.2]))

        agree(row, "degenerate_constant_diff", "p_value")
        assert row.method == "sign_flip_exact"
        assert (row.ci_lower, row.stderr, row.mde) == (None, None, None)
        assert "degenerate" in row.flags

    def test_identical_scores_have_p_1(self, pairs: Build) -> None:
        row = compare(pairs([0.1, 0.5, 0.3], [0.1, 0.5, 0.3]))

        assert (row.p_value, row.delta_mean, row.method) == (1.0, 0.0, "identical")
        assert row.ci_lower is None

    def test_identical_right_and_wrong_still_has_an_interval(self, pairs: Build) -> None:
        scores = [1.0] * 18 + [0.0] * 2

        row = compare(pairs(scores, scores))

        assert row.p_value == 1.0
        assert row.ci_upper == pytest.approx(0.12599125675906162)
        assert row.effect_size is None

    def test_better_on_all_of_a_thousand_items_is_as_sure_as_can_be(self, pairs: Build) -> None:
        row = compare(pairs([0.0] * 1000, [1.0] * 1000))

        assert row.p_value is not None
        assert 0 < row.p_value < 1e-200
        assert row.verdict == "better"
        assert row.effect_size is None  # infinite odds

    @pytest.mark.parametrize(
        ("method", "case", "key"),
        [
            ("mcnemar_exact", "p_exact", "bonett_price"),
            ("mcnemar_midp", "p_midp", "bonett_price"),
            ("mcnemar", "p_asymptotic", "bonett_price"),
            ("tango", "p_asymptotic", "tango"),
            ("newcombe", "p_midp", "newcombe10"),
            ("sign", "p_exact", None),
            ("sign_flip", "p_exact", None),
        ],
    )
    def test_a_method_asked_for_by_name(
        self, pairs: Build, method: str, case: str, key: str | None
    ) -> None:
        golden = GOLDEN["mcnemar_ahr"]["expected"]
        b = [1] + [0] + [1] * 7 + [0] * 12
        t = [1] + [1] + [0] * 7 + [0] * 12

        row = compare(pairs(b, t), method=method)

        assert row.p_value == pytest.approx(golden[case])
        if key:
            assert (row.ci_lower, row.ci_upper) == pytest.approx(tuple(golden[key]), abs=2e-6)
        assert row.test != "none"

    def test_darwins_maize_by_name(self, pairs: Build) -> None:
        d = np.array(GOLDEN["darwin_paired_t"]["input"]["differences"])
        scores = pairs([0.0] * len(d), d)

        agree(compare(scores, method="sign_flip"), "darwin_signflip_exact", "p_value")
        agree(compare(scores, method="wilcoxon"), "darwin_wilcoxon_exact", "p_value statistic")
        agree(compare(scores, method="sign"), "darwin_sign", "p_value")
        agree(compare(scores), "darwin_paired_t", "p_value df ci_lower ci_upper")


class TestPairing:
    """Only what both arms have is compared, and the rest is counted."""

    def test_unpaired_items_are_counted_and_flagged(self, pairs: Build) -> None:
        nan = float("nan")

        row = compare(pairs([1, 1, 0, 0, nan, nan, 1], [1, 0, 1, nan, 1, nan, 1]))

        assert (row.pair_count, row.unpaired_baseline, row.unpaired_treatment) == (4, 1, 1)
        assert row.n_planned == 7
        assert "unpaired_dropped" in row.flags

    def test_bounds_hold_what_absent_scores_could_have_been(self, pairs: Build) -> None:
        nan = float("nan")

        row = compare(pairs([1, 0, nan, 1, nan], [1, 1, 1, nan, nan]))

        lowest = (0 + 1 + (1 - 1) + (0 - 1) + (0 - 1)) / 5
        highest = (0 + 1 + (1 - 0) + (1 - 1) + (1 - 0)) / 5
        assert row.delta_lower_bound == pytest.approx(lowest)
        assert row.delta_upper_bound == pytest.approx(highest)

    def test_an_arm_without_any_answer_gives_a_row_without_a_test(self, pairs: Build) -> None:
        nan = float("nan")

        row = compare(pairs([1, 0, 1], [nan, nan, nan]), p_value_correction="holm")

        assert (row.pair_count, row.p_value, row.adjusted_p_value) == (0, None, None)
        assert (row.delta_mean, row.ci_lower, row.method) == (None, None, "none")
        assert (row.unpaired_baseline, row.family_size) == (3, 0)
        assert row.flags == ("no_pairs", "unpaired_dropped")

    def test_prompts_are_matched_one_to_one(self, table: Build) -> None:
        scores = table(
            [
                {"model": "base", "prompt": "easy", "item": "1", "value": 1.0},
                {"model": "base", "prompt": "hard", "item": "1", "value": 0.0},
                {"model": "new", "prompt": "easy", "item": "1", "value": 1.0},
                {"model": "base", "prompt": "easy", "item": "2", "value": 0.0},
                {"model": "new", "prompt": "easy", "item": "2", "value": 1.0},
            ]
        )

        row = compare(scores)

        assert (row.baseline_mean, row.treatment_mean, row.delta_mean) == (0.5, 1.0, 0.5)
        assert "unequal_repeats" in row.flags

    def test_what_only_the_treatment_answered_does_not_count_for_it(self, table: Build) -> None:
        scores = table(
            [
                {"model": "base", "prompt": "easy", "item": "1", "value": 1.0},
                {"model": "new", "prompt": "easy", "item": "1", "value": 0.0},
                {"model": "new", "prompt": "hard", "item": "1", "value": 1.0},
                {"model": "base", "prompt": "easy", "item": "2", "value": 1.0},
                {"model": "new", "prompt": "easy", "item": "2", "value": 1.0},
            ]
        )

        row = compare(scores)

        assert (row.pair_count, row.baseline_mean, row.treatment_mean) == (2, 1.0, 0.5)

    def test_prompt_variants_can_be_the_arms(self, table: Build) -> None:
        scores = table(
            [
                {"model": model, "prompt": prompt, "item": str(i), "value": float(i < right)}
                for model, (a, b) in {"m1": (3, 6), "m2": (5, 6)}.items()
                for prompt, right in (("plain", a), ("cot", b))
                for i in range(10)
            ]
        )

        (row,) = paired_compare(
            scores, compare="prompt_variant_id", baseline="plain", treatment="cot"
        )
        by_model = paired_compare(
            scores, compare="prompt_variant_id", baseline="plain", group_by="model_id"
        )

        assert row.pair_count == 10
        assert row.delta_mean == pytest.approx(0.2)
        assert [r.delta_mean for r in by_model] == pytest.approx([0.3, 0.1])

    def test_samples_are_averaged_before_pairing(self, table: Build) -> None:
        case = GOLDEN["signflip_lattice_60x4"]
        rows = [
            {"model": model, "item": str(i), "sample": s, "value": float(s < 4 * value)}
            for model, key in (("base", "baseline"), ("new", "treatment"))
            for i, value in enumerate(case["input"][key])
            for s in range(4)
        ]

        row = compare(table(rows), method="sign_flip")

        agree(
            row,
            "signflip_lattice_60x4",
            "pair_count baseline_mean treatment_mean delta_mean p_value",
        )
        assert row.test == "sign_flip_exact"

    def test_the_same_item_id_in_two_slices_is_two_items(self, table: Build) -> None:
        scores = table(
            [
                {"model": m, "slice": s, "item": "1", "value": v}
                for m, s, v in (
                    ("base", "x", 0.0), ("new", "x", 1.0), ("base", "y", 1.0), ("new", "y", 1.0),
                )
            ]
        )  # fmt: skip

        row = compare(scores, group_by=None)

        assert (row.pair_count, row.wins, row.ties) == (2, 1, 1)


class TestFamilies:
    """One call is one family, whoever its members are."""

    def test_the_family_spans_groups_metrics_and_treatments(self, table: Build) -> None:
        rng = np.random.default_rng(0)
        scores = table(
            [
                {"model": m, "slice": s, "metric": k, "item": str(i),
                 "value": float(rng.random() < 0.4 + 0.1 * int(m))}
                for m in "012" for s in "xy" for k in ("em", "f1") for i in range(40)
            ]
        )  # fmt: skip

        rows = paired_compare(scores, baseline="0", p_value_correction="bonferroni")

        assert len(rows) == 8
        assert {row.family_size for row in rows} == {8}
        for row in rows:
            assert row.p_value is not None
            assert row.adjusted_p_value == pytest.approx(min(1.0, 8 * row.p_value))

    def test_each_comparison_is_what_it_would_be_alone(self, table: Build) -> None:
        rng = np.random.default_rng(3)
        scores = table(
            [
                {"model": m, "slice": s, "item": str(i), "value": float(rng.random())}
                for m in "abc" for s in "xy" for i in range(24)
            ],
            item_dimensions={"document": {str(i): str(i // 3) for i in range(24)}},
        )  # fmt: skip

        for method in ("auto", "sign_flip", "bootstrap", "bca"):
            together = paired_compare(
                scores, baseline="a", cluster_by="document", method=method, n_resamples=300
            )
            for row in together:
                (alone,) = paired_compare(
                    scores.where(scores.slice == scores.slices.index(str(row.keys["slice_id"]))),
                    baseline="a",
                    treatment=row.treatment,
                    cluster_by="document",
                    method=method,
                    n_resamples=300,
                )
                assert alone.p_value == pytest.approx(row.p_value)
                assert alone.ci_lower == pytest.approx(row.ci_lower)
                assert alone.df == pytest.approx(row.df)
                assert alone.cluster_count == 8

    def test_arms_default_as_documented(self, table: Build) -> None:
        scores = table(
            [{"model": m, "item": str(i), "value": float(i % 2)} for m in "cab" for i in range(4)]
        )

        def named(**asked: Any) -> list[tuple[str, str]]:
            return [(row.baseline, row.treatment) for row in paired_compare(scores, **asked)]

        assert named() == [("a", "b"), ("a", "c"), ("b", "c")]
        assert named(baseline="b") == [("b", "a"), ("b", "c")]
        assert named(treatment="b") == [("a", "b"), ("c", "b")]
        assert named(baseline="a", treatment=["c", "b"]) == [("a", "c"), ("a", "b")]

    def test_a_simultaneous_interval_is_wider(self, table: Build) -> None:
        rng = np.random.default_rng(1)
        scores = table(
            [
                {"model": m, "item": str(i), "value": float(rng.random())}
                for m in "abc" for i in range(30)
            ]
        )  # fmt: skip

        alone = paired_compare(scores, baseline="a", ci_level=0.975)
        joint = paired_compare(scores, baseline="a", ci_adjust="bonferroni", ci_level=0.95)

        assert [row.ci_lower for row in joint] == pytest.approx([row.ci_lower for row in alone])
        assert {row.ci_adjust for row in joint} == {"bonferroni"}

    def test_selected_intervals_are_widened_for_their_selection(self, table: Build) -> None:
        rng = np.random.default_rng(4)
        scores = table(
            [
                {"model": m, "slice": str(s), "item": str(i),
                 "value": float(rng.normal(s if m == "new" else 0))}
                for m in ("base", "new") for s in range(4) for i in range(30)
            ]
        )  # fmt: skip

        def rows(**asked: Any) -> list[PairedRow]:
            return paired_compare(scores, baseline="base", p_value_correction="bh", **asked)

        plain, widened, reference = rows(), rows(ci_adjust="fcr"), rows(ci_level=1 - 0.05 * 3 / 4)

        assert [row.verdict for row in widened] == ["inconclusive", *["better"] * 3]
        assert widened[0].ci_lower == plain[0].ci_lower
        for row, wide in zip(widened[1:], reference[1:], strict=True):
            assert row.ci_lower == pytest.approx(wide.ci_lower)
            assert row.ci_upper == pytest.approx(wide.ci_upper)

    def test_few_draws_for_a_large_family_are_flagged(self, table: Build) -> None:
        rng = np.random.default_rng(2)
        scores = table(
            [
                {"model": m, "slice": str(s), "item": str(i), "value": float(rng.normal())}
                for m in ("base", "new") for s in range(10) for i in range(25)
            ]
        )  # fmt: skip

        few = paired_compare(scores, baseline="base", method="sign_flip", n_resamples=99)
        many = paired_compare(scores, baseline="base", method="sign_flip", n_resamples=999)

        assert all("mc_floor" in row.flags for row in few)
        assert not any("mc_floor" in row.flags for row in many)


class TestVerdicts:
    """Better, worse, equivalent or inconclusive; and what could have been seen."""

    def test_inside_the_margin_is_equivalent(self, pairs: Build) -> None:
        d = GOLDEN["tost_paired_pm03"]["input"]["differences"]
        base = np.linspace(0.3, 0.6, len(d))

        row = compare(pairs(base, base + np.array(d)), margin=0.03)
        tight = compare(pairs(base, base + np.array(d)), margin=0.01)

        golden = GOLDEN["tost_paired_pm03"]["expected"]
        assert row.p_equivalence == pytest.approx(golden["p_value"])
        assert (row.verdict, row.not_inferior) == ("equivalent", True)
        assert tight.verdict == "inconclusive"

    def test_right_and_wrong_can_be_equivalent_too(self, pairs: Build) -> None:
        values = [1.0] * 600 + [0.0] * 400

        row = compare(pairs(values, [*values[5:], *values[:5]]), margin=0.05)

        assert row.verdict == "equivalent"
        assert row.p_equivalence is not None
        assert row.p_equivalence < 0.01

    def test_equivalence_of_right_and_wrong_rests_on_the_interval_shown(self, pairs: Build) -> None:
        b, t = [0.0] * 4 + [1.0] * 2 + [1.0] * 34, [1.0] * 4 + [0.0] * 2 + [1.0] * 34

        row = compare(pairs(b, t), margin=0.2, ci_level=0.9)
        at = compare(pairs(b, t), margin=0.2, ci_level=0.95)

        z = (0.2 - 2 / 42) / (row.stderr or 0)
        assert at.p_equivalence == pytest.approx(0.5 * erfc(z / 2**0.5))
        assert row.ci_upper is not None
        assert (row.ci_upper < 0.2) == (at.verdict == "equivalent")

    def test_the_corrected_p_decides(self, table: Build) -> None:
        scores = table(
            [
                {"model": m, "slice": str(s), "item": str(i), "value": float(v)}
                for s in range(5)
                for i in range(30)
                for m, v in (("base", 0), ("new", i < (6 if s == 0 else 0)))
            ]
        )

        plain = paired_compare(scores, baseline="base")[0]
        corrected = paired_compare(scores, baseline="base", p_value_correction="bonferroni")[0]

        assert plain.p_value == corrected.p_value == pytest.approx(2 / 2**6 / 2)
        assert (plain.verdict, corrected.verdict) == ("better", "inconclusive")

    def test_a_losing_treatment_is_worse_and_may_be_inferior(self, pairs: Build) -> None:
        row = compare(pairs([1.0] * 40, [0.0] * 20 + [1.0] * 20), margin=0.1)

        assert (row.verdict, row.not_inferior) == ("worse", False)

    def test_mde_is_what_the_power_formula_says(self, pairs: Build) -> None:
        rng = np.random.default_rng(5)

        row = compare(pairs(rng.random(50), rng.random(50)))

        assert row.stderr is not None
        assert row.mde == pytest.approx((1.959963984540054 + 0.8416212335729143) * row.stderr)

    def test_few_differing_items_are_flagged(self, pairs: Build) -> None:
        row = compare(pairs([0.0] * 20, [1.0] * 5 + [0.0] * 15))

        assert "low_information" in row.flags


class TestRefusals:
    """What makes no sense is refused in words."""

    def test_unknown_names_are_listed(self, pairs: Build) -> None:
        scores = pairs([1, 0], [0, 1])

        for asked, words in (
            ({"baseline": "x"}, "known: base, new"),
            ({"baseline": "base", "metric_id": "x"}, "known: default"),
            ({"baseline": "base", "group_by": "x"}, "known keys: model_id"),
            ({"baseline": "base", "method": "z"}, "known: auto, mcnemar_midp"),
            ({"baseline": "base", "p_value_correction": "z"}, "known: none, bonferroni"),
            ({"baseline": "base", "ci_adjust": "z"}, "known: none, bonferroni, fcr"),
            ({"baseline": "base", "compare": "slice_id"}, "known: model_id, prompt_variant_id"),
        ):
            with pytest.raises(ValueError, match=words):
                paired_compare(scores, **asked)  # type: ignore[arg-type]

    def test_a_model_cannot_be_compared_with_itself(self, pairs: Build) -> None:
        with pytest.raises(ValueError, match="nothing to compare"):
            paired_compare(pairs([1], [1]), baseline="base", treatment="base")

    def test_arms_cannot_be_groups(self, pairs: Build) -> None:
        with pytest.raises(ValueError, match="cannot group"):
            paired_compare(pairs([1], [1]), group_by="model_id")

    def test_methods_that_do_not_fit_are_refused(self, pairs: Build) -> None:
        with pytest.raises(ValueError, match="needs scores of 0 and 1"):
            compare(pairs([0.5, 1], [1, 0]), method="tango")
        with pytest.raises(ValueError, match="with clusters use auto"):
            compare(pairs([0, 1], [1, 0]), method="paired_t", cluster_by="item_id")
        with pytest.raises(ValueError, match="margin must be above 0"):
            compare(pairs([0, 1], [1, 0]), margin=0)


unit = st.floats(0, 1).map(lambda x: round(x, 3))
both = st.lists(st.tuples(unit, unit), min_size=2, max_size=25)


class TestProperties:
    """Algebra of comparisons, on any scores."""

    @settings(max_examples=60)
    @given(both)
    def test_swapping_the_models_negates_and_keeps_p(self, pairs: Build, data: Any) -> None:
        b, t = np.array(data).T
        there = compare(pairs(b, t))

        back = compare(pairs(t, b))

        assert there.p_value == pytest.approx(back.p_value)
        assert there.method == back.method
        assert there.delta_mean == pytest.approx(-(back.delta_mean or 0), abs=1e-12)
        if there.ci_lower is not None and back.ci_upper is not None:
            assert there.ci_lower == pytest.approx(-back.ci_upper, abs=1e-9)

    @settings(max_examples=40)
    @given(both, st.integers(0, 2**32 - 1))
    def test_the_order_of_rows_does_not_matter(self, pairs: Build, data: Any, seed: int) -> None:
        scores = pairs(*np.array(data).T)
        order = np.random.default_rng(seed).permutation(scores.rows)
        columns = [
            "model",
            "slice",
            "prompt",
            "param",
            "metric",
            "evaluation",
            "item",
            "sample",
            "value",
            "status",
        ]

        shuffled = replace(scores, **{name: getattr(scores, name)[order] for name in columns})

        one, two = compare(scores), compare(shuffled)
        assert (one.method, one.pair_count, one.wins) == (two.method, two.pair_count, two.wins)
        assert one.p_value == pytest.approx(two.p_value, rel=1e-9)
        assert one.delta_mean == pytest.approx(two.delta_mean, abs=1e-12)

    @given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(0, 50))
    @settings(max_examples=40)
    def test_items_on_which_both_agree_leave_mcnemar_alone(
        self, pairs: Build, wins: int, losses: int, agree: int, more: int
    ) -> None:
        def row(same: int) -> PairedRow:
            b = [0.0] * wins + [1.0] * losses + [1.0] * (same + 1)
            t = [1.0] * wins + [0.0] * losses + [1.0] * (same + 1)
            return compare(pairs(b, t))

        assert row(agree).p_value == row(agree + more).p_value

    @settings(max_examples=40)
    @given(both, st.floats(-3, 3), st.floats(0.25, 4), st.sampled_from(["auto", "sign_flip"]))
    def test_other_units_scale_the_difference_and_keep_p(
        self, pairs: Build, data: Any, shift: float, scale: float, method: str
    ) -> None:
        b, t = np.array(data).T + 0.125  # away from 0/1, where auto would change its test
        plain = compare(pairs(b, t), method=method)

        scaled = compare(pairs(shift + scale * b, shift + scale * t), method=method)

        if plain.delta_mean is not None and abs(plain.delta_mean) > 1e-6 and plain.df is not None:
            assert scaled.delta_mean == pytest.approx(scale * plain.delta_mean, rel=1e-6)
            assert scaled.p_value == pytest.approx(plain.p_value, rel=1e-4, abs=1e-9)

    @settings(max_examples=30)
    @given(both, st.sampled_from([m for m in PAIRED_METHODS if not m.startswith("mc")]))
    def test_p_is_never_0_and_nothing_is_nan(self, pairs: Build, data: Any, method: Any) -> None:
        b, t = np.array(data).T + 0.001
        if method in ("tango", "newcombe"):
            b, t = np.rint(b), np.rint(t)

        row = compare(pairs(b, t), method=method, n_resamples=99)

        assert row.p_value is None or 0 < row.p_value <= 1
        json.dumps(row.to_dict(), allow_nan=False)


def test_failures_on_one_side_are_not_scored_as_zero(pairs: Build) -> None:
    row = compare(pairs([1, 1, 1, 0], [float("nan"), 1, 1, 0]))

    assert row.delta_mean == 0
    assert row.unpaired_baseline == 1
    assert ScoreStatus.GENERATION_FAILED.label == "generation_failed"
