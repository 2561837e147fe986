"""Put together what a report shows of a run, from the store."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from themis.evaluation.references import USUAL_FIELDS
from themis.records.score_table import ScoreStatus, ScoreTable
from themis.results.aggregate import AggregateRow, aggregate
from themis.results.compare import PairedRow, paired_compare
from themis.results.prompts import PlannedPrompts
from themis.results.report.data import (
    ItemDetail,
    ItemExtraction,
    ItemScore,
    Message,
    ReportData,
    score_census,
)
from themis.specs.generation import params_label
from themis.storage.ledger import attempt_headers
from themis.storage.plans import Run
from themis.storage.projections import score_status
from themis.storage.store import Store
from themis.storage.tables import CandidateDetail, iter_candidates, read_scores

KEYS = ("model_id", "slice_id", "prompt_variant_id", "params", "evaluation", "metric_id")


def report_data(store: Store, run: Run, *, title: str | None = None) -> ReportData:
    """Return everything that a report of a run shows; items are read as they are needed.

    Args:
        store: The store.
        run: The run.
        title: The heading; the benchmark's id when not given.
    """
    table = read_scores(store, run)
    return ReportData(
        title=title or run.benchmark_id,
        run_id=run.run_id,
        created=datetime.fromtimestamp(run.planned_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        census=score_census(table),
        aggregates=tuple(default_aggregates(table)),
        paired=tuple(default_comparisons(table)),
        slices=tuple(aggregate(table, ("model_id", "slice_id", "evaluation", "metric_id"))),
        provenance=provenance(store, run),
        items=item_details(store, run),
        notes=tuple(_notes(table)),
    )


def default_aggregates(table: ScoreTable) -> list[AggregateRow]:
    """Return the means of every combination that was asked for."""
    return aggregate(table, KEYS)


def default_comparisons(table: ScoreTable) -> list[PairedRow]:
    """Compare models, and prompt variants, with the first of them; Holm over each family."""
    rows: list[PairedRow] = []
    if len(table.models) > 1:
        rows += paired_compare(
            table, compare="model_id", baseline=table.models[0], p_value_correction="holm"
        )
    if len(table.prompts) > 1:
        rows += paired_compare(
            table,
            compare="prompt_variant_id",
            baseline=table.prompts[0],
            group_by=("slice_id", "model_id"),
            p_value_correction="holm",
        )
    return rows


def provenance(store: Store, run: Run) -> dict[str, Any]:
    """Return how the results of a run came about: its plan, and each engine that answered."""
    engines: Counter[str] = Counter()
    for header in attempt_headers(store, run.key):
        engines[json.dumps(header.get("provenance", {}), sort_keys=True)] += 1
    return {
        "run": {
            "run_id": run.run_id,
            "plan_digest": run.plan_digest,
            "project": run.project,
            "global_seed": run.global_seed,
            "trials": run.trials,
            "samples": run.num_samples,
        },
        **{
            f"attempts like {number}": {"attempts": count, **json.loads(text)}
            for number, (text, count) in enumerate(sorted(engines.items()), 1)
        },
        "benchmark": dict(run.benchmark),
    }


def item_details(store: Store, run: Run) -> Iterator[ItemDetail]:
    """Yield every candidate with its prompt, output, extractions and scores."""
    prompts = PlannedPrompts(run)
    for candidate in iter_candidates(store, run):
        output = candidate.output or {}
        error = output.get("error")
        yield ItemDetail(
            slice_id=candidate.slice_id,
            model_id=candidate.model["model_id"],
            prompt_variant_id=candidate.prompt_variant_id,
            item_id=candidate.item_id,
            sample=candidate.sample,
            params=params_label(candidate.params["temperature"], candidate.params["max_tokens"]),
            messages=tuple(
                Message(message["role"], message["content"])
                for message in prompts.of(candidate) or ()
            ),
            output=output.get("text"),
            finish_reason=output.get("finish_reason"),
            extractions=tuple(_extractions(candidate)),
            scores=tuple(_scores(candidate)),
            expected=_expected(candidate.payload),
            error=f"{error['code']}: {error['message']}" if error else None,
        )


def _extractions(candidate: CandidateDetail) -> Iterator[ItemExtraction]:
    for record in candidate.evaluations.values():
        found = record["extraction"]
        if found is not None:
            yield ItemExtraction(
                found["extractor"], found["success"], found["value"], found["reason"]
            )


def _scores(candidate: CandidateDetail) -> Iterator[ItemScore]:
    for name, record in candidate.evaluations.items():
        for score in record["scores"]:
            status = ScoreStatus(score_status(record, score))
            note = score["error"] or score["details"].get("reason")
            yield ItemScore(score["metric"], name, score["value"], status, note)


def _expected(payload: Mapping[str, Any] | None) -> Any:
    if payload is None:
        return None
    return next((payload[name] for name in USUAL_FIELDS if name in payload), None)


def _notes(table: ScoreTable) -> Iterator[str]:
    absent = int((~table.scored).sum())
    if absent:
        yield (
            f"{absent:,} of {table.rows:,} planned scores are absent (failed or missing); "
            "the bounds show what they could change."
        )
