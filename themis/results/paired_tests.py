"""Choosing and running the test and the interval of every comparison, all at once.

| scores of the pair, after averaging repeats | test | interval |
|---|---|---|
| all 0 or 1 | McNemar mid-p | Bonett-Price |
| other numbers | paired t | paired t |
| clustered | t with CR2 error, Bell-McCaffrey df | the same |
| every difference (or cluster's mean) the same, not 0 | exact sign flip | none |
| every difference 0, not 0/1 scores | p = 1 | none |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import ndtri

from themis.results.moments import FEW_CLUSTERS, FEW_DF, LEAST, NO_SPREAD
from themis.results.pairing import PairSums
from themis.statistics import paired_binary, resampling
from themis.statistics.arrays import Alternative, BoolArray, FloatArray, Interval, never_zero
from themis.statistics.clusters import grouped_cr2
from themis.statistics.effect_size import cohen_dz
from themis.statistics.equivalence import tost
from themis.statistics.means import t_interval, t_p_value
from themis.statistics.sign_flip import sign_flips
from themis.statistics.wilcoxon import signed_rank

PairedMethod: TypeAlias = Literal[
    "auto", "mcnemar_midp", "mcnemar_exact", "mcnemar", "tango", "newcombe", "paired_t",
    "sign_flip", "sign", "wilcoxon", "bootstrap", "bca",
]  # fmt: skip
PAIRED_METHODS: tuple[PairedMethod, ...] = (
    "auto", "mcnemar_midp", "mcnemar_exact", "mcnemar", "tango", "newcombe", "paired_t",
    "sign_flip", "sign", "wilcoxon", "bootstrap", "bca",
)  # fmt: skip
_BINARY: Mapping[str, tuple[str, str]] = {
    "mcnemar_midp": ("mcnemar_midp", "bonett_price"),
    "mcnemar_exact": ("mcnemar_exact", "bonett_price"),
    "mcnemar": ("mcnemar_asymptotic", "bonett_price"),
    "tango": ("mcnemar_asymptotic", "tango"),
    "newcombe": ("mcnemar_midp", "newcombe"),
}
_INTERVALS_ONLY = ("bootstrap", "bca")
_CLUSTERED = ("auto", "sign_flip", "bootstrap", "bca")
_TESTS: Mapping[str, Callable[[FloatArray, FloatArray, Alternative], FloatArray]] = {
    "mcnemar_midp": paired_binary.mcnemar_midp,
    "mcnemar_exact": paired_binary.mcnemar_exact,
    "mcnemar_asymptotic": paired_binary.mcnemar_asymptotic,
}


@dataclass(frozen=True, slots=True)
class PairedTest:
    """What was found for each comparison; NaN where there is nothing to say."""

    p_value: FloatArray
    statistic: FloatArray
    df: FloatArray
    stderr: FloatArray
    lower: FloatArray
    upper: FloatArray
    method: list[str]
    test: list[str]
    ci_method: list[str]
    cluster_count: list[int | None]
    effect_size: FloatArray
    effect_size_name: list[str]
    mde: FloatArray
    p_equivalence: FloatArray
    above_margin: list[bool | None]
    """Whether "lower by the margin or more" is ruled out; None without a margin."""
    below_margin: list[bool | None]
    """Whether "higher by the margin or more" is."""
    degenerate: BoolArray
    few_clusters: BoolArray
    sampled: BoolArray


@dataclass(frozen=True, slots=True)
class TestPlan:
    """What is asked of every comparison.

    Attributes:
        method: "auto", or a method by name.
        level: Coverage of the intervals.
        alpha: Level of the equivalence tests and of `mde`.
        margin: Largest difference that does not matter, or None.
        power: Power of `mde`.
        n_resamples: Draws of the resampling methods.
        seed: Seed of those draws.
        alternative: What the tests look for; intervals have two ends whatever it is.
    """

    __test__ = False  # not a pytest class, whatever its name

    method: PairedMethod = "auto"
    level: float = 0.95
    alpha: float = 0.05
    margin: float | None = None
    power: float = 0.8
    n_resamples: int = 9999
    seed: int = 0
    alternative: Alternative = "two-sided"


def examine(sums: PairSums, plan: TestPlan) -> PairedTest:
    """Test all comparisons and give their intervals.

    Raises:
        ValueError: If the method is unknown, or does not fit the scores or the clusters.
    """
    _refuse_what_does_not_fit(sums, plan.method)
    clustered = sums.clusters is not None
    enough = sums.n >= LEAST
    as_binary = sums.binary & enough & (not clustered) & (plan.method in ("auto", *_BINARY))
    error = _mean_error(sums)
    enough &= error.counts >= LEAST
    flat = enough & sums.constant & ~as_binary
    none_differ = sums.wins + sums.losses == 0

    with np.errstate(invalid="ignore", divide="ignore"):
        statistic = sums.delta / error.stderr
        spread = _Outcome(
            t_p_value(statistic, error.df, plan.alternative), statistic, error.df,
            t_interval(sums.delta, error.stderr, error.df, plan.level),
        )  # fmt: skip
    tests = np.array([error.name] * len(sums.n), dtype=object)
    cis = tests.copy()
    sampled = np.zeros(len(sums.n), np.bool_)
    if plan.method not in ("auto", "paired_t", *_BINARY):
        spread, sampled = _asked(sums, plan, spread)
        tests[:] = "none" if plan.method in _INTERVALS_ONLY else plan.method
        if plan.method == "sign_flip":
            tests[~sampled] = "sign_flip_exact"
        if plan.method in _INTERVALS_ONLY:
            cis[:] = plan.method
    p_flat = _p_without_spread(sums, error.counts, plan.alternative)
    exact = plan.method not in _INTERVALS_ONLY
    p = np.where(flat, p_flat if exact else np.nan, spread.p_value)
    tests[flat & exact] = "sign_flip_exact"
    tests[flat & exact & none_differ] = "identical"
    cis[flat] = "none"
    shown = ~flat

    test, ci = _BINARY.get(plan.method, _BINARY["mcnemar_midp"])
    share = _binary_interval(sums, ci, plan.level)
    p = np.where(as_binary, _TESTS[test](sums.wins, sums.losses, plan.alternative), p)
    tests[as_binary], cis[as_binary] = test, ci
    tests[~enough], cis[~enough] = "none", "none"

    def kept(values: FloatArray, where: BoolArray) -> FloatArray:
        return np.where(where & enough, values, np.nan)

    by_t = shown & ~as_binary
    sides = 2 if plan.alternative == "two-sided" else 1
    stderr = np.where(as_binary, share.stderr, kept(error.stderr, by_t))
    centre = np.where(as_binary, (sums.wins - sums.losses) / (sums.n + 2), sums.delta)
    df = kept(spread.df, by_t)
    p_equivalence, above_margin, below_margin = _equivalence(
        centre, stderr, np.where(as_binary, np.inf, error.df), plan
    )
    return PairedTest(
        p_value=kept(p, np.ones_like(flat)),
        statistic=kept(spread.statistic, by_t),
        df=df,
        stderr=stderr,
        lower=kept(np.where(as_binary, share.interval.lower, spread.interval.lower), shown),
        upper=kept(np.where(as_binary, share.interval.upper, spread.interval.upper), shown),
        method=[_together(*names) for names in zip(tests.tolist(), cis.tolist(), strict=True)],
        test=tests.tolist(),
        ci_method=cis.tolist(),
        cluster_count=error.counts.astype(int).tolist() if clustered else [None] * len(flat),
        effect_size=_effect_size(sums, as_binary, flat),
        effect_size_name=np.where(as_binary, "mcnemar_odds_ratio", "d_z").tolist(),
        mde=(ndtri(1 - plan.alpha / sides) + ndtri(plan.power)) * stderr,
        p_equivalence=p_equivalence,
        above_margin=above_margin,
        below_margin=below_margin,
        degenerate=flat,
        few_clusters=(sums.n >= LEAST) & clustered
        & ((error.counts < FEW_CLUSTERS) | ~(error.df >= FEW_DF)),
        sampled=sampled & by_t & enough,
    )  # fmt: skip


def _p_without_spread(sums: PairSums, counts: FloatArray, alternative: Alternative) -> FloatArray:
    """Where t is infinite: the share of sign patterns that go as far, two of 2^n or one."""
    one = np.exp2(-counts)
    p = {
        "two-sided": 2 * one,
        "greater": np.where(sums.delta > 0, one, 1.0),
        "less": np.where(sums.delta < 0, one, 1.0),
    }[alternative]
    # Clusters that each add up to nothing leave a mean of nothing but rounding.
    with np.errstate(invalid="ignore", divide="ignore"):
        nothing = np.abs(sums.delta) <= NO_SPREAD * np.sqrt(sums.squares / sums.n)
    return np.where(nothing | (sums.wins + sums.losses == 0), 1.0, never_zero(p))


def _together(test: str, interval: str) -> str:
    if test == "none":
        return interval
    return test if interval in {test, "none"} else f"{test}+{interval}"


def _refuse_what_does_not_fit(sums: PairSums, method: PairedMethod) -> None:
    if method not in PAIRED_METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(PAIRED_METHODS)}")
    if sums.clusters is not None and method not in _CLUSTERED:
        known = ", ".join(_CLUSTERED)
        raise ValueError(f"method {method!r} takes items as independent; with clusters use {known}")
    if method in _BINARY and not sums.binary.all():
        raise ValueError(f"method {method!r} needs scores of 0 and 1 only")


@dataclass(frozen=True, slots=True)
class _Error:
    """The standard error of each mean difference, and what it rests on."""

    stderr: FloatArray
    df: FloatArray
    counts: FloatArray
    """Items, or clusters."""
    name: str


def _mean_error(sums: PairSums) -> _Error:
    if sums.clusters is None:
        with np.errstate(invalid="ignore", divide="ignore"):
            stderr = np.sqrt(sums.squares / (sums.n - 1) / sums.n)
        return _Error(stderr, sums.n - 1, sums.n, "paired_t")
    held, count = sums.clusters, len(sums.n)
    stderr, df = grouped_cr2(held.residual, held.size, held.group, count)
    counts = np.bincount(held.group, minlength=count).astype(np.float64)
    return _Error(stderr, df, counts, "clustered_t_cr2")


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A test with its interval."""

    p_value: FloatArray
    statistic: FloatArray
    df: FloatArray
    interval: Interval


def _asked(sums: PairSums, plan: TestPlan, by_t: _Outcome) -> tuple[_Outcome, BoolArray]:
    """Run a method that was asked for by name; its interval is by t where it has none."""
    none = np.full(len(sums.n), np.nan)
    sampled = np.zeros(len(sums.n), np.bool_)
    if plan.method == "sign":
        p = paired_binary.sign_test(sums.wins, sums.losses, plan.alternative)
        return _Outcome(p, none, none, by_t.interval), sampled
    if sums.differences is None:
        raise ValueError(f"method {plan.method!r} needs the differences to have been kept")
    if plan.method == "wilcoxon":
        ranks = [signed_rank(d, plan.alternative) for d in sums.differences]
        p = np.array([rank.p_value for rank in ranks])
        statistic = np.array([rank.statistic for rank in ranks])
        return _Outcome(p, statistic, none, by_t.interval), sampled
    totals, sizes = _independent_parts(sums)
    if plan.method == "sign_flip":
        flips = sign_flips(totals, plan.alternative, n_resamples=plan.n_resamples, seed=plan.seed)
        sampled = np.array([not flip.exact for flip in flips])
        p = np.array([flip.p_value for flip in flips])
        return _Outcome(p, none, none, by_t.interval), sampled
    lower, upper = none.copy(), none.copy()
    lengths = np.array([len(total) for total in totals])
    for length in np.unique(lengths[lengths >= LEAST]).tolist():
        places = np.flatnonzero(lengths == length)
        lower[places], upper[places] = resampling.interval_of_means(
            np.column_stack([totals[place] for place in places]),
            np.column_stack([sizes[place] for place in places]),
            method="bca" if plan.method == "bca" else "bootstrap",
            level=plan.level,
            n_resamples=plan.n_resamples,
            seed=plan.seed,
        )
    return _Outcome(none, none, none, Interval(lower, upper)), np.ones_like(sampled)


def _independent_parts(sums: PairSums) -> tuple[list[FloatArray], list[FloatArray]]:
    """Differences, or their sums per cluster, of each comparison, with how many each holds."""
    if sums.clusters is None:
        differences = list(sums.differences or ())
        return differences, [np.ones(len(d)) for d in differences]
    held = sums.clusters
    totals = held.residual + held.size * sums.delta[held.group]
    ends = np.cumsum(np.bincount(held.group, minlength=len(sums.n)))[:-1]
    order = np.argsort(held.group, kind="stable")
    return np.split(totals[order], ends), np.split(held.size[order], ends)


@dataclass(frozen=True, slots=True)
class _Share:
    """The interval of a difference of proportions."""

    interval: Interval
    stderr: FloatArray


def _binary_interval(sums: PairSums, name: str, level: float) -> _Share:
    n = np.maximum(sums.n, 1)
    stderr = paired_binary.bonett_price_stderr(sums.wins, sums.losses, n)
    if name == "bonett_price":
        return _Share(paired_binary.bonett_price(sums.wins, sums.losses, n, level), stderr)
    if name == "tango":
        return _Share(paired_binary.tango(sums.wins, sums.losses, n, level), stderr)
    neither = n - sums.both - sums.wins - sums.losses
    return _Share(paired_binary.newcombe(sums.both, sums.wins, sums.losses, neither, level), stderr)


def _effect_size(sums: PairSums, as_binary: BoolArray, flat: BoolArray) -> FloatArray:
    ratio, _ = paired_binary.odds_ratio(sums.wins, sums.losses)
    with np.errstate(invalid="ignore", divide="ignore"):
        stderr = np.sqrt(sums.squares / (sums.n - 1) / sums.n)
    return np.where(as_binary, ratio, np.where(flat, np.nan, cohen_dz(sums.delta, stderr, sums.n)))


def _equivalence(
    centre: FloatArray, stderr: FloatArray, df: FloatArray, plan: TestPlan
) -> tuple[FloatArray, list[bool | None], list[bool | None]]:
    if plan.margin is None:
        nothing: list[bool | None] = [None] * len(centre)
        return np.full(len(centre), np.nan), nothing, nothing
    found = tost(centre, stderr, df, plan.margin, plan.alpha)
    above, below = (
        [None if np.isnan(p) else bool(p <= plan.alpha) for p in side.tolist()]
        for side in (found.p_lower, found.p_upper)
    )
    return found.p_value, above, below
