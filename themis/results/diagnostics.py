"""What went wrong, and what was remarked, record by record: plain rows, one at a time.

for row in iter_failures(store, run):
    print(row["item_id"], row["where"], row["message"])
"""

from collections.abc import Iterator, Mapping
from typing import Any

from themis.identity import candidate_id
from themis.storage.plans import Run
from themis.storage.records import EvaluatedRecord, PassIdentity, iter_evaluated
from themis.storage.store import Store
from themis.storage.tables import iter_candidates


def iter_failures(
    store: Store, run: Run, passes: Mapping[int, PassIdentity]
) -> Iterator[dict[str, Any]]:
    """Yield what has no score and why: first candidates without an answer, then scores.

    Args:
        store: The store.
        run: The run.
        passes: The score passes to look at, by the key of their evaluation.

    Yields:
        `level` is "candidate" or "score"; `where` is "inference" or "metric"; `status` is
        `model_error`, `infra_error` (to be tried again), `missing` or `metric_failed`.
    """
    for found in iter_candidates(store, run, failed_only=True):
        error = {} if found.output is None else found.output.get("error", {})
        yield {
            "level": "candidate",
            "trial_hash": found.trial_hash,
            "candidate_id": candidate_id(found.trial_hash, found.sample),
            "sample": found.sample,
            "model_id": found.model["model_id"],
            "slice_id": found.slice_id,
            "prompt_variant_id": found.prompt_variant_id,
            "item_id": found.item_id,
            "status": found.status,
            "where": "inference",
            "code": error.get("code"),
            "message": error.get("message", "no result yet"),
            "evaluation": None,
            "metric_id": None,
        }
    for record in iter_evaluated(store, run, unreadable_only=True):
        if record.evaluation not in passes:
            continue
        for score in record.record["scores"]:
            if score["value"] is None:
                yield {
                    "level": "score",
                    **_whose(record),
                    "status": "metric_failed",
                    "where": "metric",
                    "code": "metric_computation",
                    "message": score["error"] or "the metric gave no score",
                    "evaluation": passes[record.evaluation].name,
                    "metric_id": score["metric"],
                }


def iter_invalid_extractions(
    store: Store, run: Run, passes: Mapping[int, PassIdentity]
) -> Iterator[dict[str, Any]]:
    """Yield the answers that no extractor could read, with each extractor's reason.

    Args:
        store: The store.
        run: The run.
        passes: The score passes to look at, by the key of their evaluation.
    """
    for record in iter_evaluated(store, run, unreadable_only=True):
        extraction = record.record["extraction"]
        if record.evaluation in passes and extraction is not None and not extraction["success"]:
            yield {
                **_whose(record),
                "evaluation": passes[record.evaluation].name,
                "transform_hash": passes[record.evaluation].transform_hash,
                "extractor_id": extraction["extractor"],
                "failure_reason": extraction["reason"],
            }


def iter_tagged_examples(
    store: Store, run: Run, passes: Mapping[int, PassIdentity], tag: str
) -> Iterator[dict[str, Any]]:
    """Yield the scores whose metric gave this tag: `tag` or `tags` in its details.

    Args:
        store: The store.
        run: The run.
        passes: The score passes to look at, by the key of their evaluation.
        tag: The tag.
    """
    for record in iter_evaluated(store, run):
        if record.evaluation not in passes:
            continue
        for score in record.record["scores"]:
            tags = _tags(score["details"])
            if tag in tags:
                yield {
                    **_whose(record),
                    "evaluation": passes[record.evaluation].name,
                    "metric_id": score["metric"],
                    "score": score["value"],
                    "tags": tags,
                    "details": score["details"],
                }


def _tags(details: Mapping[str, Any]) -> list[str]:
    one, many = details.get("tag"), details.get("tags")
    listed = many if isinstance(many, list) else [many]
    return [str(entry) for entry in (one, *listed) if entry is not None]


def _whose(record: EvaluatedRecord) -> dict[str, Any]:
    return {
        "trial_hash": record.trial_hash,
        "candidate_id": candidate_id(record.trial_hash, record.sample),
        "sample": record.sample,
        "model_id": record.model_id,
        "slice_id": record.slice_id,
        "prompt_variant_id": record.prompt_variant_id,
        "item_id": record.item_id,
    }
