"""Plans in the store: which trials a run consists of, and which of them are still open."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from themis.errors import SpecValidationError
from themis.records.score_table import ScoreStatus
from themis.storage.store import Store, now

OK, MODEL_ERROR, INFRA_ERROR = 0, 1, 2
"""What `candidates.status` holds."""

STATUS_NAMES = {OK: "ok", MODEL_ERROR: "model_error", INFRA_ERROR: "infra_error"}


ABANDONED_AFTER = 86_400.0
"""Seconds after which a plan that was never finished is removed; no plan takes a day."""


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial of a plan, as the store keeps it."""

    hash: str
    slice: int
    model: int
    variant: int
    params: int
    item_hash: str
    item_id: str
    item_payload: bytes | None
    prompt_hash: str


@dataclass(frozen=True)
class ScorePass:
    """One score pass of a slice of a run."""

    slice: int
    name: str
    transform: int | None
    evaluation: int
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A planned run."""

    key: int
    run_id: str
    benchmark_id: str
    benchmark: Mapping[str, Any]
    """The benchmark's canonical form."""
    project: str
    global_seed: int
    num_samples: int
    plan_digest: str
    trials: int
    planned_at: float


class RunRegistration:
    """Write a plan to the store in batches; it becomes a run when it is finished.

    A plan that is never finished leaves a run without an id, which nothing reads and a later
    registration removes.
    """

    def __init__(
        self,
        store: Store,
        *,
        benchmark: int,
        benchmark_id: str,
        project: str,
        global_seed: int,
        num_samples: int,
    ) -> None:
        self._store = store
        with store.transaction() as db:
            abandoned = "SELECT id FROM runs WHERE run_id IS NULL AND planned_at < ?"
            _forget(db.execute(abandoned, (now() - ABANDONED_AFTER,)).fetchall(), store)
            cursor = db.execute(
                "INSERT INTO runs (benchmark_id, benchmark, project, global_seed, num_samples,"
                " planned_at) VALUES (?, ?, ?, ?, ?, ?)",
                (benchmark_id, benchmark, project, global_seed, num_samples, now()),
            )
            self._run = int(cursor.lastrowid or 0)

    def add(self, trials: Sequence[TrialRow]) -> None:
        """Store a batch of trials and their items."""
        encode = self._store.payloads.encode
        items = {row.item_hash: row for row in trials}
        with self._store.transaction() as db:
            known = _known_items(self._store, items)
            db.executemany(
                "INSERT INTO items (hash, item_id, payload) VALUES (?, ?, ?)"
                " ON CONFLICT (hash) DO UPDATE SET payload = excluded.payload"
                " WHERE items.payload IS NULL",
                (
                    (
                        bytes.fromhex(key),
                        row.item_id,
                        None if row.item_payload is None else encode(row.item_payload),
                    )
                    for key, row in items.items()
                    if key not in known
                ),
            )
            db.executemany(
                "INSERT INTO trials (key, hash, slice, model, variant, params, item, prompt_hash)"
                " VALUES (?, ?, ?, ?, ?, ?, (SELECT id FROM items WHERE hash = ?), ?)"
                " ON CONFLICT (key) DO NOTHING",
                (
                    (
                        trial_key(row.hash),
                        bytes.fromhex(row.hash),
                        row.slice,
                        row.model,
                        row.variant,
                        row.params,
                        bytes.fromhex(row.item_hash),
                        bytes.fromhex(row.prompt_hash),
                    )
                    for row in trials
                ),
            )
            db.executemany(
                "INSERT INTO run_trials (run, trial) SELECT ?, id FROM trials WHERE key = ?",
                ((self._run, trial_key(row.hash)) for row in trials),
            )

    def finish(
        self, *, run_id: str, plan_digest: str, trials: int, scores: Iterable[ScorePass]
    ) -> Run:
        """Give the run its id; planning the same run again keeps the first registration."""
        with self._store.transaction() as db:
            found = db.execute("SELECT id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            if found:
                _forget([(self._run,)], self._store)
                db.execute("UPDATE runs SET planned_at = ? WHERE id = ?", (now(), found[0]))
            else:
                db.execute(
                    "UPDATE runs SET run_id = ?, plan_digest = ?, trials = ? WHERE id = ?",
                    (run_id, plan_digest, trials, self._run),
                )
                db.executemany(
                    "INSERT INTO run_scores (run, slice, evaluation, transform, name, metrics)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        (
                            self._run,
                            entry.slice,
                            entry.evaluation,
                            entry.transform,
                            entry.name,
                            json.dumps(entry.metrics),
                        )
                        for entry in scores
                    ),
                )
        return find_run(self._store, run_id)


def find_run(store: Store, name: str) -> Run:
    """Return a run by its id, the start of its id, its benchmark's id, or `latest`.

    A benchmark's id and `latest` mean the run that was planned last.

    Raises:
        SpecValidationError: No run, or more than one, has this name.
    """
    rows = store.db.execute(
        "SELECT r.id, r.run_id, r.benchmark_id, s.body, r.project, r.global_seed, r.num_samples,"
        " r.plan_digest, r.trials, r.planned_at FROM runs r JOIN specs s ON s.id = r.benchmark"
        " WHERE r.run_id IS NOT NULL ORDER BY r.planned_at, r.id"
    ).fetchall()
    runs = [_run(row) for row in rows]
    exact = [run for run in runs if run.run_id == name]
    latest = [run for run in runs if name in ("latest", run.benchmark_id)][-1:]
    prefix = [run for run in runs if run.run_id.startswith(name)] if name else []
    found = exact or latest or prefix
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{run.run_id} ({run.benchmark_id})" for run in runs[-5:]) or "none"
    problem = "more than one run has" if found else "no run has"
    raise SpecValidationError(f"{problem} the name {name!r}; the latest runs are: {known}")


def _run(row: tuple[Any, ...]) -> Run:
    key, run_id, benchmark_id, benchmark, project, global_seed, samples, digest, trials, at = row
    return Run(
        key=key,
        run_id=run_id,
        benchmark_id=benchmark_id,
        benchmark=json.loads(benchmark),
        project=project,
        global_seed=global_seed,
        num_samples=samples,
        plan_digest=digest,
        trials=trials,
        planned_at=at,
    )


def score_passes(store: Store, run: Run) -> list[ScorePass]:
    """Return the score passes of a run, by slice and name."""
    rows = store.db.execute(
        "SELECT slice, name, transform, evaluation, metrics FROM run_scores WHERE run = ?"
        " ORDER BY slice, name",
        (run.key,),
    )
    return [
        ScorePass(
            slice=slice_,
            name=name,
            transform=transform,
            evaluation=evaluation,
            metrics=tuple(json.loads(metrics)),
        )
        for slice_, name, transform, evaluation, metrics in rows
    ]


def held_samples(
    store: Store, hashes: Sequence[str], *, include_failed: bool
) -> set[tuple[str, int]]:
    """Return the (trial, sample) pairs of these trials that need no more generation.

    An answer is held, and so is an item that failed by its own fault, unless `include_failed`
    asks for failed items again. A failure of the engine or the node is never held.
    """
    worst = OK if include_failed else MODEL_ERROR
    marks = ",".join("?" * len(hashes))
    rows = store.db.execute(
        "SELECT t.hash, c.sample FROM trials t JOIN candidates c ON c.trial = t.id"  # noqa: S608
        f" WHERE c.status <= ? AND t.key IN ({marks})",
        (worst, *map(trial_key, hashes)),
    )
    return {(row[0].hex(), row[1]) for row in rows}


def held_candidates(store: Store, keys: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Return (trial, sample, status) of every candidate that the store holds of these trials.

    Args:
        store: The store.
        keys: The trials' keys (`trial_key`), at most a thousand or so at a time.
    """
    marks = ",".join("?" * len(keys))
    return store.db.execute(
        "SELECT c.trial, c.sample, c.status FROM trials t"  # noqa: S608
        f" JOIN candidates c ON c.trial = t.id WHERE t.key IN ({marks})",
        keys,
    ).fetchall()


def held_scores(store: Store, keys: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """Return each (trial, sample, evaluation) of these trials that no failed metric leaves open."""
    marks = ",".join("?" * len(keys))
    return store.db.execute(
        "SELECT s.trial, s.sample, s.evaluation FROM trials t"  # noqa: S608
        f" JOIN scores s ON s.trial = t.id WHERE t.key IN ({marks})"
        " GROUP BY s.trial, s.sample, s.evaluation HAVING sum(s.status = ?) = 0",
        (*keys, ScoreStatus.METRIC_FAILED),
    ).fetchall()


class FoundTrial(NamedTuple):
    """A planned trial, as the store has it, with the hashes of its parts."""

    key: int
    hash: bytes
    slice: int
    model_hash: str
    params_hash: str
    prompt_hash: bytes
    item_hash: bytes
    item_id: str


def find_trials(store: Store, run: Run, keys: Sequence[bytes]) -> list[FoundTrial]:
    """Return the trials of a run that have these keys (`trial_key`), in any order."""
    marks = ",".join("?" * len(keys))
    rows = store.db.execute(
        # The order of a cross join is fixed: trials are found by key, not by run.
        "SELECT t.id, t.hash, t.slice, m.hash, p.hash, t.prompt_hash, i.hash, i.item_id"  # noqa: S608
        " FROM trials t CROSS JOIN run_trials r CROSS JOIN specs m CROSS JOIN specs p"
        " CROSS JOIN items i"
        f" WHERE t.key IN ({marks}) AND r.run = ? AND r.trial = t.id"
        " AND m.id = t.model AND p.id = t.params AND i.id = t.item",
        (*keys, run.key),
    )
    return [FoundTrial(*row) for row in rows]


def trial_key(trial_hash: str) -> bytes:
    """Return the key under which a trial is found: the first 128 bits of its hash."""
    return bytes.fromhex(trial_hash[:32])


def _known_items(store: Store, items: Mapping[str, TrialRow]) -> set[str]:
    """Return which of these items the store holds with all that they bring."""
    marks = ",".join("?" * len(items))
    rows = store.db.execute(
        f"SELECT hash, payload IS NOT NULL FROM items WHERE hash IN ({marks})",  # noqa: S608
        [bytes.fromhex(key) for key in items],
    )
    return {
        digest.hex()
        for digest, has_payload in rows
        if has_payload or items[digest.hex()].item_payload is None
    }


def _forget(runs: Iterable[tuple[int]], store: Store) -> None:
    for (run,) in runs:
        store.db.execute("DELETE FROM run_trials WHERE run = ?", (run,))
        store.db.execute("DELETE FROM runs WHERE id = ?", (run,))
