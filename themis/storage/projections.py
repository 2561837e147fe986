"""Events, and the projections that follow from them.

An event says that a candidate was generated (or failed), or that it was evaluated. Applying
events in order gives the projections; the same functions apply a new event and replay old
ones, so a rebuilt store has the same rows.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from themis.storage.plans import INFRA_ERROR, MODEL_ERROR, OK
from themis.storage.schema import PROJECTIONS
from themis.storage.store import Store, now
from themis_bundles import canonical_json

GENERATED, EVALUATED = 1, 2
"""What `events.kind` holds."""

SCORED, METRIC_FAILED, EXTRACTION_FAILED = 0, 4, 3
"""What `scores.status` holds; the numbers are those of `themis.records.score_table`."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a candidate, before the store numbers it."""

    kind: int
    trial: int
    sample: int
    evaluation: int | None
    attempt: int | None
    record: Mapping[str, Any]
    data: bytes | None = None
    """The canonical bytes of the record, where they are at hand."""


def append(store: Store, events: Iterable[Event]) -> int:
    """Append events and apply them to the projections; call inside a transaction.

    Returns:
        How many events were appended.
    """
    encode = store.payloads.encode
    at = now()
    (last,) = store.db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    # AUTOINCREMENT never reuses a number, even of a deleted row.
    sequence = store.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    seq = max(last, sequence[0] if sequence else 0)
    rows, applied = [], []
    for event in events:
        seq += 1
        data = canonical_json(event.record) if event.data is None else event.data
        rows.append(
            (
                seq,
                event.kind,
                event.trial,
                event.sample,
                event.evaluation,
                event.attempt,
                at,
                hashlib.sha256(data).digest(),
                encode(data),
            )
        )
        applied.append((seq, event))
    store.db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    _apply(store, applied)
    return len(rows)


def rebuild(store: Store) -> int:
    """Drop the projections and replay every event.

    Returns:
        How many events were replayed.
    """
    with store.transaction() as db:
        for table in PROJECTIONS:
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - fixed names
        count = 0
        batch: list[tuple[int, Event]] = []
        for seq, event in _stored_events(store):
            batch.append((seq, event))
            count += 1
            if len(batch) == 2000:  # noqa: PLR2004
                _apply(store, batch)
                batch.clear()
        _apply(store, batch)
    return count


def _stored_events(store: Store) -> Iterator[tuple[int, Event]]:
    rows = store.db.execute(
        "SELECT seq, kind, trial, sample, evaluation, attempt, payload FROM events ORDER BY seq"
    )
    for seq, kind, trial, sample, evaluation, attempt, payload in rows:
        record = orjson.loads(store.payloads.decode(payload))
        yield seq, Event(kind, trial, sample, evaluation, attempt, record)


def _apply(store: Store, events: Iterable[tuple[int, Event]]) -> None:
    candidates: list[tuple[Any, ...]] = []
    scored: list[tuple[Any, ...]] = []
    scores: list[tuple[Any, ...]] = []
    metric_keys: dict[str, int] = {}
    for seq, event in events:
        if event.kind == GENERATED:
            candidates.append(_candidate_row(seq, event))
        else:
            scored.append((event.trial, event.sample, event.evaluation))
            scores.extend(_score_rows(store, metric_keys, seq, event))
    # An answer is never replaced; a failure is, by whatever comes later.
    store.db.executemany(
        "INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (trial, sample) DO UPDATE SET status = excluded.status,"
        " finish_reason = excluded.finish_reason, prompt_tokens = excluded.prompt_tokens,"
        " completion_tokens = excluded.completion_tokens, latency_ms = excluded.latency_ms,"
        " error_code = excluded.error_code, error_message = excluded.error_message,"
        " event = excluded.event WHERE candidates.status <> 0",
        candidates,
    )
    store.db.executemany(
        "DELETE FROM scores WHERE trial = ? AND sample = ? AND evaluation = ?", scored
    )
    store.db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", scores)


def _candidate_row(seq: int, event: Event) -> tuple[Any, ...]:
    record = event.record
    error = record.get("error")
    if error is None:
        usage = record.get("usage") or {}
        return (
            event.trial,
            event.sample,
            OK,
            record.get("finish_reason"),
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
            record.get("latency_ms"),
            None,
            None,
            seq,
        )
    status = MODEL_ERROR if error.get("kind") == "model" else INFRA_ERROR
    message = str(error.get("message", ""))
    code = error.get("code")
    return event.trial, event.sample, status, None, None, None, None, code, message, seq


def score_status(record: Mapping[str, Any], score: Mapping[str, Any]) -> int:
    """Return what became of one score of an evaluation record."""
    if score["value"] is None:
        return METRIC_FAILED
    extraction = record.get("extraction")
    unreadable = extraction is not None and not extraction["success"]
    return EXTRACTION_FAILED if unreadable else SCORED


def _score_rows(
    store: Store, metric_keys: dict[str, int], seq: int, event: Event
) -> Iterator[tuple[Any, ...]]:
    for score in event.record["scores"]:
        status = score_status(event.record, score)
        name = score["metric"]
        if name not in metric_keys:
            metric_keys[name] = _metric_key(store, name)
        metric = metric_keys[name]
        yield event.trial, event.sample, event.evaluation, metric, status, score["value"], seq


def _metric_key(store: Store, name: str) -> int:
    store.db.execute("INSERT INTO metrics (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    row = store.db.execute("SELECT id FROM metrics WHERE name = ?", (name,)).fetchone()
    return int(row[0])


def event_record(store: Store, seq: int) -> dict[str, Any]:
    """Return the record of an event."""
    (payload,) = store.db.execute("SELECT payload FROM events WHERE seq = ?", (seq,)).fetchone()
    record: dict[str, Any] = json.loads(store.payloads.decode(payload))
    return record
