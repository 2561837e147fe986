"""Is one model (or prompt) better than another, on the same items?

    rows = paired_compare(table, baseline="base", treatment="tuned", metric_id="exact_match",
                          p_value_correction="holm")

Every row names its test and its interval, how many items it rests on, how many it could not
use, and what difference it could have seen. Nothing is rounded, and p is never 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from themis.records.metric_scale import Direction, gain
from themis.records.score_table import ScoreTable
from themis.results.aggregate import choose
from themis.results.grouping import Key, group_rows, read_key
from themis.results.moments import known
from themis.results.paired_tests import PairedMethod, PairedTest, TestPlan, examine
from themis.results.pairing import PairSums, lay_arms, sum_pairs
from themis.statistics.arrays import ALTERNATIVES, Alternative, BoolArray
from themis.statistics.multiplicity import CORRECTIONS, Correction, adjust_p_values

CompareKey: TypeAlias = Literal["model_id", "prompt_variant_id"]
CiAdjust: TypeAlias = Literal["none", "bonferroni", "fcr"]
Verdict: TypeAlias = Literal["better", "worse", "different", "equivalent", "inconclusive"]

SHOWN: tuple[Verdict, ...] = ("better", "worse", "different")
"""The verdicts of a difference that the data support."""

LOW_INFORMATION = 6
"""Differing items below which no exact two-sided test can reach .05."""

_RESAMPLED = ("sign_flip", "bootstrap", "bca")


@dataclass(frozen=True, slots=True)
class PairedRow:
    """One comparison: treatment minus baseline, over the items both answered.

    Attributes:
        keys: The group: key name to value.
        metric_id: What was measured.
        evaluation: By which score of the benchmark.
        direction: Which scores of the metric are better; None where that was not recorded, and
            higher is taken as better.
        compare: What differs between the arms: "model_id" or "prompt_variant_id".
        baseline: The arm compared against.
        treatment: The arm in question.
        pair_count: Items that both have a score for.
        baseline_mean: Baseline's mean over those items.
        treatment_mean: Treatment's mean over them.
        delta_mean: Mean difference; above 0 means the treatment scored higher.
        stderr: Standard error of the difference.
        statistic: The t statistic, or Wilcoxon's V; None where p is exact.
        df: Degrees of freedom of a t test.
        p_value: Of the test; None where there is no test.
        alternative: What the test looked for: "two-sided", "greater" (the treatment scores
            higher) or "less".
        adjusted_p_value: After the correction over the whole call.
        adjustment_method: That correction.
        family_size: How many p-values it covered.
        ci_lower: Lower end of the interval of the difference, not adjusted unless
            `ci_adjust` says so.
        ci_upper: Upper end.
        ci_level: The coverage aimed at, per comparison.
        ci_adjust: How intervals allow for the family: "none", "bonferroni" or "fcr".
        method: Test and interval in one word.
        test: The test alone.
        ci_method: The interval alone.
        wins: Items where the treatment scored higher.
        losses: Items where the baseline did.
        ties: Items where they scored the same.
        cluster_count: Clusters, when clustered.
        effect_size: The difference without units.
        effect_size_name: Which: "mcnemar_odds_ratio" (wins / losses) or "d_z".
        mde: The difference that this many items would have found with `power`.
        power: The power that `mde` is for.
        unpaired_baseline: Items left out because only the baseline has a score.
        unpaired_treatment: Items left out because only the treatment has one.
        n_planned: Items planned for either arm.
        delta_lower_bound: The smallest difference that absent scores allow; None where scores
            can leave [0, 1].
        delta_upper_bound: The largest.
        margin: The largest difference that does not matter, if one was given.
        p_equivalence: Against "differs by the margin or more".
        not_inferior: Whether "worse by the margin or more" is ruled out.
        verdict: "equivalent" (inside the margin), else "better" or "worse" (adjusted p at
            most 1 - ci_level; "different" for a metric without a direction), else
            "inconclusive".
        flags: What to be careful about.
    """

    keys: Mapping[str, str | None]
    metric_id: str
    evaluation: str
    direction: Direction | None
    compare: str
    baseline: str
    treatment: str
    pair_count: int
    baseline_mean: float | None
    treatment_mean: float | None
    delta_mean: float | None
    stderr: float | None
    statistic: float | None
    df: float | None
    p_value: float | None
    alternative: Alternative
    adjusted_p_value: float | None
    adjustment_method: str
    family_size: int
    ci_lower: float | None
    ci_upper: float | None
    ci_level: float
    ci_adjust: str
    method: str
    test: str
    ci_method: str
    wins: int
    losses: int
    ties: int
    cluster_count: int | None
    effect_size: float | None
    effect_size_name: str
    mde: float | None
    power: float
    unpaired_baseline: int
    unpaired_treatment: int
    n_planned: int
    delta_lower_bound: float | None
    delta_upper_bound: float | None
    margin: float | None
    p_equivalence: float | None
    not_inferior: bool | None
    verdict: Verdict
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Flatten to JSON values, the keys first."""
        fields = asdict(self)
        keys = fields.pop("keys")
        return {**keys, **fields, "flags": list(self.flags)}


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of every comparison of one call."""

    method: PairedMethod
    correction: Correction
    ci_level: float
    ci_adjust: CiAdjust
    margin: float | None
    power: float
    n_resamples: int
    seed: int
    alternative: Alternative


def paired_compare(  # noqa: PLR0913 -- each is a choice that the reader of a comparison makes
    table: ScoreTable,
    *,
    compare: CompareKey = "model_id",
    baseline: str | None = None,
    treatment: str | Sequence[str] | None = None,
    metric_id: str | None = None,
    evaluation: str | None = None,
    group_by: str | Sequence[str] | None = "slice_id",
    p_value_correction: Correction = "none",
    method: PairedMethod = "auto",
    ci_level: float = 0.95,
    ci_adjust: CiAdjust = "none",
    cluster_by: str | None = None,
    alternative: Alternative = "two-sided",
    margin: float | None = None,
    power: float = 0.8,
    n_resamples: int = 9999,
    seed: int = 0,
) -> list[PairedRow]:
    """Compare models, or prompts, item by item.

    Samples of an item are averaged before pairing, and several prompts or params are matched
    one to one, so each item counts once. Different metrics and evaluations are separate
    comparisons. All comparisons of a call are one family for the correction.

    Args:
        table: The scores.
        compare: What differs between the arms.
        baseline: The arm to compare against; None tries every arm.
        treatment: The arm or arms in question; None takes every other one. With neither
            named, all pairs are compared.
        metric_id: Only this metric; None compares on each.
        evaluation: Only this evaluation; None compares on each.
        group_by: Key or keys that make separate comparisons; None for one overall.
        p_value_correction: How to adjust for the number of comparisons.
        method: "auto": McNemar mid-p with the Bonett-Price interval where all scores are 0
            or 1, else paired t; CR2 t when clustered. Others by name.
        ci_level: Coverage of the interval; 1 - ci_level is also the level of verdicts.
        ci_adjust: "bonferroni" widens all intervals to hold jointly over the family; "fcr"
            those of the significant comparisons, for having been selected (Y. Benjamini and
            D. Yekutieli 2005, JASA 100:71-81).
        cluster_by: A key whose value groups items that resemble each other.
        alternative: What the tests look for: "two-sided", or only a treatment that scores
            higher ("greater") or lower ("less"), whichever of these is better; to be chosen
            before the scores are seen. Intervals have two ends whatever it is.
        margin: The largest difference that does not matter; turns on equivalence.
        power: The power that `mde` is for.
        n_resamples: Draws of the resampling methods.
        seed: Seed of those draws. Each comparison's answer is independent of the others.

    Returns:
        One row per group, metric, evaluation and pair of arms, in that order.

    Raises:
        ValueError: If a key, arm, metric or method is unknown or does not fit the scores.
    """
    if p_value_correction not in CORRECTIONS:
        known_names = ", ".join(CORRECTIONS)
        raise ValueError(f"unknown correction {p_value_correction!r}; known: {known_names}")
    if ci_adjust not in ("none", "bonferroni", "fcr"):
        raise ValueError(f"unknown ci_adjust {ci_adjust!r}; known: none, bonferroni, fcr")
    if alternative not in ALTERNATIVES:
        raise ValueError(f"unknown alternative {alternative!r}; known: {', '.join(ALTERNATIVES)}")
    if margin is not None and margin <= 0:
        raise ValueError("margin must be above 0")
    names = (group_by,) if isinstance(group_by, str) else tuple(group_by or ())
    if compare not in ("model_id", "prompt_variant_id"):
        raise ValueError(f"cannot compare by {compare!r}; known: model_id, prompt_variant_id")
    if {compare, "status"} & set(names):
        raise ValueError(f"cannot group a comparison of {compare} by {', '.join(names)}")
    table = choose(table, metric_id, evaluation)
    arm = read_key(table, compare)
    pairs = _choose_pairs(arm, baseline, treatment)
    table = table.where(np.isin(arm.codes, np.unique(np.array(pairs, np.int32))))
    arm = read_key(table, compare)
    inner = tuple(dict.fromkeys((*names, "metric_id", "evaluation")))
    groups = group_rows(table, inner)
    others = [] if compare == "model_id" else [read_key(table, "model_id")]
    cluster = None if cluster_by is None else read_key(table, cluster_by)
    arms = lay_arms(table, groups, arm, others, cluster)
    question = _Question(
        method, p_value_correction, ci_level, ci_adjust, margin, power, n_resamples, seed,
        alternative,
    )  # fmt: skip
    sums = sum_pairs(arms, pairs, keep_differences=method in (*_RESAMPLED, "wilcoxon"))
    unit = [found[inner.index("metric_id")] not in table.without_unit for found in groups.keys]
    sums = _without_bounds(sums, np.tile(np.array(unit, np.bool_), len(pairs)))
    labels = [
        {
            "keys": {name: value for name, value in found.items() if name in names},
            "metric_id": found["metric_id"],
            "evaluation": found["evaluation"],
            "direction": table.direction(str(found["metric_id"])),
            "compare": compare,
            "baseline": arm.labels[base],
            "treatment": arm.labels[other],
        }
        for base, other in pairs
        for found in (dict(zip(inner, values, strict=True)) for values in groups.keys)
    ]
    rows = _rows(labels, sums, question)
    by_group = sorted(range(len(rows)), key=lambda place: place % max(1, len(groups.keys)))
    return [rows[place] for place in by_group]


def _choose_pairs(
    arm: Key, baseline: str | None, treatment: str | Sequence[str] | None
) -> list[tuple[int, int]]:
    codes = {label: code for code, label in enumerate(arm.labels)}
    treatments = [treatment] if isinstance(treatment, str) else list(treatment or ())
    for wanted in (*([baseline] if baseline is not None else ()), *treatments):
        if wanted not in codes:
            known_names = ", ".join(str(label) for label in arm.labels)
            raise ValueError(f"no {arm.name} {wanted!r} in these results; known: {known_names}")
    present = sorted(str(arm.labels[code]) for code in np.unique(arm.codes).tolist())
    if baseline is not None:
        pairs = [(baseline, other) for other in treatments or present if other != baseline]
    elif treatments:
        pairs = [(base, other) for other in treatments for base in present if base != other]
    else:
        pairs = [(a, b) for place, a in enumerate(present) for b in present[place + 1 :]]
    if not pairs:
        raise ValueError(f"nothing to compare: needs two different values of {arm.name}")
    missing = {name for pair in pairs for name in pair} - set(present)
    if missing:
        raise ValueError(f"no planned score of {', '.join(sorted(missing))} in this selection")
    return [(codes[base], codes[other]) for base, other in pairs]


def _without_bounds(sums: PairSums, unit: BoolArray) -> PairSums:
    """Take back the bounds of scores that could be beyond 0 and 1."""
    if unit.all():
        return sums
    lowest, highest = (np.where(unit, end, np.nan) for end in (sums.lowest, sums.highest))
    return replace(sums, lowest=lowest, highest=highest)


def _rows(labels: list[dict[str, Any]], sums: PairSums, question: _Question) -> list[PairedRow]:
    """Test every comparison, correct over all of them, and write the rows."""
    alpha = 1 - question.ci_level
    asked = int((sums.n > 0).sum())
    level = question.ci_level
    if question.ci_adjust == "bonferroni":
        level = 1 - alpha / max(1, asked)
    plan = TestPlan(
        question.method, level, alpha, question.margin, question.power,
        question.n_resamples, question.seed, question.alternative,
    )  # fmt: skip
    found = examine(sums, plan)
    adjusted = adjust_p_values(found.p_value, question.correction)
    selected = adjusted <= alpha
    if question.ci_adjust == "fcr" and selected.any():
        wider = examine(sums, replace(plan, level=1 - alpha * selected.sum() / asked))
        found = replace(
            found,
            lower=np.where(selected, wider.lower, found.lower),
            upper=np.where(selected, wider.upper, found.upper),
        )
    family = int(np.isfinite(found.p_value).sum())
    directions = [label["direction"] for label in labels]
    with np.errstate(invalid="ignore", divide="ignore"):
        baseline_mean, treatment_mean = sums.baseline / sums.n, sums.treatment / sums.n
    columns: dict[str, list[Any]] = {
        "pair_count": _counts(sums.n),
        "baseline_mean": known(baseline_mean),
        "treatment_mean": known(treatment_mean),
        "delta_mean": known(sums.delta),
        "stderr": known(found.stderr),
        "statistic": known(found.statistic),
        "df": known(found.df),
        "p_value": known(found.p_value),
        "adjusted_p_value": known(adjusted),
        "ci_lower": known(found.lower),
        "ci_upper": known(found.upper),
        "method": found.method,
        "test": found.test,
        "ci_method": found.ci_method,
        "wins": _counts(sums.wins),
        "losses": _counts(sums.losses),
        "ties": _counts(sums.n - sums.wins - sums.losses),
        "cluster_count": found.cluster_count,
        "effect_size": known(found.effect_size),
        "effect_size_name": found.effect_size_name,
        "mde": known(found.mde),
        "unpaired_baseline": _counts(sums.unpaired_baseline),
        "unpaired_treatment": _counts(sums.unpaired_treatment),
        "n_planned": _counts(sums.planned),
        "delta_lower_bound": known(sums.lowest),
        "delta_upper_bound": known(sums.highest),
        "p_equivalence": known(found.p_equivalence),
        "not_inferior": [
            {1: above, -1: below, 0: None}[gain(direction)]
            for direction, above, below in zip(
                directions, found.above_margin, found.below_margin, strict=True
            )
        ],
        "verdict": [
            judge_difference(direction, delta, p, p_equivalence, alpha)
            for direction, delta, p, p_equivalence in zip(
                directions,
                known(sums.delta),
                known(adjusted),
                known(found.p_equivalence),
                strict=True,
            )
        ],
        "flags": _flags(sums, found, question, family),
    }
    return [
        PairedRow(
            **label,
            alternative=question.alternative,
            adjustment_method=question.correction,
            family_size=family,
            ci_level=question.ci_level,
            ci_adjust=question.ci_adjust,
            margin=question.margin,
            power=question.power,
            **dict(zip(columns, values, strict=True)),
        )
        for label, values in zip(labels, zip(*columns.values(), strict=True), strict=True)
    ]


def _counts(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    return list(np.rint(values).astype(np.int64).tolist())


def judge_difference(
    direction: Direction | None,
    delta: float | None,
    p_value: float | None,
    p_equivalence: float | None,
    alpha: float,
) -> Verdict:
    """Word what the data say of a difference.

    Args:
        direction: Which scores are better.
        delta: Treatment minus baseline; None without pairs.
        p_value: To judge by: corrected, if anything is; None where there is no test.
        p_equivalence: Against "differs by the margin or more"; None without a margin.
        alpha: The largest p that shows something.
    """
    if p_equivalence is not None and p_equivalence <= alpha:
        return "equivalent"
    if not delta or p_value is None or p_value > alpha:
        return "inconclusive"
    if not gain(direction):
        return "different"
    return "better" if delta * gain(direction) > 0 else "worse"


def _flags(
    sums: PairSums, found: PairedTest, question: _Question, family: int
) -> list[tuple[str, ...]]:
    some = sums.n > 0
    floor = (question.n_resamples + 1) < family / (1 - question.ci_level)
    masks = {
        "no_pairs": ~some,
        "low_information": some & (sums.wins + sums.losses < LOW_INFORMATION),
        "degenerate": found.degenerate,
        "few_clusters": found.few_clusters,
        "unpaired_dropped": sums.unpaired_baseline + sums.unpaired_treatment > 0,
        "unequal_repeats": sums.uneven,
        "mc_floor": found.sampled & floor,
    }
    listed = [mask.tolist() for mask in masks.values()]
    return [
        tuple(name for name, on in zip(masks, row, strict=True) if on)
        for row in zip(*listed, strict=True)
    ]
