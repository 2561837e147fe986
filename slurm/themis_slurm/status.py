"""How far a bundle is: results first, then at most one question to squeue and one to sacct.

The shards' own files say what is done. squeue explains what is alive, and is not asked when
everything is done. sacct explains what is neither, and is not asked when nothing is.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from themis_bundles import ShardState, shard_state
from themis_bundles.receipts import Status
from themis_bundles.results import read_statuses
from themis_slurm.dispatcher import UNANSWERED, LiveShard
from themis_slurm.errors import SchedulerError
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.failures import Failure, read_failures
from themis_slurm.fleet import Fleet
from themis_slurm.records import SubmissionRecord, read_records, tries_without_progress
from themis_slurm.workspace import Workspace


@dataclass(frozen=True)
class ShardRow:
    """One shard.

    Attributes:
        shard: Its index.
        cause: Where it stands, and why.
        items: Items it has.
        done: Items finished for good, model errors included.
        ok: Items that were answered.
        model_error: Items that failed by their own fault.
        infra_error: Items that failed by the machine's fault and will be tried again.
        attempts: Attempts that left a result file.
        tries_without_progress: Latest submissions that finished nothing of it.
        job: What the cluster calls its live element.
        node: Where it runs, or ran last.
        detail: Why it waits, or what went wrong.
    """

    shard: int
    cause: Cause
    items: int
    done: int
    ok: int
    model_error: int
    infra_error: int
    attempts: int
    tries_without_progress: int
    job: str = ""
    node: str = ""
    detail: str = ""


@dataclass(frozen=True)
class ClusterStatus:
    """A bundle's progress at one moment.

    Attributes:
        bundle: The bundle's directory.
        digest: Its identity.
        submissions: How many arrays were submitted so far.
        rows: Every shard, in order.
        items_per_s: Items finished per second by the running attempts; 0 when not known yet.
        tokens_per_s: Tokens generated per second, likewise.
        scheduler_error: Why Slurm could not be asked; None when it could.
    """

    bundle: str
    digest: str
    submissions: int
    rows: tuple[ShardRow, ...]
    items_per_s: float
    tokens_per_s: float
    scheduler_error: str | None = None

    @property
    def items(self) -> int:
        """Items of all shards."""
        return sum(row.items for row in self.rows)

    @property
    def done(self) -> int:
        """Items finished for good."""
        return sum(row.done for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many shards stand where, the most frequent first."""
        return dict(Counter(row.cause.value for row in self.rows).most_common())

    @property
    def complete(self) -> bool:
        """Whether every shard is complete."""
        return all(row.cause is Cause.COMPLETE for row in self.rows)

    @property
    def eta_s(self) -> float | None:
        """Seconds until everything is done at the present rate; None when nothing moves."""
        if self.items_per_s <= 0:
            return None
        return (self.items - self.done) / self.items_per_s

    def with_cause(self, *causes: Cause) -> tuple[ShardRow, ...]:
        """Give the shards that stand in one of some places."""
        return tuple(row for row in self.rows if row.cause in causes)

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON."""
        return {
            "bundle": self.bundle,
            "digest": self.digest,
            "complete": self.complete,
            "shards": {"total": len(self.rows), **self.counts},
            "items": {"total": self.items, "done": self.done},
            "items_per_s": round(self.items_per_s, 3),
            "tokens_per_s": round(self.tokens_per_s, 3),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "submissions": self.submissions,
            "scheduler_error": self.scheduler_error,
            "rows": [{**asdict(row), "advice": row.cause.advice} for row in self.rows],
        }


class StatusReader:
    """Reads a bundle's status again and again, and each complete shard only once."""

    def __init__(self, workspace: Workspace, fleet: Fleet) -> None:
        self._workspace = workspace
        self._fleet = fleet
        self._complete: dict[int, ShardState] = {}

    def all_complete(self, shards: Iterable[int]) -> bool:
        """Whether shards are complete, from their files alone."""
        return all(self._state(shard).done for shard in shards)

    def read(self) -> ClusterStatus:
        """Read the status now; when Slurm cannot be asked, it says so and gives the rest."""
        records = [
            record
            for record in read_records(self._workspace.submissions)
            if record.state != "refused"
        ]
        alive, error = self._ask_alive(records)
        # After the question, not before: a shard that ended in between is seen as complete.
        states = self._states()
        dead = [
            shard
            for shard in sorted({shard for record in records for shard in record.shards})
            if not states[shard].done and shard not in alive
        ]
        verdicts = self._explain(records, dead, error)
        running = [shard for shard, live in alive.items() if live.running]
        items_per_s, tokens_per_s = self._rates(running)
        return ClusterStatus(
            bundle=str(self._workspace.bundle.path),
            digest=self._workspace.bundle.digest,
            submissions=len(records),
            rows=tuple(_rows(states, alive, verdicts, records)),
            items_per_s=items_per_s,
            tokens_per_s=tokens_per_s,
            scheduler_error=error,
        )

    def _states(self) -> dict[int, ShardState]:
        return {s.index: self._state(s.index) for s in self._workspace.bundle.shards}

    def _state(self, shard: int) -> ShardState:
        known = self._complete.get(shard)
        if known is None:
            known = shard_state(self._workspace.bundle, shard)
            if known.done:
                self._complete[shard] = known
        return known

    def _ask_alive(
        self, records: Sequence[SubmissionRecord]
    ) -> tuple[Mapping[int, LiveShard], str | None]:
        open_ = [r for r in records if any(s not in self._complete for s in r.shards)]
        try:
            return self._fleet.alive(open_), None
        except SchedulerError as error:
            return {}, str(error)

    def _explain(
        self, records: Sequence[SubmissionRecord], dead: Sequence[int], error: str | None
    ) -> Mapping[int, Verdict]:
        verdicts: dict[int, Verdict] = {}
        latest = {shard: record for record in records for shard in record.shards}
        words = {(failure.job, failure.shard): failure for failure in self._failures(dead)}
        unexplained = []
        for shard in dead:
            record = latest[shard]
            failure = words.get((record.job_id or "", shard))
            if shard in record.cancelled:
                verdicts[shard] = Verdict(Cause.CANCELLED, "by our own command")
            elif failure is not None:
                verdicts[shard] = Verdict(failure.cause, _first_line(failure.message), failure.node)
            elif record.state == "prepared":
                verdicts[shard] = Verdict(Cause.PENDING, UNANSWERED)
            elif self._stopped_in_time(record, shard):
                verdicts[shard] = Verdict(Cause.STOPPED, "before its time limit, or preempted")
            elif error is not None:
                verdicts[shard] = Verdict(Cause.UNKNOWN)
            else:
                unexplained.append(shard)
        if unexplained:
            verdicts |= self._fleet.evidence(records, unexplained)
        return verdicts

    def _stopped_in_time(self, record: SubmissionRecord, shard: int) -> bool:
        """Whether the shard's attempt of this submission says so itself.

        Its receipt is there before Slurm's accounting is. After a SIGTERM it is not asked:
        only Slurm knows whether somebody cancelled the job.
        """
        element = record.element(shard) or ""
        prefix = element if "_" in element else f"{element}_0"
        mine = [
            status
            for status in read_statuses(self._workspace.bundle, shard)
            if status.attempt.startswith(f"{prefix}.") and record.job_id is not None
        ]
        last = max(mine, key=lambda status: status.started, default=None)
        return last is not None and last.outcome == "partial" and last.cause != "SIGTERM"

    def _failures(self, dead: Sequence[int]) -> Iterable[Failure]:
        return read_failures(self._workspace.failures) if dead else ()

    def _rates(self, running: Iterable[int]) -> tuple[float, float]:
        items = tokens = 0.0
        for shard in running:
            live = [s for s in read_statuses(self._workspace.bundle, shard) if s.state == "running"]
            if live:
                newest = max(live, key=lambda status: status.started)
                items += _rate(newest, newest.records)
                tokens += _rate(newest, _tokens(newest))
        return items, tokens


def _rate(status: Status, amount: float) -> float:
    """Give an amount per second; both times are of the same clock, the node's."""
    elapsed = status.updated - status.started
    return amount / elapsed if elapsed > 0 else 0.0


def _tokens(status: Status) -> float:
    tokens = (status.model_extra or {}).get("tokens")
    return float(tokens) if isinstance(tokens, int | float) else 0.0


def _rows(
    states: Mapping[int, ShardState],
    alive: Mapping[int, LiveShard],
    verdicts: Mapping[int, Verdict],
    records: Sequence[SubmissionRecord],
) -> Iterator[ShardRow]:
    by_shard: dict[int, list[SubmissionRecord]] = {}
    for record in records:
        for shard in record.shards:
            by_shard.setdefault(shard, []).append(record)
    for shard, state in states.items():
        verdict, job = _verdict(state, alive.get(shard), verdicts.get(shard))
        done = state.ok + state.model_error
        yield ShardRow(
            shard=shard,
            cause=verdict.cause,
            items=state.items,
            done=done,
            ok=state.ok,
            model_error=state.model_error,
            infra_error=state.infra_error,
            attempts=len(state.attempts),
            tries_without_progress=(
                0 if state.done else tries_without_progress(by_shard.get(shard, ()), shard, done)
            ),
            job=job,
            node=verdict.node,
            detail=verdict.detail,
        )


def _verdict(
    state: ShardState, live: LiveShard | None, verdict: Verdict | None
) -> tuple[Verdict, str]:
    if state.done:
        return Verdict(Cause.COMPLETE), ""
    if live is not None:
        cause = Cause.RUNNING if live.running else Cause.PENDING
        return Verdict(cause, "" if live.running else live.reason, live.node), live.job
    return verdict or Verdict(Cause.NOT_SUBMITTED), ""


def _first_line(message: str) -> str:
    """Give the line that says what happened: the last one of a traceback, else the first."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1].strip() if lines[0].startswith("Traceback") else lines[0].strip()
