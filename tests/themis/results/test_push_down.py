"""What columns and sums say equals what a person would count, whatever became of each answer.

A run is planned in a real store and every one of its answers meets a random fate. The means
and comparisons that are read back are checked against loops over that list of fates.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import isnan, nan, sqrt
from statistics import fmean, stdev
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from themis.handoff.register import register_plan
from themis.handoff.session import Session
from themis.records.score_table import ScoreStatus
from themis.results.aggregate import AggregateRow, aggregate
from themis.results.compare import PairedRow, paired_compare
from themis.storage.plans import INFRA_ERROR, MODEL_ERROR, OK, Run, score_passes
from themis.storage.store import Store
from themis.storage.tables import read_scores

SAMPLES = 3
METRIC = "numeric_match"
FATES: Mapping[str, tuple[float | None, str]] = {
    "right": (1.0, "scored"),
    "wrong": (0.0, "scored"),
    "partly": (0.5, "scored"),
    "unreadable": (0.0, "scored"),
    "refused": (None, "failed"),
    "metric broke": (None, "failed"),
    "engine broke": (None, "missing"),
    "not scored yet": (None, "missing"),
    "not asked yet": (None, "missing"),
}


@dataclass(frozen=True)
class Place:
    """Where an answer belongs."""

    trial: int
    model: str
    prompt: str
    item: int
    sample: int


@dataclass(frozen=True)
class Plan:
    """A planned run with nothing in it."""

    store: Store
    run: Run
    evaluation: int
    metric: int
    places: list[Place]


@pytest.fixture
def plan(session: Callable[..., Session], body: Callable[..., dict[str, Any]]) -> Plan:
    part = {**body()["slices"][0], "parses": [], "scores": [{"name": "s", "metrics": [METRIC]}]}
    made = session(
        models=[{"model_id": name, "provider": "demo"} for name in ("base", "new")],
        prompt_variants=[
            {"id": name, "messages": [{"role": "user", "content": name + " {item.question}"}]}
            for name in ("plain", "terse")
        ],
        num_samples=SAMPLES,
        slices=[part],
    )
    run = register_plan(made).run
    store = made.store
    bodies = dict(store.db.execute("SELECT id, body FROM specs"))
    trials = store.db.execute(
        "SELECT t.id, t.model, t.variant, t.item FROM run_trials r JOIN trials t ON t.id = r.trial"
    ).fetchall()
    places = [
        Place(
            trial,
            orjson.loads(bodies[model])["model_id"],
            orjson.loads(bodies[variant])["prompt_variant_id"],
            item,
            sample,
        )
        for trial, model, variant, item in trials
        for sample in range(SAMPLES)
    ]
    with store.transaction() as db:
        metric = db.execute("INSERT INTO metrics (name) VALUES (?) RETURNING id", (METRIC,))
        return Plan(
            store, run, score_passes(store, run)[0].evaluation, metric.fetchone()[0], places
        )


def live(plan: Plan, fates: Mapping[Place, str]) -> None:
    """Let every answer meet its fate, as the store's tables tell it."""
    of_candidate = {"refused": MODEL_ERROR, "engine broke": INFRA_ERROR}
    of_score = {
        "unreadable": ScoreStatus.EXTRACTION_FAILED,
        "metric broke": ScoreStatus.METRIC_FAILED,
    }
    candidates, scores = [], []
    for place, fate in fates.items():
        key = (place.trial, place.sample)
        if fate != "not asked yet":
            candidates.append((*key, of_candidate.get(fate, OK)))
        if fate not in ("not asked yet", "not scored yet", *of_candidate):
            status = int(of_score.get(fate, ScoreStatus.SCORED))
            scores.append((*key, plan.evaluation, plan.metric, status, FATES[fate][0]))
    with plan.store.transaction() as db:
        db.execute("DELETE FROM candidates")
        db.execute("DELETE FROM scores")
        db.executemany(
            "INSERT INTO candidates (trial, sample, status, event) VALUES (?, ?, ?, 0)", candidates
        )
        db.executemany(
            "INSERT INTO scores (trial, sample, evaluation, metric, status, value, event)"
            " VALUES (?, ?, ?, ?, ?, ?, 0)",
            scores,
        )


Cells = dict[tuple[str, int, str], list[str]]


def cells_of(fates: Mapping[Place, str]) -> Cells:
    """The fates of the samples of each (model, item, prompt)."""
    cells: Cells = defaultdict(list)
    for place, fate in fates.items():
        cells[place.model, place.item, place.prompt].append(fate)
    return cells


def cell_mean(
    fates: list[str], *, failed: float | None = None, absent: float | None = None
) -> float:
    """Average one cell, with failures or everything absent scored as given."""
    values = []
    for fate in fates:
        value, outcome = FATES[fate]
        if value is None:
            value = absent if absent is not None else failed if outcome == "failed" else None
        if value is not None:
            values.append(value)
    return fmean(values) if values else nan


def mean_of_items(cells: Cells, model: str, **absent: float) -> list[float]:
    """One number per item: the mean of its prompts, each the mean of its samples."""
    by_item = defaultdict(list)
    for (owner, item, _), fates in cells.items():
        mean = cell_mean(fates, **absent)
        if owner == model and not isnan(mean):
            by_item[item].append(mean)
    return [fmean(means) for means in by_item.values()]


def close(value: float | None, expected: float | None) -> bool:
    """Whether two numbers, or two gaps, are the same."""
    return value == (None if expected is None else pytest.approx(expected, abs=1e-12))


def check_mean(row: AggregateRow, cells: Cells) -> None:
    """Hold one row of means against the fates of its model."""
    model = str(row.keys["model_id"])
    outcomes = [
        FATES[f][1] for (owner, *_), fates in cells.items() if owner == model for f in fates
    ]
    unreadable = sum(fates.count("unreadable") for (m, *_), fates in cells.items() if m == model)
    units = mean_of_items(cells, model)

    assert row.n_planned == len(outcomes)
    assert (row.n_scored, row.n_failed, row.n_missing) == tuple(
        outcomes.count(name) for name in ("scored", "failed", "missing")
    )
    assert row.n_unreadable == unreadable
    assert row.item_count == len(units)
    assert close(row.mean, fmean(units) if units else None)
    decided = mean_of_items(cells, model, failed=0.0)
    assert close(row.mean_failed_as_zero, fmean(decided) if decided else None)
    assert close(row.bound_lower, fmean(mean_of_items(cells, model, absent=0.0)))
    assert close(row.bound_upper, fmean(mean_of_items(cells, model, absent=1.0)))
    if row.stderr is not None:
        assert close(row.stderr, stdev(units) / sqrt(len(units)))


def pairs_of(cells: Cells) -> Iterator[tuple[float | None, bool, bool]]:
    """For each item the mean difference of its matched prompts, and who has any score."""
    items = sorted({item for _, item, _ in cells})
    prompts = sorted({prompt for *_, prompt in cells})
    for item in items:
        arms = {
            model: {p: m for p in prompts if not isnan(m := cell_mean(cells[model, item, p]))}
            for model in ("base", "new")
        }
        both = [
            arms["new"][p] - arms["base"][p]
            for p in prompts
            if p in arms["base"] and p in arms["new"]
        ]
        yield (fmean(both) if both else None), bool(arms["base"]), bool(arms["new"])


def check_pairs(row: PairedRow, cells: Cells) -> None:
    """Hold one comparison against the fates of both models."""
    found = list(pairs_of(cells))
    deltas = [delta for delta, *_ in found if delta is not None]

    assert row.n_planned == len(found)
    assert row.pair_count == len(deltas)
    assert close(row.delta_mean, fmean(deltas) if deltas else None)
    assert row.wins == sum(delta > 1e-12 for delta in deltas)
    assert row.losses == sum(delta < -1e-12 for delta in deltas)
    assert row.unpaired_baseline == sum(b for delta, b, _ in found if delta is None)
    assert row.unpaired_treatment == sum(t for delta, _, t in found if delta is None)
    if row.method == "paired_t":
        assert close(row.stderr, stdev(deltas) / sqrt(len(deltas)))
    worst, best = (
        fmean(
            fmean(
                cell_mean(cells["new", item, prompt], absent=new)
                - cell_mean(cells["base", item, prompt], absent=1 - new)
                for prompt in ("plain", "terse")
            )
            for item in {item for _, item, _ in cells}
        )
        for new in (0.0, 1.0)
    )
    assert close(row.delta_lower_bound, worst)
    assert close(row.delta_upper_bound, best)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_columns_count_like_a_person_whatever_became_of_the_answers(
    plan: Plan, data: st.DataObject
) -> None:
    possible = data.draw(st.lists(st.sampled_from(sorted(FATES)), min_size=1, unique=True))
    random = data.draw(st.randoms(use_true_random=False))
    fates = {place: random.choice(possible) for place in plan.places}

    live(plan, fates)
    table = read_scores(plan.store, plan.run)

    cells = cells_of(fates)
    rows = aggregate(table, ["model_id"])
    assert [row.keys["model_id"] for row in rows] == ["base", "new"]
    for row in rows:
        check_mean(row, cells)
    (comparison,) = paired_compare(table, baseline="base", group_by=None)
    check_pairs(comparison, cells)
    for prompt, row in product(
        ("plain", "terse"), aggregate(table, ["model_id", "prompt_variant_id"])
    ):
        if row.keys["prompt_variant_id"] == prompt:
            check_mean(row, {key: value for key, value in cells.items() if key[2] == prompt})
