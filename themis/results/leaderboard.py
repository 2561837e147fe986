"""Models in order of their mean, with the doubt that belongs to the order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import Any, Literal

import numpy as np

from themis.records.metric_scale import Direction, gain
from themis.records.score_table import ScoreTable
from themis.results.aggregate import AggregateRow, aggregate
from themis.results.compare import PairedRow, paired_compare
from themis.results.grouping import group_rows
from themis.results.macro import macro_average, macro_difference
from themis.results.moments import NO_SPREAD, known
from themis.statistics.multiplicity import Correction, adjust_p_values


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One model's place.

    Attributes:
        rank: From 1; models with the same mean share it. None for a model without scores, and
            where the metric has no direction.
        model_id: The model.
        score: Its mean, with everything `AggregateRow` says about it.
        behind: Its comparison with the first model, item by item and with the weights of the
            ranking; None for the first, and
            where nothing can be compared. The first was chosen for its scores, so p is adjusted
            as if all pairs of models had been compared.
        level_with_first: Whether that comparison cannot tell it from the first.
        direction: Which scores are better; None where that was not recorded, and higher is
            taken as better.
    """

    rank: int | None
    model_id: str
    score: AggregateRow
    behind: PairedRow | None
    level_with_first: bool
    direction: Direction | None

    def to_dict(self) -> dict[str, Any]:
        """Flatten to JSON values; `behind` keeps the numbers a reader needs."""
        behind = None
        if self.behind is not None:
            behind = {
                name: getattr(self.behind, name)
                for name in ("baseline", "delta_mean", "ci_lower", "ci_upper", "p_value",
                             "adjusted_p_value", "method", "pair_count")
            }  # fmt: skip
        return {
            "rank": self.rank,
            **self.score.to_dict(),
            "direction": self.direction,
            "level_with_first": self.level_with_first,
            "behind_first": behind,
        }


def leaderboard(
    table: ScoreTable,
    *,
    metric_id: str | None = None,
    evaluation: str | None = None,
    group_by: Sequence[str] = (),
    weights: Literal["micro", "macro"] = "micro",
    correction: Correction = "holm",
    cluster_by: str | None = None,
) -> list[LeaderboardRow]:
    """Rank the models, per metric and evaluation and any further group.

    Args:
        table: The scores.
        metric_id: Only this metric.
        evaluation: Only this evaluation.
        group_by: Further keys with a ranking each, for example slice_id.
        weights: Whether each item counts the same, or each slice.
        correction: For the comparisons of one ranking; its family is all pairs of models.
        cluster_by: A key whose value groups items that resemble each other.

    Returns:
        Ranking after ranking, best mean first (highest first where the metric has no
        direction); models without scores come last.

    Raises:
        ValueError: If a key, metric or evaluation is unknown.
    """
    names = tuple(dict.fromkeys((*group_by, "metric_id", "evaluation")))
    if "model_id" in names:
        raise ValueError("a leaderboard ranks models, so it cannot be grouped by model_id")
    keys = (*names, "model_id")
    asked = {"metric_id": metric_id, "evaluation": evaluation, "cluster_by": cluster_by}
    if weights == "macro":
        by_slice = tuple(dict.fromkeys((*keys, "slice_id")))
        rows = macro_average(aggregate(table, by_slice, **asked))  # type: ignore[arg-type]
    else:
        rows = aggregate(table, keys, **asked)  # type: ignore[arg-type]
    rankings: dict[tuple[str | None, ...], list[AggregateRow]] = {}
    for row in rows:
        rankings.setdefault(tuple(row.keys[name] for name in names), []).append(row)
    groups = group_rows(table, names)
    placed = {values: place for place, values in enumerate(groups.keys)}
    return [
        entry
        for values, members in rankings.items()
        for entry in _rank(
            table.where(groups.of_row == placed[values]), members, weights, correction, cluster_by
        )
    ]


def _rank(
    table: ScoreTable,
    rows: list[AggregateRow],
    weights: Literal["micro", "macro"],
    correction: Correction,
    cluster_by: str | None,
) -> list[LeaderboardRow]:
    direction = table.direction(str(rows[0].keys["metric_id"]))
    ranked = gain(direction) != 0
    sign = gain(direction) or 1
    ordered = sorted(rows, key=lambda row: (row.mean is None, -sign * (row.mean or 0.0)))
    first = ordered[0]
    behind: dict[str, PairedRow] = {}
    if ranked and len(ordered) > 1 and first.mean is not None:
        compared = paired_compare(
            table,
            baseline=first.keys["model_id"],
            group_by="slice_id" if weights == "macro" else None,
            cluster_by=cluster_by,
        )
        if weights == "macro":
            names = dict.fromkeys(row.treatment for row in compared)
            compared = [
                macro_difference([row for row in compared if row.treatment == name])
                for name in names
            ]
        compared = _adjust_for_choosing([row for row in compared if row.pair_count], correction)
        behind = {row.treatment: row for row in compared}
    entries: list[LeaderboardRow] = []
    for place, row in enumerate(ordered, start=1):
        tied = bool(entries) and _same(entries[-1].score.mean, row.mean)
        rank = entries[-1].rank if tied else place
        model = str(row.keys["model_id"])
        comparison = behind.get(model)
        entries.append(
            LeaderboardRow(
                rank=rank if ranked and row.mean is not None else None,
                model_id=model,
                score=row,
                behind=comparison,
                level_with_first=comparison is not None and comparison.verdict == "inconclusive",
                direction=direction,
            )
        )
    return entries


def _same(a: float | None, b: float | None) -> bool:
    """Whether two means differ by no more than the order of their sums."""
    return a == b or (a is not None and b is not None and isclose(a, b, rel_tol=NO_SPREAD))


def _adjust_for_choosing(rows: Sequence[PairedRow], correction: Correction) -> list[PairedRow]:
    """Correct comparisons with the best of several models over all pairs of these models.

    Whichever model comes out first is compared, so every pair could have been. The pairs that
    were not count as p = 1, which only makes the correction stricter.
    """
    p = [np.nan if row.p_value is None else row.p_value for row in rows]
    others = len(rows) * (len(rows) - 1) // 2
    adjusted = adjust_p_values([*p, *[1.0] * others], correction)
    family = int(np.isfinite(adjusted).sum())
    return [
        replace(
            row,
            adjusted_p_value=value,
            adjustment_method=correction,
            family_size=family,
            verdict=row.verdict
            if value is not None and value <= 1 - row.ci_level
            else "inconclusive",
        )
        for row, value in zip(rows, known(adjusted[: len(rows)]), strict=True)
    ]
