"""May NEW take the place of BASE? Rules in, one verdict out.

Each rule is a one-sided question with a threshold: is the difference (or the mean) on its good
side? Evidence for it passes, evidence against it fails, and too little of either is
inconclusive. The good side of a difference is above, and below for a metric that is better when
lower. The gate passes when every rule does and fails when one fails.

All rules must pass, so passing needs no correction: a gate that should not pass does so with
probability at most 1 - confidence, however many rules it has (the intersection-union test;
R. L. Berger 1982, Technometrics 24:295-300). One failure is enough to fail, so the p-values of
failing are corrected over every test of the policy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, sqrt
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.special import ndtr

from themis.records.metric_scale import gain
from themis.records.score_table import ScoreTable
from themis.results.aggregate import AggregateRow, aggregate
from themis.results.comparability import Comparability, verdict_of
from themis.results.compare import PairedRow
from themis.results.gate_policy import (
    Compared,
    GatePolicy,
    MaxShare,
    MinValue,
    NoRegression,
    Superior,
)
from themis.results.two_runs import ModelPair, compare_runs
from themis.statistics.equivalence import tost
from themis.statistics.multiplicity import adjust_p_values

Verdict: TypeAlias = Literal["pass", "fail", "inconclusive"]
Side: TypeAlias = Literal["above", "below"]

EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "inconclusive": 2}

_OTHER_SIDE: Mapping[Side, Side] = {"above": "below", "below": "above"}
_ALLOWED = {"comparable": 0, "caution": 1, "any": 2}
_WORST = {"comparable": 0, "caution": 1, "not comparable": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found about one group.

    Attributes:
        rule: The rule's name.
        check: What it checks.
        keys: The group: key name to value.
        verdict: Whether it holds.
        reason: Why, in a sentence.
        estimate: The difference NEW - BASE, the mean of NEW, or the share.
        ci_lower: Lower end of the interval whose ends are the one-sided bounds.
        ci_upper: Its upper end.
        ci_level: Its coverage: 1 - 2 (1 - confidence).
        threshold: What the estimate is compared with.
        good_side: On which side of the threshold the rule holds.
        p_pass: Against "not on the good side"; None where there is no test.
        p_fail: Against "not on the other side".
        p_fail_adjusted: The same, corrected over every test of the policy.
        n_planned: Scores of NEW (or items of both runs) that were planned.
        n_used: Those that the estimate rests on.
    """

    rule: str
    check: str
    keys: Mapping[str, str | None]
    verdict: Verdict
    reason: str
    estimate: float | None
    ci_lower: float | None
    ci_upper: float | None
    ci_level: float
    threshold: float
    good_side: Side
    p_pass: float | None
    p_fail: float | None
    p_fail_adjusted: float | None
    n_planned: int
    n_used: int


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict of a gate.

    Attributes:
        verdict: "pass", "fail" or "inconclusive".
        reason: Why it is not the verdict of the rules, if it is not; else empty.
        findings: What every rule found.
        comparability: Whether the runs may be compared, without the expected differences.
    """

    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...]
    comparability: Comparability

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 2 inconclusive."""
        return EXIT_CODES[self.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "findings": [asdict(finding) for finding in self.findings],
            "comparability": self.comparability.to_dict(),
        }


def judge(
    policy: GatePolicy,
    base: ScoreTable,
    new: ScoreTable,
    comparability: Comparability,
    *,
    models: Sequence[ModelPair] | None = None,
) -> GateReport:
    """Judge two runs by a policy.

    Args:
        policy: The rules.
        base: The scores of the run in place, with the keys that the rules name.
        new: The scores of the run that may take its place.
        comparability: How the two came about.
        models: Which models to pair; None pairs equal names.

    Raises:
        ValueError: A rule names a metric, slice, model or key that the runs do not have; the
            message begins with the rule's place in the policy.
    """
    findings: list[Finding] = []
    for place, rule in enumerate(policy.rules):
        try:
            match rule:
                case MaxShare():
                    findings += _share(rule, new, policy)
                case MinValue():
                    findings += _mean(rule, new, policy)
                case _:
                    findings += _difference(rule, base, new, policy, models)
        except ValueError as error:
            raise ValueError(f"rules[{place}]: {error}") from error
    findings = _correct(findings, policy)
    seen = without(comparability, policy.expected_differences)
    verdict = _overall(findings)
    reason = ""
    compares = any(not isinstance(rule, MinValue | MaxShare) for rule in policy.rules)
    if (
        compares
        and verdict != "inconclusive"
        and _WORST[seen.verdict] > _ALLOWED[policy.comparability]
    ):
        fields = ", ".join(d.field for d in seen.differences if d.severity != "informational")
        reason = f"the rules say {verdict}, but the runs are {seen.verdict}: {fields}"
        verdict = "inconclusive"
    return GateReport(verdict, reason, tuple(findings), seen)


def without(comparability: Comparability, expected: Sequence[str]) -> Comparability:
    """Leave out the differences that are meant to be, and judge the others."""
    left = tuple(
        entry
        for entry in comparability.differences
        if entry.field.rpartition(": ")[2] not in expected
    )
    return replace(comparability, differences=left, verdict=verdict_of(left))


def keys_of(policy: GatePolicy) -> tuple[str, ...]:
    """Name the keys that the rules need of a score table."""
    keys = [name for rule in policy.rules for name in rule.group_by]
    keys += [
        rule.cluster_by
        for rule in policy.rules
        if not isinstance(rule, MaxShare) and rule.cluster_by is not None
    ]
    return tuple(dict.fromkeys(keys))


def _overall(findings: Sequence[Finding]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"


def _name(rule: Compared | MinValue | MaxShare) -> str:
    what = f"of {rule.of}" if isinstance(rule, MaxShare) else rule.metric
    return rule.name or f"{rule.check} {what}"


def _chosen(table: ScoreTable, rule: Compared | MinValue | MaxShare) -> ScoreTable:
    """Keep the rows of the slices (and of NEW's models) that a rule is about."""
    for wanted, labels, codes, what in (
        (rule.slices, table.slices, table.slice, "slice"),
        (rule.models, table.models, table.model, "model"),
    ):
        if wanted is None:
            continue
        unknown = sorted(set(wanted) - set(labels))
        if unknown:
            raise ValueError(f"no {what} {unknown[0]!r} in the run; known: {', '.join(labels)}")
        table = table.where(np.isin(codes, [labels.index(name) for name in wanted]))
    return table


def _share(rule: MaxShare, new: ScoreTable, policy: GatePolicy) -> Iterator[Finding]:
    for row in _aggregated(rule, new, policy):
        counts = {
            "failed": row.n_failed,
            "missing": row.n_missing,
            "absent": row.n_failed + row.n_missing,
            "unreadable": row.n_unreadable,
        }
        found = counts[rule.of]
        share = found / row.n_planned
        verdict: Verdict = "pass" if share <= rule.value else "fail"
        yield Finding(
            rule=_name(rule),
            check=rule.check,
            keys=row.keys,
            verdict=verdict,
            reason=f"{found:,} of {row.n_planned:,} planned scores are {rule.of}",
            estimate=share,
            ci_lower=None,
            ci_upper=None,
            ci_level=_level(policy),
            threshold=rule.value,
            good_side="below",
            p_pass=None,
            p_fail=None,
            p_fail_adjusted=None,
            n_planned=row.n_planned,
            n_used=row.n_planned,
        )


def _mean(rule: MinValue, new: ScoreTable, policy: GatePolicy) -> Iterator[Finding]:
    for row in _aggregated(rule, new, policy):
        hidden = ""
        if rule.absent == "bound" and row.bound_lower is not None and row.bound_lower < rule.value:
            absent = row.n_failed + row.n_missing
            hidden = f"{absent:,} absent scores could lower the mean to {row.bound_lower:.4f}"
        evidence = _Evidence(
            row.mean, row.ci_lower, row.ci_upper, rule.value, "above",
            *_p_of_mean(row, rule.value),
        )  # fmt: skip
        yield _tested(rule, row.keys, evidence, policy, (row.n_planned, row.n_scored), hidden)


def _aggregated(
    rule: MinValue | MaxShare, new: ScoreTable, policy: GatePolicy
) -> list[AggregateRow]:
    keys = tuple(dict.fromkeys(("model_id", *rule.group_by)))
    return aggregate(
        _chosen(new, rule),
        keys,
        metric_id=rule.metric,
        evaluation=rule.evaluation,
        ci_level=_level(policy),
        cluster_by=rule.cluster_by if isinstance(rule, MinValue) else None,
    )


def _difference(
    rule: Compared,
    base: ScoreTable,
    new: ScoreTable,
    policy: GatePolicy,
    models: Sequence[ModelPair] | None,
) -> Iterator[Finding]:
    if rule.models is not None and models is not None:
        models = [pair for pair in models if pair[1] in rule.models]
    elif rule.models is not None:
        models = [(name, name) for name in rule.models]
    about = rule.model_copy(update={"models": None})
    rows = compare_runs(
        _chosen(base, about),
        _chosen(new, about),
        models=models,
        metric_id=rule.metric,
        evaluation=rule.evaluation,
        group_by=rule.group_by,
        ci_level=_level(policy),
        cluster_by=rule.cluster_by,
    )
    for row in rows:
        sign = gain(row.direction)
        if not sign:
            raise ValueError(
                f"{rule.metric} is neither better when higher nor when lower, so {rule.check} "
                "cannot judge it"
            )
        threshold = sign * (rule.margin if isinstance(rule, Superior) else -rule.margin)
        worst = row.delta_lower_bound if sign > 0 else row.delta_upper_bound
        hidden = ""
        if rule.absent == "bound" and _absent_overturns(rule, row, worst, threshold, policy):
            absent = row.n_planned - row.pair_count
            hidden = f"{absent:,} items without both scores could move it to {worst:+.4f}"
        above, below = _p_of_difference(row, threshold)
        evidence = _Evidence(
            row.delta_mean, row.ci_lower, row.ci_upper, threshold,
            *(("above", above, below) if sign > 0 else ("below", below, above)),
        )  # fmt: skip
        yield _tested(rule, row.keys, evidence, policy, (row.n_planned, row.pair_count), hidden)


def _absent_overturns(
    rule: Compared, row: PairedRow, worst: float | None, threshold: float, policy: GatePolicy
) -> bool:
    """Whether the worst that absent scores allow is on the bad side (or shown to be)."""
    if worst is None or row.pair_count == row.n_planned:
        return False
    short = gain(row.direction) * (worst - threshold)
    if not isinstance(rule, NoRegression) or row.stderr is None:
        return short < 0
    _, bad = _p_by_t(short, row.stderr, inf if row.df is None else row.df, 0.0)
    return bad <= 1 - policy.confidence


@dataclass(frozen=True, slots=True)
class _Evidence:
    """An estimate, its interval, and the p-values for either side of a threshold."""

    estimate: float | None
    lower: float | None
    upper: float | None
    threshold: float
    good_side: Side
    p_good: float | None
    p_bad: float | None


def _tested(
    rule: Compared | MinValue,
    keys: Mapping[str, str | None],
    found: _Evidence,
    policy: GatePolicy,
    counts: tuple[int, int],
    hidden: str,
) -> Finding:
    """Make a finding; failing is decided later, when the family is known."""
    if found.p_good is None:
        passes, reason = False, "too few scores to tell"
    else:
        passes = isinstance(rule, NoRegression) or found.p_good <= 1 - policy.confidence
        reason = hidden if passes else ""
    return Finding(
        rule=_name(rule),
        check=rule.check,
        keys=keys,
        verdict="pass" if passes and not hidden else "inconclusive",
        reason=reason,
        estimate=found.estimate,
        ci_lower=found.lower,
        ci_upper=found.upper,
        ci_level=_level(policy),
        threshold=found.threshold,
        good_side=found.good_side,
        p_pass=found.p_good,
        p_fail=found.p_bad,
        p_fail_adjusted=None,
        n_planned=counts[0],
        n_used=counts[1],
    )


def _correct(findings: Sequence[Finding], policy: GatePolicy) -> list[Finding]:
    """Let fail what is on the bad side beyond doubt, corrected over all tests."""
    p_values = [np.nan if f.p_fail is None else f.p_fail for f in findings]
    adjusted = adjust_p_values(p_values, policy.correction)
    alpha = 1 - policy.confidence
    done = []
    for finding, p in zip(findings, adjusted.tolist(), strict=True):
        if finding.p_fail is None:
            done.append(finding)
            continue
        verdict: Verdict = "fail" if p <= alpha else finding.verdict
        reason = finding.reason if verdict == finding.verdict else ""
        done.append(
            replace(
                finding, verdict=verdict, p_fail_adjusted=p, reason=reason or _say(finding, verdict)
            )
        )
    return done


def _say(finding: Finding, verdict: Verdict) -> str:
    sign = "" if finding.check == "min_value" else "+"
    threshold = f"{finding.threshold:{sign}g}"
    if verdict == "inconclusive":
        return f"may be above or below {threshold}"
    if finding.check == "no_regression" and verdict == "pass":
        return f"not shown to be {_OTHER_SIDE[finding.good_side]} {threshold}"
    side = finding.good_side if verdict == "pass" else _OTHER_SIDE[finding.good_side]
    return f"shown to be {side} {threshold}"


def _level(policy: GatePolicy) -> float:
    return 1 - 2 * (1 - policy.confidence)


def _p_of_difference(row: PairedRow, threshold: float) -> tuple[float | None, float | None]:
    """Return the p-values for "above" and "below" the threshold.

    Differences of 0/1 scores are tested with the error and the centre of the Bonett-Price
    interval (D. G. Bonett and R. M. Price 2012, J. Educational and Behavioral Statistics
    37:479-488), others with their t test, so that the interval's ends and the tests agree.
    """
    if row.delta_mean is None:
        return None, None
    if row.stderr is None:
        return _p_without_spread(row.delta_mean, row.pair_count, threshold)
    centre, df = row.delta_mean, row.df
    if row.effect_size_name == "mcnemar_odds_ratio":
        centre, df = (row.wins - row.losses) / (row.pair_count + 2), inf
    return _p_by_t(centre, row.stderr, inf if df is None else df, threshold)


def _p_of_mean(row: AggregateRow, threshold: float) -> tuple[float | None, float | None]:
    """Return the p-values for a mean "above" and "below" the threshold.

    A share is tested by its score test, whose inversion is the Wilson interval.
    """
    if row.mean is None:
        return None, None
    if row.method == "wilson" and 0 < threshold < 1:
        error = sqrt(threshold * (1 - threshold) / row.item_count)
        z = (row.mean - threshold) / error
        return float(ndtr(-z)), float(ndtr(z))
    if row.stderr is None or row.stderr == 0 or row.df is None:
        return _p_without_spread(row.mean, row.item_count, threshold)
    return _p_by_t(row.mean, row.stderr, row.df, threshold)


def _p_by_t(estimate: float, stderr: float, df: float, threshold: float) -> tuple[float, float]:
    test = tost(estimate - threshold, stderr, df, 0.0)
    return float(test.p_lower), float(test.p_upper)


def _p_without_spread(
    estimate: float, count: int, threshold: float
) -> tuple[float | None, float | None]:
    """Where all values are one: the chance that signs around the threshold agree so, 2^-n."""
    if count < 2:  # noqa: PLR2004 -- one value says nothing about others
        return None, None
    rare = 0.5**count
    if estimate == threshold:
        return 1.0, 1.0
    return (rare, 1.0) if estimate > threshold else (1.0, rare)
