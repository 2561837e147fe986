"""Which items changed between two arms: where one was right and the other wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from themis.records.metric_scale import gain
from themis.records.score_table import ScoreTable
from themis.results.aggregate import choose
from themis.results.compare import CompareKey
from themis.results.grouping import group_rows, read_key
from themis.results.pairing import lay_arms, match

_CHANGES: Mapping[int, Literal["gained", "lost", "changed"]] = {
    1: "gained", -1: "lost", 0: "changed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flip:
    """One item that the two arms scored differently.

    Attributes:
        slice_id: The item's slice.
        item_id: The item.
        metric_id: By which metric.
        evaluation: By which evaluation.
        baseline_value: The baseline's score, averaged over samples (and matched prompts).
        treatment_value: The treatment's score.
        delta: Treatment minus baseline.
        change: "gained" where the treatment's score is better, "lost" where it is worse, and
            "changed" where the metric has no direction.
    """

    slice_id: str
    item_id: str
    metric_id: str
    evaluation: str
    baseline_value: float
    treatment_value: float
    delta: float
    change: Literal["gained", "lost", "changed"]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return asdict(self)


def flips(
    table: ScoreTable,
    *,
    baseline: str,
    treatment: str,
    compare: CompareKey = "model_id",
    metric_id: str | None = None,
    evaluation: str | None = None,
) -> list[Flip]:
    """List the items whose score differs, largest change first.

    Args:
        table: The scores.
        baseline: The arm compared against.
        treatment: The arm in question.
        compare: What differs between the arms.
        metric_id: Only this metric.
        evaluation: Only this evaluation.

    Raises:
        ValueError: If an arm, metric or evaluation is unknown, or an arm has no rows.
    """
    table = choose(table, metric_id, evaluation)
    arm = read_key(table, compare)
    for name in (baseline, treatment):
        if name not in arm.labels:
            known = ", ".join(str(label) for label in arm.labels)
            raise ValueError(f"no {compare} {name!r} in these results; known: {known}")
    codes = (arm.labels.index(baseline), arm.labels.index(treatment))
    table = table.where(np.isin(arm.codes, codes))
    arm = read_key(table, compare)
    others = [] if compare == "model_id" else [read_key(table, "model_id")]
    groups = group_rows(table, ("metric_id", "evaluation"))
    arms = lay_arms(table, groups, arm, others, None)
    if not set(codes) <= set(arms.sums):
        raise ValueError(f"{baseline} and {treatment} have no planned score in common")
    pairs = match(arms.sums[codes[0]], arms.sums[codes[1]], arms.cells)
    delta = pairs.treatment - pairs.baseline
    changed = np.flatnonzero(np.nan_to_num(delta) != 0)
    rows = arms.cells.first_row[changed]
    found = [
        Flip(
            slice_id=table.slices[table.slice[row]],
            item_id=table.items[table.item[row]],
            metric_id=table.metrics[table.metric[row]],
            evaluation=table.evaluations[table.evaluation[row]],
            baseline_value=float(pairs.baseline[unit]),
            treatment_value=float(pairs.treatment[unit]),
            delta=float(delta[unit]),
            change=_CHANGES[
                gain(table.direction(table.metrics[table.metric[row]])) * int(np.sign(delta[unit]))
            ],
        )
        for unit, row in zip(changed.tolist(), rows.tolist(), strict=True)
    ]
    return sorted(
        found, key=lambda f: (-abs(f.delta), -f.delta, f.metric_id, f.slice_id, f.item_id)
    )
