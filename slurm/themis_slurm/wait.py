"""From a bundle to a complete bundle: submit, wait, submit what is left, until nothing is left.

It keeps no state of its own. Interrupting it leaves Slurm's jobs running (a local pool stops in
an orderly way), and calling it again continues.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from themis_slurm.errors import (
    SchedulerError,
    SubmissionLockedError,
    SubmissionRefusedError,
)
from themis_slurm.evidence import Cause
from themis_slurm.fleet import Fleet, fleet_for
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord, read_records, tries_without_progress
from themis_slurm.status import ClusterStatus, ShardRow, StatusReader
from themis_slurm.submit import Submitted, items_done, submit
from themis_slurm.workspace import Workspace, open_for_profile

log = logging.getLogger(__name__)

_ALIVE = frozenset({Cause.RUNNING, Cause.PENDING, Cause.UNKNOWN})
_LEFT_ALONE = _ALIVE | {Cause.COMPLETE}
# Nothing that this program could do again would end better.
_FINAL = frozenset({Cause.CANCELLED, Cause.BAD_INPUT})


@dataclass(frozen=True)
class Patience:
    """How often to look, and how long to hope."""

    poll_s: float = 2.0
    """The first pause between two looks at the result files; each one is twice the last."""

    longest_poll_s: float = 30.0
    """The longest such pause."""

    scheduler_s: float = 30.0
    """The shortest time between two questions to Slurm."""

    settle_s: float = 30.0
    """How long a shard of which nothing is known must be gone before it is submitted again."""

    tries: int = 3
    """Submissions of a shard that may finish nothing of it before it is given up."""


def run_until_done(
    bundle: Path,
    profile: ClusterProfile,
    *,
    on_status: Callable[[ClusterStatus], None],
    patience: Patience | None = None,
) -> ClusterStatus:
    """Work on a bundle until it is complete, or nothing that is left can be helped.

    Shards that end incomplete are submitted again, unless somebody cancelled them, or
    `patience.tries` submissions in a row finished nothing of them. Every call starts counting
    anew.

    Args:
        bundle: The bundle's directory.
        profile: Where and how.
        on_status: Called after every question to the cluster.
        patience: How often to look.

    Returns:
        The last status; `complete` says which of the two it is.

    Raises:
        SubmissionLockedError: Another process is submitting this bundle.
        SubmissionRefusedError: Slurm refuses to take anything.
        SchedulerError: There is no Slurm here.
    """
    workspace = open_for_profile(bundle, profile)
    with fleet_for(workspace, profile) as fleet:
        return _Run(workspace, profile, fleet, patience or Patience()).go(on_status)


class _Run:
    """One call of `run_until_done`."""

    def __init__(
        self, workspace: Workspace, profile: ClusterProfile, fleet: Fleet, patience: Patience
    ) -> None:
        self._workspace = workspace
        self._profile = profile
        self._fleet = fleet
        self._patience = patience
        self._reader = StatusReader(workspace, fleet)
        self._first = len(read_records(workspace.submissions))
        self._dead_since: dict[int, float] = {}

    def go(self, on_status: Callable[[ClusterStatus], None]) -> ClusterStatus:
        again = self._report(submit(self._workspace, self._profile, self._fleet))
        while True:
            status = self._reader.read()
            on_status(status)
            if status.complete:
                return status
            dead = [row for row in status.rows if row.cause not in _LEFT_ALONE]
            settled = {row.shard for row in dead if self._is_settled(row)}
            self._dead_since = {row.shard: self._since(row.shard) for row in dead}
            given_up = self._given_up(row for row in status.rows if row.shard in settled)
            if (settled - given_up) or again:
                again = self._submit_again(leave=given_up | ({row.shard for row in dead} - settled))
            elif len(settled) == len(dead) and not status.with_cause(*_ALIVE):
                return status
            self._wait(status, briefly=len(dead) > len(settled))

    def _since(self, shard: int) -> float:
        return self._dead_since.get(shard, time.monotonic())

    def _is_settled(self, row: ShardRow) -> bool:
        """Whether a shard's end is certain enough to act on.

        Seen twice, because a network file system may show its last results seconds late; and
        for longer when nothing is known, because accounting is late too and may yet say that
        somebody cancelled it.
        """
        if row.shard not in self._dead_since:
            return False
        if row.cause is not Cause.LOST:
            return True
        return time.monotonic() - self._since(row.shard) >= self._patience.settle_s

    def _submit_again(self, *, leave: Collection[int]) -> bool:
        """Submit what can be; return whether to try again although nothing new ended."""
        try:
            made = submit(self._workspace, self._profile, self._fleet, leave=leave)
        except SubmissionRefusedError:
            raise
        except (SchedulerError, SubmissionLockedError) as error:
            log.warning("%s The work that was submitted goes on.", error)
            return True
        return self._report(made)

    def _report(self, made: Submitted) -> bool:
        if made.refused:
            log.warning("%s; trying again later", made.refused)
        return bool(made.held_back or made.refused or made.unanswered)

    def _given_up(self, rows: Iterable[ShardRow]) -> set[int]:
        mine = read_records(self._workspace.submissions)[self._first :]
        return hopeless(self._workspace, rows, mine, self._patience)

    def _wait(self, status: ClusterStatus, *, briefly: bool) -> None:
        """Wait until it is time to ask again, or every shard that was alive is complete."""
        patience = self._patience
        pause = patience.poll_s
        asking_is_free = self._profile.kind == "local"
        until = time.monotonic() + (pause if briefly or asking_is_free else patience.scheduler_s)
        alive = [row.shard for row in status.with_cause(*_ALIVE)]
        while time.monotonic() < until:
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            if alive and self._reader.all_complete(alive):
                return
            pause = min(2 * pause, patience.longest_poll_s)


def hopeless(
    workspace: Workspace,
    rows: Iterable[ShardRow],
    records: Sequence[SubmissionRecord],
    patience: Patience,
) -> set[int]:
    """Give the dead shards that another submission would not help.

    Args:
        workspace: The bundle.
        rows: The shards; those that are alive or complete are passed over.
        records: The submissions that count as tries.
        patience: How many tries there are.
    """
    return {
        row.shard
        for row in rows
        if row.cause not in _LEFT_ALONE
        and (
            row.cause in _FINAL
            or tries_without_progress(records, row.shard, items_done(workspace, row.shard))
            >= patience.tries
        )
    }
