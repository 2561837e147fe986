"""How far a bundle is: results first, then at most one question to squeue and one to sacct.

The shards' own files say what is done. squeue explains what is alive, and is not asked when
everything is done. sacct explains what is neither, and is not asked when nothing is. Somebody
who watches asks one of the two at a time: what ended is explained at the next look.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from themis.errors import SpecValidationError
from themis_bundles import ShardState, shard_state
from themis_bundles.results import read_statuses
from themis_slurm.dispatcher import LiveShard
from themis_slurm.errors import SchedulerError
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.explain import LOST_FOR_S, Explainer
from themis_slurm.fleet import Fleet
from themis_slurm.options import TaskOptions
from themis_slurm.records import SubmissionRecord, read_records, tries_without_progress
from themis_slurm.usage import Usage, usage_of
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
        usage: What its attempts used, and how fast the running one is.
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
    usage: Usage = field(default_factory=Usage)

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is done at the rate of its running attempt; None when none runs."""
        if self.usage.items_per_s <= 0:
            return None
        return (self.items - self.done) / self.usage.items_per_s


@dataclass(frozen=True)
class ArrayRow:
    """One submission, with the shards of which it is the latest.

    Attributes:
        number: Its place among the submissions.
        job: The array's job id; empty for a local pool, or when it is not known.
        shards: How many shards it had.
        counts: Where those stand of which it is the latest submission, by the words of `Cause`.
        items: Items of these.
        done: Items finished for good, likewise.
    """

    number: int
    job: str
    shards: int
    counts: Mapping[str, int]
    items: int
    done: int


@dataclass(frozen=True)
class ClusterStatus:
    """A bundle's progress at one moment.

    Attributes:
        bundle: The bundle's directory.
        digest: Its identity.
        submissions: How many arrays were submitted so far.
        rows: Every shard, in order.
        arrays: Every submission, oldest first.
        scheduler_error: Why Slurm could not be asked; None when it could.
    """

    bundle: str
    digest: str
    submissions: int
    rows: tuple[ShardRow, ...]
    arrays: tuple[ArrayRow, ...] = ()
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
    def items_per_s(self) -> float:
        """Items finished per second by the running attempts; 0 when not known yet."""
        return sum(row.usage.items_per_s for row in self.rows)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated per second, likewise."""
        return sum(row.usage.tokens_per_s for row in self.rows)

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return sum(row.usage.tokens for row in self.rows)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours used so far, by all attempts."""
        return sum(row.usage.gpu_seconds for row in self.rows) / 3600

    @property
    def errors(self) -> dict[str, int]:
        """How many items failed, by kind and code, the most frequent first."""
        errors: Counter[str] = Counter()
        for row in self.rows:
            errors.update(row.usage.errors)
        return dict(errors.most_common())

    @property
    def slowest(self) -> ShardRow | None:
        """The running shard that will be done last at its present rate."""
        running = [row for row in self.rows if row.eta_s is not None]
        return max(running, key=lambda row: row.eta_s or 0.0, default=None)

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
            "tokens": self.tokens,
            "gpu_hours": round(self.gpu_hours, 4),
            "errors": self.errors,
            "slowest_shard": None if self.slowest is None else self.slowest.shard,
            "arrays": [asdict(array) for array in self.arrays],
            "submissions": self.submissions,
            "scheduler_error": self.scheduler_error,
            "rows": [{**asdict(row), "advice": row.cause.advice} for row in self.rows],
        }


class StatusReader:
    """Reads a bundle's status again and again, and each complete shard only once.

    Args:
        workspace: The bundle.
        fleet: Whom to ask what is alive.
        one_question: Whether to ask Slurm at most one question for each reading: what is alive,
            or what became of those that ended.
    """

    def __init__(self, workspace: Workspace, fleet: Fleet, *, one_question: bool = False) -> None:
        self._workspace = workspace
        self._fleet = fleet
        self._one_question = one_question
        self._explainer = Explainer(
            workspace, fleet, lost_for_s=LOST_FOR_S if one_question else 0.0
        )
        self._owed: Mapping[int, LiveShard] | None = None
        self._complete: dict[int, ShardState] = {}
        self._used: dict[int, Usage] = {}
        self._gpus: dict[str, int] = {}

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
        asked = self._owed is None or not self._one_question
        alive, error = self._ask_alive(records) if asked else (self._owed or {}, None)
        # After the question, not before: a shard that ended in between is seen as complete.
        states = self._states()
        dead = [
            shard
            for shard in sorted({shard for record in records for shard in record.shards})
            if not states[shard].done and shard not in alive
        ]
        verdicts, owed = self._explainer.explain(
            records,
            dead,
            unreachable=error is not None,
            may_ask=not (self._one_question and asked),
        )
        self._owed = alive if owed else None
        used = self._usage(records, alive, states)
        rows = tuple(_rows(states, alive, verdicts, records, used))
        return ClusterStatus(
            bundle=str(self._workspace.bundle.path),
            digest=self._workspace.bundle.digest,
            submissions=len(records),
            rows=rows,
            arrays=tuple(_arrays(records, rows)),
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

    def _usage(
        self,
        records: Sequence[SubmissionRecord],
        alive: Mapping[int, LiveShard],
        states: Mapping[int, ShardState],
    ) -> dict[int, Usage]:
        """Add up what every shard used; that of a complete one is read only once."""
        by_job = {record.job_id: record for record in records if record.job_id}
        latest = {shard: record for record in records for shard in record.shards}

        def gpus_of(shard: int) -> Callable[[str], int]:
            def of_attempt(attempt: str) -> int:
                record = by_job.get(attempt.partition("_")[0]) or latest.get(shard)
                return 0 if record is None else self._gpus_of(record)

            return of_attempt

        used = {}
        for shard, state in states.items():
            if shard in self._used:
                used[shard] = self._used[shard]
                continue
            live = alive.get(shard)
            used[shard] = usage_of(
                read_statuses(self._workspace.bundle, shard),
                gpus_of(shard),
                runs=live is not None and live.running and not state.done,
            )
            if state.done:
                self._used[shard] = used[shard]
        return used

    def _gpus_of(self, record: SubmissionRecord) -> int:
        """Give the GPUs of one shard of a submission; 0 when its options are gone."""
        if record.options not in self._gpus:
            try:
                self._gpus[record.options] = TaskOptions.load(Path(record.options)).gpus
            except SpecValidationError:
                self._gpus[record.options] = 0
        return self._gpus[record.options]


def _rows(
    states: Mapping[int, ShardState],
    alive: Mapping[int, LiveShard],
    verdicts: Mapping[int, Verdict],
    records: Sequence[SubmissionRecord],
    used: Mapping[int, Usage],
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
            usage=used[shard],
        )


def _arrays(records: Sequence[SubmissionRecord], rows: Sequence[ShardRow]) -> Iterator[ArrayRow]:
    latest = {shard: record.number for record in records for shard in record.shards}
    by_shard = {row.shard: row for row in rows}
    for record in records:
        mine = [by_shard[shard] for shard in record.shards if latest[shard] == record.number]
        yield ArrayRow(
            number=record.number,
            job=record.job_id or "",
            shards=len(record.shards),
            counts=dict(Counter(row.cause.value for row in mine).most_common()),
            items=sum(row.items for row in mine),
            done=sum(row.done for row in mine),
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
