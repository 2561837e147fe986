"""Why shards that are neither done nor alive ended: the best witness first.

1. The command that cancelled it noted so.
2. The task's last words.
3. The attempt's own receipt: it stopped in time, or its engine died, or items failed.
4. Accounting, asked once about all that are left.
5. What Slurm wrote into the log, where accounting knows nothing or does not exist.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from themis_bundles.receipts import Status
from themis_bundles.results import read_statuses
from themis_slurm.dispatcher import UNANSWERED
from themis_slurm.evidence import Cause, Verdict, judge_log
from themis_slurm.failures import Failure, read_failures
from themis_slurm.fleet import Fleet
from themis_slurm.records import SubmissionRecord
from themis_slurm.submit import logs_of
from themis_slurm.workspace import Workspace

LOG_TAIL_BYTES = 16 << 10
# Accounting is late, so that it knows nothing of a shard is an answer for so long only, and
# only to somebody who watches.
LOST_FOR_S = 60.0

# What a worker gives as the cause of a partial end when it was asked to stop. After a SIGTERM
# only Slurm knows whether somebody cancelled the job.
_STOPS = frozenset({"deadline", "SIGUSR2", "SIGINT", "interrupted", ""})


class Explainer:
    """Explains shards again and again, and asks accounting about each end only once.

    Args:
        workspace: The bundle.
        fleet: Whom to ask.
        lost_for_s: For how long "accounting knows nothing" counts as an answer.
    """

    def __init__(self, workspace: Workspace, fleet: Fleet, *, lost_for_s: float) -> None:
        self._lost_for_s = lost_for_s
        self._workspace = workspace
        self._fleet = fleet
        self._told: dict[int, tuple[int, Verdict, float]] = {}

    def explain(
        self,
        records: Sequence[SubmissionRecord],
        dead: Sequence[int],
        *,
        unreachable: bool,
        may_ask: bool,
    ) -> tuple[dict[int, Verdict], bool]:
        """Say why shards ended.

        Args:
            records: The submissions, oldest first.
            dead: The shards, each of which has a submission.
            unreachable: Whether Slurm did not answer a moment ago.
            may_ask: Whether accounting may be asked now.

        Returns:
            The verdicts, and whether a question to accounting is open.
        """
        for shard in set(self._told).difference(dead):  # it came to life again, or is done
            del self._told[shard]
        latest = {shard: record for record in records for shard in record.shards}
        words = (
            {(f.job, f.shard): f for f in read_failures(self._workspace.failures)} if dead else {}
        )
        verdicts: dict[int, Verdict] = {}
        unexplained: list[int] = []
        for shard in dead:
            record = latest[shard]
            verdict = self._without_asking(record, shard, words)
            if verdict is not None:
                verdicts[shard] = verdict
            elif unreachable:
                verdicts[shard] = Verdict(Cause.UNKNOWN)
            else:
                unexplained.append(shard)
        if not unexplained:
            return verdicts, False
        if not may_ask:
            later = Verdict(Cause.UNKNOWN, "accounting is asked next")
            return verdicts | dict.fromkeys(unexplained, later), True
        found = self._fleet.evidence(records, unexplained)
        for shard, verdict in found.items():
            better = self._from_log(shard) if verdict.cause is Cause.LOST else None
            settled = replace(better, node=verdict.node) if better else verdict
            self._told[shard] = (latest[shard].number, settled, time.monotonic())
            verdicts[shard] = settled
        return verdicts, False

    def _without_asking(
        self,
        record: SubmissionRecord,
        shard: int,
        words: Mapping[tuple[str, int], Failure],
    ) -> Verdict | None:
        failure = words.get((record.job_id or "", shard))
        if shard in record.cancelled:
            return Verdict(Cause.CANCELLED, "by our own command")
        if failure is not None:
            return Verdict(failure.cause, first_line(failure.message), failure.node)
        if record.state == "prepared":
            return Verdict(Cause.PENDING, UNANSWERED)
        return self._from_receipt(record, shard) or self._remembered(record, shard)

    def _remembered(self, record: SubmissionRecord, shard: int) -> Verdict | None:
        number, verdict, when = self._told.get(shard, (0, Verdict(Cause.LOST), 0.0))
        if number != record.number:
            return None
        if verdict.cause is Cause.LOST and time.monotonic() - when >= self._lost_for_s:
            return None
        return verdict

    def _from_receipt(self, record: SubmissionRecord, shard: int) -> Verdict | None:
        """Say what the shard's attempt of this submission says of its own end.

        Its receipt is there before Slurm's accounting is.
        """
        element = record.element(shard) or ""
        prefix = element if "_" in element else f"{element}_0"
        mine = [
            status
            for status in read_statuses(self._workspace.bundle, shard)
            if status.attempt.startswith(f"{prefix}.") and record.job_id is not None
        ]
        last = max(mine, key=lambda status: status.started, default=None)
        return None if last is None else judge_receipt(last)

    def _from_log(self, shard: int) -> Verdict | None:
        logs = logs_of(self._workspace, shard)
        return judge_log(tail_of(logs[-1])) if logs else None


def judge_receipt(status: Status) -> Verdict | None:
    """Say why an attempt ended incomplete, as far as its own receipt says."""
    if status.outcome != "partial":
        return None
    if status.cause in _STOPS:
        return Verdict(Cause.STOPPED, "before its time limit, or preempted", status.host)
    if status.cause == "SIGTERM":
        return None
    cause = Cause.BAD_ITEM if status.cause.endswith("through the machinery") else Cause.ENGINE_CRASH
    return Verdict(cause, first_line(status.cause), status.host)


def tail_of(log: Path) -> str:
    """Give the end of a log file; nothing when it cannot be read."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def first_line(message: str) -> str:
    """Give the line that says what happened: the last one of a traceback, else the first."""
    lines = [line for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[-1].strip() if lines[0].startswith("Traceback") else lines[0].strip()
