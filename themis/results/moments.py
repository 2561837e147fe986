"""From units to intervals: the moments of each group, and the interval that fits them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from themis.results.grouping import number
from themis.statistics import proportions, resampling
from themis.statistics.arrays import BoolArray, FloatArray, IntArray, Interval, sum_by
from themis.statistics.clusters import grouped_cr2
from themis.statistics.means import t_interval

IntervalMethod: TypeAlias = Literal[
    "auto", "none", "wilson", "clopper_pearson", "bayes", "t", "bootstrap", "bca"
]
INTERVAL_METHODS: tuple[IntervalMethod, ...] = (
    "auto", "none", "wilson", "clopper_pearson", "bayes", "t", "bootstrap", "bca",
)  # fmt: skip
_OF_PROPORTIONS: Mapping[str, Callable[..., Interval]] = {
    "wilson": proportions.wilson,
    "clopper_pearson": proportions.clopper_pearson,
    "bayes": proportions.beta_interval,
}
FEW_CLUSTERS = 6
FEW_DF = 4
LEAST = 2
"""Items (or clusters) below which nothing can be said about spread."""

NO_SPREAD = 1e-9
"""Scores that differ by less than this share of their size are the same score."""


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """Residuals added up per (group, cluster).

    Attributes:
        group: The group of each sum.
        residual: Sum of unit value minus group mean.
        size: Units in it.
    """

    group: IntArray
    residual: FloatArray
    size: FloatArray


@dataclass(frozen=True, slots=True)
class Moments:
    """What statistics need to know about the unit values of each group.

    Attributes:
        value: One value per unit that has one.
        of: The group of each value.
        n: Units with a value, per group.
        mean: Their mean; NaN where there is none.
        squares: Sum of squared deviations from it.
        binary: Whether all values are 0 or 1.
        between_0_and_1: Whether all values lie in [0, 1].
        constant: Whether the values (or, clustered, the means of clusters) do not vary.
        clusters: Residuals per cluster; None when not clustered.
    """

    value: FloatArray
    of: IntArray
    n: FloatArray
    mean: FloatArray
    squares: FloatArray
    binary: BoolArray
    between_0_and_1: BoolArray
    constant: BoolArray
    clusters: ClusterSums | None

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.n)

    @property
    def stderr(self) -> FloatArray:
        """Standard error of each mean, units taken as independent; NaN below two units."""
        with np.errstate(invalid="ignore", divide="ignore"):
            stderr = np.sqrt(self.squares / (self.n - 1) / self.n)
        return np.where(self.n >= LEAST, stderr, np.nan)

    @property
    def cluster_counts(self) -> list[int | None]:
        """Clusters per group; None when not clustered."""
        if self.clusters is None:
            return [None] * self.groups
        return list(np.bincount(self.clusters.group, minlength=self.groups).tolist())


def group_moments(
    values: FloatArray, group: IntArray, groups: int, clusters: IntArray | None = None
) -> Moments:
    """Summarise unit values per group; deviations are taken in a second pass.

    Args:
        values: One value per unit; NaN where it has none.
        group: The group of each unit.
        groups: How many groups there are.
        clusters: The cluster of each unit, if clustered.
    """
    has = np.isfinite(values)
    if not has.all():
        values, group = values[has], group[has]
        clusters = None if clusters is None else clusters[has]
    n = np.bincount(group, minlength=groups).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = sum_by(group, values, groups) / n
    off = values - mean[group]
    squares = sum_by(group, off * off, groups)
    size = sum_by(group, values * values, groups)
    binary = sum_by(group, (values != 0) & (values != 1), groups) == 0
    inside = sum_by(group, (values < 0) | (values > 1), groups) == 0
    constant = squares <= NO_SPREAD**2 * size
    held = None if clusters is None else _cluster_sums(off, group, groups, clusters)
    if held is not None:
        constant |= sum_by(held.group, held.residual**2, groups) <= NO_SPREAD**2 * size
    return Moments(values, group, n, mean, squares, binary, inside, constant, held)


def _cluster_sums(off: FloatArray, group: IntArray, groups: int, clusters: IntArray) -> ClusterSums:
    width = int(clusters.max(initial=0)) + 1
    place, present = number([(group, max(1, groups)), (clusters, width)], len(off))
    return ClusterSums(
        present // width,
        sum_by(place, off, len(present)),
        np.bincount(place, minlength=len(present)).astype(np.float64),
    )


@dataclass(frozen=True, slots=True)
class MeanIntervals:
    """An interval of the mean of each group; NaN ends where there is none."""

    lower: FloatArray
    upper: FloatArray
    stderr: FloatArray
    df: FloatArray
    method: list[str]
    flags: list[tuple[str, ...]]


def mean_intervals(
    moments: Moments,
    method: IntervalMethod = "auto",
    level: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> MeanIntervals:
    """Give the interval of each group's mean.

    Args:
        moments: The groups.
        method: "auto" chooses CR2 (clustered), Wilson (all 0 or 1) or t.
        level: The coverage aimed at.
        n_resamples: Draws of "bootstrap" and "bca".
        seed: Seed of those draws.

    Raises:
        ValueError: If the method does not fit the scores, or not the clustering.
    """
    if method not in INTERVAL_METHODS:
        raise ValueError(f"unknown interval {method!r}; known: {', '.join(INTERVAL_METHODS)}")
    clusters = moments.clusters
    enough = moments.n >= LEAST
    stderr, df = moments.stderr, np.where(enough, moments.n - 1, np.nan)
    few = np.zeros(moments.groups, np.bool_)
    if clusters is not None:
        if method in _OF_PROPORTIONS or method == "t":
            raise ValueError(f"interval {method!r} takes items as independent; with clusters use "
                             "auto, bootstrap or bca")  # fmt: skip
        stderr, df = grouped_cr2(clusters.residual, clusters.size, clusters.group, moments.groups)
        counts = np.bincount(clusters.group, minlength=moments.groups)
        few = enough & ((counts < FEW_CLUSTERS) | ~(df >= FEW_DF))
        enough = enough & (counts >= LEAST)
    if method in _OF_PROPORTIONS and not moments.binary.all():
        raise ValueError(f"interval {method!r} needs scores of 0 and 1 only")
    proportion = moments.binary if method == "auto" and clusters is None else few & False
    if method in _OF_PROPORTIONS:
        proportion = ~proportion
    by_count = _OF_PROPORTIONS.get(method, proportions.wilson)
    ends = t_interval(moments.mean, stderr, df, level)
    if method in ("bootstrap", "bca"):
        ends = _bootstrap(moments, method, level, n_resamples, seed)
    share = by_count(np.rint(np.where(proportion, moments.mean * moments.n, 0)), moments.n, level)
    flat = enough & moments.constant & ~proportion
    usable = enough & ~flat & (method != "none")
    name = "clustered_t_cr2" if clusters is not None else "t"
    spread_name = name if method in ("auto", "t") else method
    share_name = "wilson" if method == "auto" else method
    return MeanIntervals(
        lower=np.where(usable, np.where(proportion, share.lower, ends.lower), np.nan),
        upper=np.where(usable, np.where(proportion, share.upper, ends.upper), np.nan),
        stderr=np.where(flat, np.nan, stderr),
        df=np.where(flat, np.nan, df),
        method=[
            "none" if not there else share_name if counted else spread_name
            for there, counted in zip(usable.tolist(), proportion.tolist(), strict=True)
        ],
        flags=[
            tuple(
                flag
                for flag, on in (
                    ("no_scores", items == 0),
                    ("too_few_items", items == 1),
                    ("degenerate", same),
                    ("few_clusters", sparse),
                )
                if on
            )
            for items, same, sparse in zip(
                moments.n.tolist(), flat.tolist(), few.tolist(), strict=True
            )
        ],
    )


def _bootstrap(
    moments: Moments,
    method: Literal["bootstrap", "bca"],
    level: float,
    n_resamples: int,
    seed: int,
) -> Interval:
    """Resample units, or clusters, of each group; groups of equal size share their draws."""
    lower, upper = np.full(moments.groups, np.nan), np.full(moments.groups, np.nan)
    if moments.clusters is None:
        of, sums, sizes = moments.of, moments.value, np.ones(len(moments.value))
    else:
        of, sizes = moments.clusters.group, moments.clusters.size
        sums = moments.clusters.residual + sizes * moments.mean[of]
    order = np.argsort(of, kind="stable")
    counts = np.bincount(of, minlength=moments.groups)
    starts = np.cumsum(counts) - counts
    for length in np.unique(counts[counts >= LEAST]).tolist():
        chosen = np.flatnonzero(counts == length)
        rows = order[starts[chosen][None, :] + np.arange(length)[:, None]]
        ends = resampling.interval_of_means(
            sums[rows], sizes[rows], method=method, level=level, n_resamples=n_resamples, seed=seed
        )
        lower[chosen], upper[chosen] = ends.lower, ends.upper
    return Interval(lower, upper)


def known(values: FloatArray) -> list[float | None]:
    """List numbers, with None for NaN and the infinities, so that JSON can hold them."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
