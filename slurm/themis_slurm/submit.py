"""Submitting what is left of a bundle, exactly once even when two people do it at the same time.

    lock → what is alive → what is done → choose → write `prepared` → sbatch → write the id
    (→ release, where it was held until then) → unlock

Nothing of a former submission has to be remembered by the caller: the records, the queue and
the results say everything, so the same command continues after any interruption.
"""

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from themis_bundles import incomplete_shards, shard_state
from themis_bundles.files import make_folder
from themis_slurm.code_version import code_version, keep_package_list
from themis_slurm.dispatcher import UNANSWERED, Dispatcher, LiveShard
from themis_slurm.errors import SchedulerError, SubmissionLockedError, SubmissionRefusedError
from themis_slurm.evidence import Cause
from themis_slurm.failures import read_failures
from themis_slurm.fleet import Fleet, fleet_for
from themis_slurm.lock import Lock, submission_lock
from themis_slurm.options import options_path, write_options
from themis_slurm.processes import is_alive, this_process
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import (
    SubmissionRecord,
    create_record,
    job_name,
    read_records,
    update_record,
)
from themis_slurm.scheduler import is_passing
from themis_slurm.selection import Array, Selection, select
from themis_slurm.workspace import Workspace

log = logging.getLogger(__name__)

LOCK_PATIENCE_S = 180.0
# How long a submission whose answer was lost may take to show up in the queue.
VISIBILITY_S = 300.0
# Above this it is not the nodes that are unfit, but what they were asked for.
MOST_EXCLUDED_NODES = 4
_REFUSAL_PAUSES_S = (2.0, 8.0)


@dataclass(frozen=True)
class Submitted:
    """What a call to `submit` did.

    Attributes:
        records: The new submissions.
        alive: Shards that somebody works on already; they were left alone.
        held_back: Shards for which the queue has no room now.
        unanswered: Those of `alive` that nobody has seen in the queue: their submission's answer
            was lost, and it may still turn up for `VISIBILITY_S`.
        refused: Slurm's words, when it took some arrays and then no more.
    """

    records: tuple[SubmissionRecord, ...]
    alive: tuple[int, ...]
    held_back: tuple[int, ...]
    unanswered: tuple[int, ...]
    refused: str | None = None

    @property
    def shards(self) -> int:
        """How many shards were submitted."""
        return sum(len(record.shards) for record in self.records)


@dataclass(frozen=True)
class Wish:
    """What a person asked for, beyond the rest of the bundle.

    Attributes:
        asked: Whether the shards were asked for by name, so that their tries count anew.
        avoid_unfit_nodes: Whether to keep away from nodes that tasks found unfit.
    """

    asked: bool = False
    avoid_unfit_nodes: bool = True


_NO_WISH = Wish()


def submit(
    workspace: Workspace,
    profile: ClusterProfile,
    fleet: Fleet,
    *,
    leave: Collection[int] = (),
    wish: Wish = _NO_WISH,
    lock_patience_s: float = LOCK_PATIENCE_S,
) -> Submitted:
    """Submit every shard that is neither complete nor alive.

    Args:
        workspace: The bundle.
        profile: The resources.
        fleet: From `fleet_for`, with the same profile.
        leave: Shards that are not to be submitted.
        wish: What a person asked for beyond "the rest".
        lock_patience_s: How long to wait for another submitter.

    Raises:
        SubmissionLockedError: Another process is submitting this bundle.
        SubmissionRefusedError: Slurm refused, and took nothing.
        SchedulerError: Slurm did not answer; the same command finds out what it took.
    """
    with submission_lock(workspace.dispatch / "lock", patience_s=lock_patience_s) as lock:
        records = _recover(workspace, fleet)
        chosen, alive = _choose(workspace, profile, fleet, records, leave)
        if chosen.arrays:
            write_options(workspace, profile)
            keep_package_list(workspace.code)
        made: list[SubmissionRecord] = []
        refused: SubmissionRefusedError | None = None
        for array in chosen.arrays:
            described = _describe(workspace, profile, array, _next(records, made), wish)
            record = create_record(workspace.submissions, described)
            try:
                made.append(_ask(workspace, fleet.active, record, lock))
            except SubmissionRefusedError as error:
                refused = error
                break
    if refused is not None and not made and not alive:
        raise refused
    return Submitted(
        records=tuple(made),
        alive=tuple(sorted(alive)),
        held_back=chosen.held_back,
        unanswered=tuple(sorted(s for s, live in alive.items() if live.reason == UNANSWERED)),
        refused=None if refused is None else str(refused),
    )


def preview(
    workspace: Workspace, profile: ClusterProfile
) -> tuple[tuple[SubmissionRecord, str], ...]:
    """Give the submissions that `submit` would make now, each with its exact script.

    Nothing is written and nothing is submitted; Slurm is only asked what is alive.
    """
    with fleet_for(workspace, profile) as fleet:
        records = read_records(workspace.submissions)
        chosen, _ = _choose(workspace, profile, fleet, records, ())
        first = _next(records, ())
        prepared = [
            _describe(workspace, profile, array, first + place, _NO_WISH)
            for place, array in enumerate(chosen.arrays)
        ]
        return tuple((record, fleet.active.script(record)) for record in prepared)


def cancel(workspace: Workspace, *, shards: Sequence[int] | None = None) -> tuple[int, ...]:
    """Stop shards that wait or run; running ones flush what they finished.

    Args:
        workspace: The bundle.
        shards: Which; None is all.

    Returns:
        The shards that were alive and were told to stop.

    Raises:
        SchedulerError: Slurm did not answer.
    """
    with (
        submission_lock(workspace.dispatch / "lock", patience_s=LOCK_PATIENCE_S),
        fleet_for(workspace) as fleet,
    ):
        records = open_records(workspace, _recover(workspace, fleet))
        alive = fleet.alive(records)
        wanted = tuple(sorted(set(alive) if shards is None else set(alive).intersection(shards)))
        # Written first: a waiting `run_until_done` must not take the end for an accident.
        for record in records:
            stopped = set(wanted).intersection(record.shards)
            if stopped:
                noted = {"cancelled": tuple(sorted(stopped.union(record.cancelled)))}
                update_record(workspace.submissions, record.model_copy(update=noted))
        fleet.cancel(records, wanted)
        return wanted


def open_records(
    workspace: Workspace, records: Iterable[SubmissionRecord]
) -> list[SubmissionRecord]:
    """Give the submissions that may still matter: not refused, and with an incomplete shard."""
    incomplete = set(incomplete_shards(workspace.bundle))
    return [
        record
        for record in records
        if record.state != "refused" and incomplete.intersection(record.shards)
    ]


def alive_shards(workspace: Workspace, fleet: Fleet) -> frozenset[int]:
    """Ask which shards run or wait.

    Raises:
        SchedulerError: Slurm did not answer.
    """
    return frozenset(fleet.alive(open_records(workspace, read_records(workspace.submissions))))


def _recover(workspace: Workspace, fleet: Fleet) -> tuple[SubmissionRecord, ...]:
    """Settle submissions whose submitter died before it wrote down the answer."""
    records = []
    for record in read_records(workspace.submissions):
        settled = record
        if record.state == "prepared":
            job_id = fleet.find(record)
            if job_id is not None:
                log.info("submission %d is job %s", record.number, job_id)
                settled = _found(record, job_id)
            elif _is_forgotten(workspace, record):
                settled = record.model_copy(update={"state": "refused", "reason": "never arrived"})
        if settled is not record:
            update_record(workspace.submissions, settled)
        if settled.state == "held":
            settled = _release(workspace, fleet, settled)
        records.append(settled)
    return tuple(records)


def _found(record: SubmissionRecord, job_id: str) -> SubmissionRecord:
    state = "held" if record.method == "sbatch" else "submitted"
    return record.model_copy(update={"state": state, "job_id": job_id})


def _release(
    workspace: Workspace, dispatcher: Dispatcher | Fleet, record: SubmissionRecord
) -> SubmissionRecord:
    """Let a held array start, now that its id is on record."""
    dispatcher.release(record)
    released = record.model_copy(update={"state": "submitted"})
    update_record(workspace.submissions, released)
    return released


def _is_forgotten(workspace: Workspace, record: SubmissionRecord) -> bool:
    """Whether a submission without a trace can no longer turn up."""
    if record.kind == "local":
        return not is_alive(record.submitter)
    return record_age(workspace, record) > VISIBILITY_S


def record_age(workspace: Workspace, record: SubmissionRecord) -> float:
    """Give the seconds since a record was last written, by the file server's clock alone."""
    make_folder(workspace.submissions)
    probe = workspace.submissions / f".now-{this_process().pid}"
    probe.touch()
    try:
        path = workspace.submissions / f"{record.number:04d}.json"
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _choose(
    workspace: Workspace,
    profile: ClusterProfile,
    fleet: Fleet,
    records: Sequence[SubmissionRecord],
    leave: Collection[int],
) -> tuple[Selection, dict[int, LiveShard]]:
    relevant = open_records(workspace, records)
    alive = fleet.alive(relevant)
    for record in relevant:
        if record.state == "prepared":
            unseen = LiveShard(running=False, job="", reason=UNANSWERED)
            alive |= {shard: unseen for shard in record.shards if shard not in alive}
    # After the question, not before: a shard that ended in between is seen as complete.
    free = set(incomplete_shards(workspace.bundle)).difference(alive, leave)
    if not free:
        return Selection((), ()), alive
    chosen = select(
        free,
        {shard.index: shard.group for shard in workspace.bundle.shards},
        array_size=fleet.active.elements_per_submission(),
        room=None if profile.max_submit is None else profile.max_submit - len(alive),
        windows=profile.numbered_by_shard,
    )
    return chosen, alive


def _next(records: Sequence[SubmissionRecord], made: Sequence[SubmissionRecord]) -> int:
    return max((record.number for record in (*records, *made)), default=0) + 1


def _describe(
    workspace: Workspace, profile: ClusterProfile, array: Array, number: int, wish: Wish
) -> SubmissionRecord:
    digest = workspace.bundle.digest
    avoids = wish.avoid_unfit_nodes and profile.kind == "slurm"
    return SubmissionRecord(
        number=number,
        kind=profile.kind,
        state="prepared",
        name=job_name(digest, number),
        bundle=digest,
        group=array.group,
        shards=array.shards,
        method="sbatch" if profile.numbered_by_shard else "submitit",
        offset=array.offset,
        items_done=tuple(items_done(workspace, shard) for shard in array.shards),
        options=str(options_path(workspace, profile)),
        submitter=this_process(),
        prepared=time.time(),
        code=code_version(),
        excluded_nodes=unfit_nodes(workspace) if avoids else (),
        asked=wish.asked,
    )


def items_done(workspace: Workspace, shard: int) -> int:
    """Count the items of a shard that are finished for good, from the records themselves.

    A status file may lag behind a killed attempt by seconds, and would make the next attempt
    look as if it had made progress.
    """
    state = shard_state(workspace.bundle, shard, exact=True)
    return state.ok + state.model_error


def unfit_nodes(workspace: Workspace) -> tuple[str, ...]:
    """Give the nodes that tasks found unfit; none when there are so many that it is not them."""
    nodes = {f.node for f in read_failures(workspace.failures) if f.cause is Cause.BAD_NODE}
    return tuple(sorted(nodes)) if len(nodes) <= MOST_EXCLUDED_NODES else ()


def _ask(
    workspace: Workspace, dispatcher: Dispatcher, record: SubmissionRecord, lock: Lock
) -> SubmissionRecord:
    """Submit one prepared record, asking again while Slurm's refusal is a passing one."""
    for pause in (*_REFUSAL_PAUSES_S, None):
        if not lock.held:
            refused = record.model_copy(update={"state": "refused", "reason": "lost the lock"})
            update_record(workspace.submissions, refused)
            raise SubmissionLockedError(
                "This process was suspended for so long that another one took over the "
                "submission of this bundle. Look at the status, and submit again if needed."
            )
        try:
            submitted = dispatcher.submit(record)
        except SubmissionRefusedError as error:
            if pause is not None and is_passing(str(error)):
                log.warning("%s; trying again in %g s", error, pause)
                time.sleep(pause)
                # "Timed out" may hide a yes.
                found = _find(dispatcher, record)
                if found is None:
                    continue
                submitted = _found(record, found)
            else:
                refused = record.model_copy(update={"state": "refused", "reason": str(error)})
                update_record(workspace.submissions, refused)
                raise
        update_record(workspace.submissions, submitted)
        if submitted.state == "held":
            return _release(workspace, dispatcher, submitted)
        return submitted
    raise AssertionError("the last try either returns or raises")


def _find(dispatcher: Dispatcher, record: SubmissionRecord) -> str | None:
    with suppress(SchedulerError):
        return dispatcher.find(record)
    return None


def logs_of(workspace: Workspace, shard: int) -> tuple[Path, ...]:
    """Give the log files of a shard, oldest submission first."""
    found: list[Path] = []
    for record in read_records(workspace.submissions):
        if shard not in record.shards:
            continue
        folder = workspace.jobs(record.number)
        if record.kind == "local":
            found.extend(folder.glob(f"{shard:05d}.log"))
        elif record.job_id is not None:
            element = record.element(shard)
            found.extend((folder / record.job_id).glob(f"{element}_0_log.out"))
            found.extend(folder.glob(f"{element}.log"))
    return tuple(found)
