"""Take results back: prove them, then write them to the store, shard by shard.

Nothing is stored before the whole bundle was verified. Then each shard is one transaction,
noted in the ledger, so an import that is killed goes on where it was, and importing the same
results again does nothing.

Two proofs stand behind every record. The bundle's own digests say that it answers exactly the
item that is in the bundle. And the item is tied to this store's plan: either the bundle is one
that this store exported, or its model, parameters, prompt and seed are checked against the
planned trial one by one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from themis.errors import ErrorCode, ImportRefusedError, ThemisError
from themis.handoff.proof import PlannedTrials
from themis.handoff.quarantine import set_aside
from themis.storage import projections
from themis.storage.batches import without_cycle_collector
from themis.storage.ledger import (
    ExportedBundle,
    attempt_key,
    find_export,
    record_export,
    record_import,
    was_imported,
)
from themis.storage.plans import MODEL_ERROR, OK, Run, find_run
from themis.storage.store import Store
from themis_bundles import Bundle, Census, Chosen, Problem, chosen, verify
from themis_bundles.attempts import AttemptReader
from themis_bundles.results import read_statuses

Resolve = Literal["refuse", "first"]

PROBLEMS_SHOWN = 20
"""Problems that a refusal lists; `themis verify --json` has all of them."""


class IncompleteResultsError(ThemisError):
    """Some planned items have no result, and partial imports were not asked for."""

    exit_code = 1


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    bundle: str
    """The bundle's digest."""
    run_id: str
    stage: str
    census: Census
    stored: int
    """Records that became events."""
    held: int
    """Records whose candidate the store held already."""
    shards_imported: int
    shards_known: int
    """Shards whose very results had been imported before."""
    dry_run: bool = False
    conflicts: tuple[str, ...] = field(default=())
    """Answers that differ from one that the store holds; the stored one was kept."""


@without_cycle_collector()
def import_results(
    store: Store,
    path: Path,
    *,
    results: Path | None = None,
    allow_partial: bool = False,
    dry_run: bool = False,
    resolve: Resolve = "refuse",
    quarantine: Path | None = None,
) -> ImportReport:
    """Verify the results of a bundle and write them to the store.

    Args:
        store: The store that planned the bundle's run.
        path: The bundle.
        results: Where its results are, when not inside it.
        allow_partial: Import what is there, and leave the rest open.
        dry_run: Verify and count only.
        resolve: What to do with items that have several different answers: refuse the import,
            or take the first by the format's rule, which does not depend on the order of files.
        quarantine: A directory that gets the result files with refused records, and the
            reasons; what proves itself is then imported without them.

    Raises:
        BundleError: The bundle itself is damaged.
        ImportRefusedError: A record is foreign, altered, unreadable or contradicts another.
        IncompleteResultsError: Items are missing and `allow_partial` was not given.
        SpecValidationError: The store has no run of this bundle.
    """
    bundle = Bundle.open(path, results=results)
    census = verify(bundle)
    refused = _refused_problems(census, resolve)
    if refused and quarantine is not None:
        set_aside(bundle, refused, quarantine)
    elif refused:
        raise _refusal(path, census, refused)
    missing = census.counts["missing"]
    if missing and not allow_partial:
        raise IncompleteResultsError(
            f"{path}: {missing} of {sum(s.items for s in bundle.shards)} items have no result yet."
            " Dispatch the bundle again to finish them, or import what is there with"
            " --allow-partial.",
            details={"missing": missing},
        )
    run = find_run(store, bundle.manifest.run_id)
    if dry_run:
        return _report(bundle, run, census, _Totals(), dry_run=True)
    exported = find_export(store, bundle.digest)
    known = exported is not None and exported.own
    if exported is None:
        exported = _adopt(store, bundle, run)
    totals = _Totals()
    for shard in bundle.shards:
        entries = chosen(bundle, shard.index, resolve=resolve)
        _import_shard(store, bundle, shard.index, entries, run, exported, totals, trusted=known)
    return _report(bundle, run, census, totals, dry_run=False)


@dataclass
class _Totals:
    stored: int = 0
    held: int = 0
    imported: int = 0
    known: int = 0
    conflicts: list[str] = field(default_factory=list)


def _report(
    bundle: Bundle, run: Run, census: Census, totals: _Totals, *, dry_run: bool
) -> ImportReport:
    return ImportReport(
        bundle=bundle.digest,
        run_id=run.run_id,
        stage=bundle.manifest.stage,
        census=census,
        stored=totals.stored,
        held=totals.held,
        shards_imported=totals.imported,
        shards_known=totals.known,
        dry_run=dry_run,
        conflicts=tuple(totals.conflicts),
    )


def _refused_problems(census: Census, resolve: Resolve) -> list[Problem]:
    """Return the problems that stand against an import."""
    harmless = ("note", "conflict") if resolve == "first" else ("note",)
    return [problem for problem in census.problems if problem.kind not in harmless]


def _refusal(path: Path, census: Census, refused: list[Problem]) -> ImportRefusedError:
    shown = [str(problem) for problem in refused[:PROBLEMS_SHOWN]]
    if len(refused) > PROBLEMS_SHOWN:
        shown.append(f"… and {len(refused) - PROBLEMS_SHOWN} more")
    if any(problem.kind == "conflict" for problem in refused):
        shown.append("Different answers to one item: --resolve first takes one by a fixed rule.")
    return ImportRefusedError(
        "\n  ".join((f"{path}: the results do not prove what they claim:", *shown)),
        code=ErrorCode.SCHEMA_MISMATCH,
        details={"counts": dict(census.counts)},
    )


def _adopt(store: Store, bundle: Bundle, run: Run) -> ExportedBundle:
    """Enter a bundle into the ledger that another store exported for the same run."""
    items = sum(shard.items for shard in bundle.shards)
    record_export(
        store,
        digest=bundle.digest,
        run=run.key,
        stage=bundle.manifest.stage,
        path=bundle.path,
        items=items,
        own=False,
    )
    exported = find_export(store, bundle.digest)
    assert exported is not None  # noqa: S101 - written one line above
    return exported


def _import_shard(
    store: Store,
    bundle: Bundle,
    shard: int,
    entries: Iterable[Chosen],
    run: Run,
    exported: ExportedBundle,
    totals: _Totals,
    *,
    trusted: bool,
) -> None:
    answered = [entry for entry in entries if entry.record is not None]
    if not answered:
        return
    result_digest = hashlib.sha256(
        b"".join(bytes.fromhex(entry.record.sha256) for entry in answered if entry.record)
    ).hexdigest()
    if was_imported(store, exported.key, shard, result_digest):
        totals.known += 1
        return
    plan = PlannedTrials(store, run, bundle, answered)
    with store.transaction():
        attempts = _attempts(store, bundle, shard, exported, answered)
        events = []
        for entry in answered:
            event, held = _event(entry, plan, bundle, attempts, totals, trusted=trusted)
            totals.held += held
            if event is not None:
                events.append(event)
        stored = projections.append(store, events)
        record_import(
            store,
            bundle=exported.key,
            shard=shard,
            result_digest=result_digest,
            counts={"stored": stored, "records": len(answered)},
        )
    totals.stored += stored
    totals.imported += 1


def _event(
    entry: Chosen,
    plan: PlannedTrials,
    bundle: Bundle,
    attempts: Mapping[str, int],
    totals: _Totals,
    *,
    trusted: bool,
) -> tuple[projections.Event | None, int]:
    """Return the event of a record, or None when the store holds an answer already."""
    record = entry.record
    assert record is not None  # noqa: S101 - filtered by the caller
    planned = plan.of(entry)
    sample = entry.item.body["sample"]
    attempt = attempts[record.attempt]
    if bundle.manifest.stage == "evaluation":
        evaluation = plan.check_evaluation(entry, planned, trusted=trusted)
        if record.status != "ok":
            return None, 0
        if (planned.key, sample, evaluation) in plan.scored:
            return None, 1
        event = projections.Event(
            projections.EVALUATED,
            planned.key,
            sample,
            evaluation,
            attempt,
            record.record,
            record.content,
        )
        return event, 0
    if not trusted:
        plan.check_generation(entry, planned)
    status = planned.samples.get(sample)
    if status is not None and (status == OK or record.status != "ok"):
        both_answer = status == OK and record.status == "ok"
        if both_answer and plan.differs(planned, sample, record.record):
            totals.conflicts.append(f"trial {planned.hash[:12]} sample {sample}")
        if status in (OK, MODEL_ERROR):
            return None, 1
    event = projections.Event(
        projections.GENERATED,
        planned.key,
        sample,
        None,
        attempt,
        record.record,
        record.content,
    )
    return event, 0


def _header(bundle: Bundle, shard: int, attempt: str) -> dict[str, Any]:
    """Return what an attempt says about its engine and machine."""
    reader = AttemptReader(bundle, shard, attempt)
    next(iter(reader), None)
    return {} if reader.header is None else reader.header.model_dump()


def _endings(bundle: Bundle, shard: int) -> dict[str, dict[str, Any]]:
    """Return how each attempt at a shard stood when its status file was last written.

    Nothing proves a status file; it is kept for the timeline of a report and for nothing else.
    """
    kept = {"state", "outcome", "cause", "updated", "host"}
    return {
        status.attempt: status.model_dump(include=kept) for status in read_statuses(bundle, shard)
    }


def _attempts(
    store: Store,
    bundle: Bundle,
    shard: int,
    exported: ExportedBundle,
    entries: Iterable[Chosen],
) -> dict[str, int]:
    """Return the store's key of each attempt that gave one of these records."""
    names = {entry.record.attempt for entry in entries if entry.record is not None}
    endings = _endings(bundle, shard)
    return {
        name: attempt_key(
            store,
            bundle=exported.key,
            shard=shard,
            attempt=name,
            header={**_header(bundle, shard, name), "status": endings.get(name)},
        )
        for name in sorted(names)
    }
