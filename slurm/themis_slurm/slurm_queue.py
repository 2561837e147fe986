"""What is asked of squeue, sacct, scancel and scontrol about arrays, whoever submitted them.

submitit's states are not used: they never end for a cancelled pending element, and are final
for a node failure that Slurm requeues. What is alive is asked of squeue, what is done of the
results, what went wrong of sacct.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from themis.errors import SpecValidationError
from themis_slurm import scheduler
from themis_slurm.dispatcher import LiveShard
from themis_slurm.evidence import Cause, Verdict, judge
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord
from themis_slurm.workspace import Workspace

# squeue's words for an element that has a node.
_RUNNING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED"})


class SlurmQueue:
    """The half of a dispatcher that is the same for every way to submit to Slurm."""

    def __init__(self, workspace: Workspace, profile: ClusterProfile) -> None:
        self._workspace = workspace
        self._profile = profile

    def elements_per_submission(self) -> int:
        """Give the profile's bound, or the cluster's MaxArraySize."""
        return self._profile.max_array_size or scheduler.max_array_size()

    def find(self, record: SubmissionRecord) -> str | None:
        """Look the record's job name up in the queue."""
        rows = scheduler.queue([record.name])
        return rows[0].array_id if rows else None

    def alive(self, records: Sequence[SubmissionRecord]) -> Mapping[int, LiveShard]:
        """Ask squeue once for all arrays that may still have elements."""
        by_name = {record.name: record for record in records if record.state != "refused"}
        alive: dict[int, LiveShard] = {}
        for row in scheduler.queue(list(by_name)):
            record = by_name[row.name]
            shard = record.shard_of(row.index)
            known = alive.get(shard)
            if known is not None and known.running:
                continue
            job = row.array_id if row.index is None else f"{row.array_id}_{row.index}"
            alive[shard] = LiveShard(row.state in _RUNNING, job, row.node, row.reason)
        return alive

    def cancel(self, records: Sequence[SubmissionRecord], shards: Sequence[int]) -> None:
        """Cancel elements by id; whole arrays in one word."""
        wanted = set(shards)
        elements: list[str] = []
        for record in records:
            mine = wanted.intersection(record.shards)
            if record.job_id and len(mine) == len(record.shards):
                elements.append(record.job_id)
            else:
                elements.extend(filter(None, (record.element(shard) for shard in sorted(mine))))
        if elements:
            scheduler.cancel(elements)

    def evidence(
        self, records: Sequence[SubmissionRecord], shards: Sequence[int]
    ) -> Mapping[int, Verdict]:
        """Ask sacct once about the latest submission of each shard."""
        latest = dict(_latest(records, shards))
        asked = {record.name: record for record in latest.values() if record.job_id}
        rows = scheduler.accounting(
            sorted({record.job_id for record in asked.values() if record.job_id}),
            min((record.prepared for record in asked.values()), default=0.0),
        )
        if rows is None:
            lost = Verdict(Cause.LOST, "no accounting on this cluster")
            return dict.fromkeys(latest, lost)
        elements = _by_element(rows, asked.values())
        return {
            shard: judge(elements.get(record.element(shard) or "", ()))
            for shard, record in latest.items()
        }

    def release(self, record: SubmissionRecord) -> None:
        """Let a held array start."""
        if record.job_id is not None:
            scheduler.release(record.job_id)


def refuse_patterns(workspace: Workspace) -> None:
    """Refuse a folder whose name Slurm would take for a pattern.

    Raises:
        SpecValidationError: It holds a %.
    """
    if "%" in str(workspace.dispatch):
        raise SpecValidationError(
            f"{workspace.dispatch} holds a %, which Slurm replaces in file names. "
            "Rename the folder, or set `results` of the profile."
        )


def own_options(workspace: Workspace, profile: ClusterProfile) -> dict[str, str | int]:
    """Give the options that Themis sets for every array, however it is submitted."""
    return {
        "chdir": str(workspace.dispatch),
        "requeue" if profile.requeue else "no-requeue": True,
    }


def comment(workspace: Workspace) -> str:
    """Give the words that say to a person who looks at the queue what a job is."""
    return f"themis {workspace.bundle.manifest.run_id}"


def _latest(
    records: Sequence[SubmissionRecord], shards: Iterable[int]
) -> Iterator[tuple[int, SubmissionRecord]]:
    wanted = set(shards)
    for record in reversed(records):
        if record.state != "refused":
            for shard in wanted.intersection(record.shards):
                yield shard, record
            wanted.difference_update(record.shards)


def _by_element(
    rows: Iterable[scheduler.AccountingRow], records: Iterable[SubmissionRecord]
) -> dict[str, list[scheduler.AccountingRow]]:
    """Sort rows by element; rows of other jobs that once had the same id are left out."""
    names = {record.job_id: record.name for record in records}
    elements: dict[str, list[scheduler.AccountingRow]] = defaultdict(list)
    ours = False
    for row in rows:
        if not row.step:  # steps follow their allocation, under names of their own
            ours = row.name == names.get(row.array_id)
        if ours:
            key = row.array_id if row.index is None else f"{row.array_id}_{row.index}"
            elements[key].append(row)
    return elements
