"""Two runs side by side: the same models on the same items, before and after.

    rows = compare_runs(read_scores(store, old), read_scores(store, new), metric_id="exact_match")

Scores are paired by model, slice, item, prompt and parameters. Where both runs have a single
prompt, or a single set of parameters, these are paired whatever they are called: a changed
prompt or temperature is then what the comparison is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from themis.records.score_table import Codes, Dimension, ScoreTable
from themis.results.compare import CiAdjust, PairedRow, paired_compare
from themis.results.paired_tests import PairedMethod
from themis.statistics.multiplicity import Correction

ModelPair: TypeAlias = tuple[str, str]

BASE, NEW = "base", "new"
"""What the arms of a comparison of two runs are called."""

_MODEL = "model of both runs"
"""The dimension that keeps models apart where the runs are the arms."""


def compare_runs(  # noqa: PLR0913 -- as paired_compare, whose choices it passes on
    base: ScoreTable,
    new: ScoreTable,
    *,
    models: Sequence[ModelPair] | None = None,
    metric_id: str | None = None,
    evaluation: str | None = None,
    group_by: Sequence[str] = ("slice_id",),
    p_value_correction: Correction = "none",
    method: PairedMethod = "auto",
    ci_level: float = 0.95,
    ci_adjust: CiAdjust = "none",
    cluster_by: str | None = None,
    margin: float | None = None,
) -> list[PairedRow]:
    """Compare two runs item by item; the arms are "base" and "new".

    Args:
        base: The scores of the earlier run.
        new: The scores of the later run.
        models: Pairs (model of base, model of new); None pairs equal names, or the only model
            of each run.
        metric_id: Only this metric.
        evaluation: Only this evaluation.
        group_by: Keys that make separate comparisons, besides the model.
        p_value_correction: Over all comparisons of the call.
        method: As of `paired_compare`.
        ci_level: As of `paired_compare`.
        ci_adjust: As of `paired_compare`.
        cluster_by: As of `paired_compare`.
        margin: As of `paired_compare`.

    Returns:
        One row per model, group, metric and evaluation; `keys` begins with model_id.

    Raises:
        ValueError: The runs have no model in common, or a key, metric or method is unknown.
    """
    joined = join_runs(base, new, models)
    rows = paired_compare(
        joined,
        baseline=BASE,
        treatment=NEW,
        metric_id=metric_id,
        evaluation=evaluation,
        group_by=(_MODEL, *(name for name in group_by if name != "model_id")),
        p_value_correction=p_value_correction,
        method=method,
        ci_level=ci_level,
        ci_adjust=ci_adjust,
        cluster_by=cluster_by,
        margin=margin,
    )
    return [replace(row, compare="run", keys=_with_model(row.keys)) for row in rows]


def _with_model(keys: Mapping[str, str | None]) -> dict[str, str | None]:
    return {"model_id" if name == _MODEL else name: value for name, value in keys.items()}


def join_runs(
    base: ScoreTable, new: ScoreTable, models: Sequence[ModelPair] | None = None
) -> ScoreTable:
    """Return one table whose models are the runs "base" and "new".

    Every model has slices of its own in it, so that models are never averaged together.

    Args:
        base: The scores of the earlier run.
        new: The scores of the later run.
        models: Which models to pair.

    Raises:
        ValueError: The runs have no model in common.
    """
    pairs = pair_models(base, new, models)
    names = tuple(a if a == b else f"{a} → {b}" for a, b in pairs)
    sides = (
        _take(base, [a for a, _ in pairs]),
        _take(new, [b for _, b in pairs]),
    )
    labels, codes = {}, {}
    for one, many in (
        ("prompt", "prompts"), ("param", "params"), ("metric", "metrics"),
        ("evaluation", "evaluations"), ("item", "items"), ("slice", "slices"),
    ):  # fmt: skip
        labels[many], codes[one] = _union(sides, one, many, pair_single=one in ("prompt", "param"))
    slices = labels["slices"]
    place = np.concatenate([side.place for side in sides])
    codes["slice"] = (place * len(slices) + codes["slice"]).astype(np.int32)
    arm = np.repeat(np.arange(2, dtype=np.int32), [side.table.rows for side in sides])
    return ScoreTable(
        models=(BASE, NEW),
        slices=slices * len(pairs),
        prompts=labels["prompts"],
        params=labels["params"],
        metrics=labels["metrics"],
        evaluations=labels["evaluations"],
        items=labels["items"],
        model=arm,
        **codes,
        sample=_both(sides, "sample"),
        value=_both(sides, "value"),
        status=_both(sides, "status"),
        dimensions={
            **_dimensions(sides, "dimensions", "slices", slices, len(pairs)),
            _MODEL: Dimension(names, np.repeat(np.arange(len(pairs), dtype=np.int32), len(slices))),
        },
        item_dimensions=_dimensions(sides, "item_dimensions", "items", labels["items"], 1),
        scales={**base.scales, **new.scales},
    )


@dataclass(frozen=True, slots=True)
class _Side:
    """The rows of one run whose models take part, with each row's pair of models."""

    table: ScoreTable
    place: Codes


def pair_models(
    base: ScoreTable, new: ScoreTable, models: Sequence[ModelPair] | None
) -> list[ModelPair]:
    """Say which model of base is compared with which of new.

    Args:
        base: The scores of the earlier run.
        new: The scores of the later run.
        models: The pairs, if they are given; else equal names, or the only model of each.

    Raises:
        ValueError: A run lacks a model, or the runs have none in common.
    """
    pairs = list(models or ())
    for side, table in enumerate((base, new)):
        for pair in pairs:
            if pair[side] not in table.models:
                known = ", ".join(table.models)
                which = (BASE, NEW)[side]
                raise ValueError(f"the {which} run has no model {pair[side]!r}; it has: {known}")
    if pairs:
        return pairs
    common = [(model, model) for model in base.models if model in new.models]
    if not common and len(base.models) == len(new.models) == 1:
        return [(base.models[0], new.models[0])]
    if not common:
        raise ValueError(
            f"the runs have no model in common: {', '.join(base.models)} and "
            f"{', '.join(new.models)}; say which to compare"
        )
    return common


def _take(table: ScoreTable, models: Sequence[str]) -> _Side:
    place_of = np.full(len(table.models), -1, np.int32)
    for place, model in enumerate(models):
        place_of[table.models.index(model)] = place
    chosen = table.where(place_of[table.model] >= 0)
    return _Side(chosen, place_of[chosen.model])


def _union(
    sides: tuple[_Side, _Side], one: str, many: str, *, pair_single: bool
) -> tuple[tuple[str, ...], Codes]:
    """Give the labels of both sides, and the codes of all rows among them."""
    present = [
        {getattr(side.table, many)[code]: None for code in np.unique(getattr(side.table, one))}
        for side in sides
    ]
    if pair_single and all(len(names) == 1 for names in present):
        rows = sum(side.table.rows for side in sides)
        label = " → ".join(dict.fromkeys(name for names in present for name in names))
        return (label,), np.zeros(rows, np.int32)
    labels = tuple(dict.fromkeys((*present[0], *present[1])))
    place = {label: code for code, label in enumerate(labels)}
    codes = []
    for side in sides:
        names = getattr(side.table, many)
        # Labels that no row has may be absent from the union.
        lookup = np.array([place.get(name, -1) for name in names], np.int32)
        codes.append(lookup[getattr(side.table, one)])
    return labels, np.concatenate(codes)


def _both(sides: tuple[_Side, _Side], name: str) -> npt.NDArray[Any]:
    return np.concatenate([getattr(side.table, name) for side in sides])


def _dimensions(
    sides: tuple[_Side, _Side], kind: str, owners: str, labels: Sequence[str], repeat: int
) -> dict[str, Dimension]:
    """Merge the dimensions of both runs; where they disagree about an owner, base is right."""
    found: dict[str, dict[str, str]] = {}
    for side in reversed(sides):
        for name, dimension in getattr(side.table, kind).items():
            values = found.setdefault(name, {})
            for owner, code in zip(
                getattr(side.table, owners), dimension.codes.tolist(), strict=True
            ):
                if code >= 0:
                    values[owner] = dimension.labels[code]
    merged = {}
    for name, values in found.items():
        distinct = tuple(dict.fromkeys(values.values()))
        place = {label: code for code, label in enumerate(distinct)}
        codes = [place[values[owner]] if owner in values else -1 for owner in labels]
        merged[name] = Dimension(distinct, np.tile(np.array(codes, np.int32), repeat))
    return merged
