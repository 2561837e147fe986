"""A gate passes, fails, or says that it cannot tell; never by leaving something out."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from themis.errors import SpecValidationError
from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.comparability import Comparability, Difference, verdict_of
from themis.results.gate import GateReport, judge
from themis.results.gate_policy import GatePolicy, load_policy
from themis.results.two_runs import compare_runs

Build = Callable[..., ScoreTable]

SAME = Comparability("a", "b", "comparable", ())


def scores(table: Build, values: Any, **same: Any) -> ScoreTable:
    return table(
        [
            {"model": "m", "metric": "acc", "item": str(item), **same}
            | ({"status": ScoreStatus.GENERATION_FAILED} if np.isnan(value) else {"value": value})
            for item, value in enumerate(values)
        ]
    )


def policy(*rules: dict[str, Any], **more: Any) -> GatePolicy:
    return GatePolicy.model_validate(
        {"rules": [{"metric": "acc", **rule} for rule in rules]} | more
    )


def verdict(report: GateReport) -> tuple[str, int]:
    return report.verdict, report.exit_code


def shifted(n: int, share: float, better: int) -> tuple[list[float], list[float]]:
    """Return n base scores, of which `share` are 1, and the same with some more (or fewer)."""
    base = [1.0] * int(n * share) + [0.0] * (n - int(n * share))
    new = list(base)
    for place in range(abs(better)):
        new[(-1 - place) if better > 0 else place] = float(better > 0)
    return base, new


@pytest.mark.parametrize(
    ("check", "margin", "better", "expected"),
    [
        ("non_inferior", 0.05, 0, ("pass", 0)),
        ("non_inferior", 0.05, -20, ("inconclusive", 2)),
        ("non_inferior", 0.05, -60, ("fail", 1)),
        ("superior", 0.0, 20, ("pass", 0)),
        ("superior", 0.0, 1, ("inconclusive", 2)),
        ("superior", 0.0, -20, ("fail", 1)),
        ("superior", 0.05, 20, ("inconclusive", 2)),
        ("no_regression", 0.0, 0, ("pass", 0)),
        ("no_regression", 0.0, -1, ("pass", 0)),
        ("no_regression", 0.0, -20, ("fail", 1)),
        ("no_regression", 0.05, -20, ("pass", 0)),
    ],
)
def test_a_difference_passes_fails_or_is_too_close_to_tell(
    table: Build, check: str, margin: float, better: int, expected: tuple[str, int]
) -> None:
    base, new = shifted(500, 0.5, better)
    rule = {"check": check, "margin": margin}

    report = judge(policy(rule), scores(table, base), scores(table, new), SAME)

    assert verdict(report) == expected
    (finding,) = report.findings
    assert finding.estimate == pytest.approx(better / 500)
    assert finding.reason


def test_the_interval_and_the_verdict_never_disagree(table: Build) -> None:
    """Its ends are the one-sided bounds, for 0/1 scores and for others."""
    rng = np.random.default_rng(5)
    for trial in range(60):
        base = rng.integers(0, 2, 80).astype(float)
        new = np.where(rng.random(80) < 0.15, 1 - base, base)
        if trial % 2:
            base, new = base + rng.random(80), new + rng.random(80)
        rule = {"check": "non_inferior", "margin": 0.04}
        (finding,) = judge(policy(rule), scores(table, base), scores(table, new), SAME).findings
        assert finding.ci_lower is not None
        assert finding.ci_upper is not None

        expected = (
            "pass" if finding.ci_lower > -0.04 else "fail" if finding.ci_upper < -0.04
            else "inconclusive"
        )  # fmt: skip
        assert finding.verdict == expected


@pytest.mark.parametrize("binary", [True, False])
def test_the_interval_at_the_level_of_the_p_value_ends_at_the_limit(
    table: Build, *, binary: bool
) -> None:
    base, new = (np.array(side) for side in shifted(100, 0.6, -2))
    if not binary:
        new = new + np.linspace(0, 0.2, 100)
    (finding,) = judge(
        policy({"check": "non_inferior", "margin": 0.05}),
        scores(table, base),
        scores(table, new),
        SAME,
    ).findings
    assert finding.p_pass is not None

    (row,) = compare_runs(scores(table, base), scores(table, new), ci_level=1 - 2 * finding.p_pass)

    assert row.ci_lower == pytest.approx(-0.05)


@pytest.mark.parametrize("binary", [True, False])
def test_a_loss_of_the_margin_passes_at_most_one_time_in_twenty(
    table: Build, *, binary: bool
) -> None:
    """400 simulated runs; the bound is 5 % and three standard errors of the simulation."""
    rng = np.random.default_rng(11)
    passed = 0
    for _ in range(400):
        base = (rng.random(150) < 0.7).astype(float)
        new = (
            np.where(rng.random(150) < 0.1 / 0.7, 0.0, base)
            if binary
            else (base - 0.1 + rng.normal(0, 0.3, 150))
        )
        rule = {"check": "non_inferior", "margin": 0.1}
        report = judge(policy(rule), scores(table, base), scores(table, new), SAME)
        passed += report.verdict == "pass"

    assert passed / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize(("right", "expected"), [(90, "pass"), (80, "inconclusive"), (60, "fail")])
def test_a_mean_must_be_shown_to_reach_its_value(table: Build, right: int, expected: str) -> None:
    new = scores(table, [1.0] * right + [0.0] * (100 - right))

    report = judge(policy({"check": "min_value", "value": 0.75}), new, new, SAME)

    assert report.verdict == expected
    (finding,) = report.findings
    assert finding.ci_lower is not None
    assert (finding.ci_lower > 0.75) == (expected == "pass")


@pytest.mark.parametrize(
    ("of", "value", "expected"),
    [
        ("failed", 0.2, "pass"), ("failed", 0.19, "fail"), ("missing", 0.0, "pass"),
        ("absent", 0.1, "fail"), ("unreadable", 0.1, "pass"),
    ],
)  # fmt: skip
def test_a_share_of_what_was_planned_is_counted_not_tested(
    table: Build, of: str, value: float, expected: str
) -> None:
    new = scores(table, [np.nan] * 2 + [1.0] * 8)

    report = judge(policy({"check": "max_share", "of": of, "value": value}), new, new, SAME)

    assert report.verdict == expected
    assert report.findings[0].n_planned == 10


def test_a_rule_does_not_pass_while_absent_scores_could_overturn_it(table: Build) -> None:
    base, _ = shifted(1000, 0.6, 0)
    gone = [*[np.nan] * 100, *base[100:]]
    bound = {"check": "non_inferior", "margin": 0.02}

    report = judge(policy(bound), scores(table, base), scores(table, gone), SAME)
    ignoring = judge(
        policy({**bound, "absent": "ignore"}), scores(table, base), scores(table, gone), SAME
    )

    assert verdict(report) == ("inconclusive", 2)
    assert report.findings[0].reason.startswith("100 items without both scores could move it to -")
    assert ignoring.verdict == "pass"


def test_absent_scores_that_would_be_a_regression_leave_no_regression_open(table: Build) -> None:
    base, _ = shifted(1000, 0.6, 0)
    gone = [*[np.nan] * 100, *base[100:]]

    report = judge(
        policy({"check": "no_regression"}), scores(table, base), scores(table, gone), SAME
    )

    assert report.verdict == "inconclusive"


def test_every_group_and_model_is_judged_alone_and_one_failure_fails(table: Build) -> None:
    def run(second: float) -> ScoreTable:
        return table(
            [
                {"model": model, "metric": "acc", "slice": part, "item": str(item),
                 "value": second if (model, part) == ("b", "hard") else float(item % 2)}
                for model in ("a", "b")
                for part in ("easy", "hard")
                for item in range(200)
            ]
        )  # fmt: skip

    rule = {"check": "non_inferior", "margin": 0.1, "group_by": ["slice_id"]}

    report = judge(policy(rule), run(1.0), run(0.0), SAME)
    easy = judge(policy({**rule, "slices": ["easy"]}), run(1.0), run(0.0), SAME)
    first = judge(policy({**rule, "models": ["a"]}), run(1.0), run(0.0), SAME)

    assert verdict(report) == ("fail", 1)
    assert [(f.keys["model_id"], f.keys["slice_id"], f.verdict) for f in report.findings] == [
        ("a", "easy", "pass"), ("a", "hard", "pass"), ("b", "easy", "pass"), ("b", "hard", "fail"),
    ]  # fmt: skip
    assert (easy.verdict, len(easy.findings)) == ("pass", 2)
    assert (first.verdict, len(first.findings)) == ("pass", 2)


def test_failing_is_corrected_over_every_test_of_the_policy(table: Build) -> None:
    base, new = shifted(500, 0.5, -5)
    one = {"check": "no_regression"}
    many = [{**one, "name": f"again {number}"} for number in range(9)]

    alone = judge(policy(one), scores(table, base), scores(table, new), SAME)
    family = judge(policy(one, *many), scores(table, base), scores(table, new), SAME)

    assert alone.verdict == "fail"
    assert family.verdict == "pass"
    assert family.findings[0].p_fail_adjusted == pytest.approx(10 * (alone.findings[0].p_fail or 0))


def test_identical_runs_are_not_inferior_whatever_their_scores(table: Build) -> None:
    new = scores(table, np.linspace(0, 3, 50))

    report = judge(policy({"check": "non_inferior", "margin": 0.01}), new, new, SAME)

    assert report.verdict == "pass"


def test_a_run_without_scores_is_inconclusive(table: Build) -> None:
    base, new = scores(table, [1.0] * 5), scores(table, [np.nan] * 5)
    asked = policy({"check": "no_regression"}, {"check": "min_value", "value": 0.1})

    report = judge(asked, base, new, SAME)

    assert verdict(report) == ("inconclusive", 2)
    assert {finding.reason for finding in report.findings} == {"too few scores to tell"}


WEIGHTS = Difference("weights", "aa", "bb", "affects results", "another model")
GPU = Difference("gpu model", "A", "B", "may affect results", "rounding")


@pytest.mark.parametrize(
    ("differences", "more", "expected"),
    [
        ((GPU,), {}, "pass"),
        ((GPU,), {"comparability": "comparable"}, "inconclusive"),
        ((WEIGHTS,), {}, "inconclusive"),
        ((WEIGHTS,), {"comparability": "any"}, "pass"),
        ((WEIGHTS,), {"expected_differences": ["weights"]}, "pass"),
    ],
)
def test_runs_that_cannot_be_compared_neither_pass_nor_fail(
    table: Build, differences: tuple[Difference, ...], more: dict[str, Any], expected: str
) -> None:
    base, new = shifted(500, 0.5, 0)
    seen = Comparability("a", "b", verdict_of(differences), differences)
    asked = policy({"check": "non_inferior", "margin": 0.05}, **more)

    report = judge(asked, scores(table, base), scores(table, new), seen)

    assert report.verdict == expected
    if expected == "inconclusive":
        assert report.reason.startswith("the rules say pass, but the runs are ")
    share = {"check": "max_share", "of": "failed", "value": 0.0}
    counted = judge(policy(share, **more), scores(table, base), scores(table, new), seen)
    assert counted.verdict == "pass"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"metric": "speed"}, "rules[1]: no metric_id 'speed' in these results; known: acc"),
        ({"slices": ["nowhere"]}, "rules[1]: no slice 'nowhere' in the run; known: default"),
        ({"models": ["x"]}, "rules[1]: the base run has no model 'x'; it has: m"),
        ({"group_by": ["topic"]}, "rules[1]: cannot group by 'topic'; known keys: "),
    ],
)
def test_a_rule_about_what_the_runs_lack_is_named_by_its_place(
    table: Build, rule: dict[str, Any], problem: str
) -> None:
    new = scores(table, [1.0, 0.0])
    asked = policy({"check": "no_regression"}, {"check": "no_regression", **rule})

    with pytest.raises(ValueError, match=r"rules\[1\]") as caught:
        judge(asked, new, new, SAME)

    assert str(caught.value).startswith(problem)


def test_a_policy_with_mistakes_names_each_by_file_key_and_rule(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        "confidence = 0.4\n"
        '[[rules]]\ncheck = "non_inferior"\nmetric = "acc"\n'
        '[[rules]]\ncheck = "max_share"\nof = "lost"\nvalue = 0.1\nmargn = 1\n'
        '[[rules]]\ncheck = "vibes"\n'
    )

    with pytest.raises(SpecValidationError) as caught:
        load_policy(path)

    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} is not a valid GatePolicy:"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        "rules[0].non_inferior.margin", "rules[1].max_share.of", "rules[1].max_share.margn",
        "rules[2]", "confidence",
    ]  # fmt: skip


def test_the_policies_of_the_documentation_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "gate.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "policy.toml"

    for block in blocks:
        path.write_text(block)
        assert load_policy(path).rules

    assert len(blocks) == 2


def test_a_policy_without_rules_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("rules = []\n")

    with pytest.raises(SpecValidationError, match="rules: List should have at least 1 item"):
        load_policy(path)
