"""Shards as Slurm job arrays, through submitit.

submitit writes the script and the pickles and calls sbatch. Nothing else of it is used: its
states never end for a cancelled pending element, and are final for a node failure that Slurm
requeues. What is alive is asked of squeue, what is done of the results, what went wrong of
sacct.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from themis.errors import SpecValidationError
from themis_slurm import scheduler
from themis_slurm.dispatcher import LiveShard
from themis_slurm.evidence import Cause, Verdict, judge
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord
from themis_slurm.sbatch_array import ArrayRequest, call, passed_environment
from themis_slurm.workspace import Workspace

# squeue's words for an element that has a node.
_RUNNING = frozenset({"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED"})


class SlurmArrays:
    """Submits to the Slurm that this machine's commands talk to."""

    def __init__(self, workspace: Workspace, profile: ClusterProfile) -> None:
        self._workspace = workspace
        self._profile = profile

    def elements_per_submission(self) -> int:
        """Give the profile's bound, or the cluster's MaxArraySize."""
        return self._profile.max_array_size or scheduler.max_array_size()

    def script(self, record: SubmissionRecord) -> str:
        """Give the sbatch script, complete but for the array's id."""
        return self._call(record, dry_run=True)["script"]

    def submit(self, record: SubmissionRecord) -> SubmissionRecord:
        """Submit one array of the record's shards."""
        job_id = self._call(record, dry_run=False)["job_id"]
        return record.model_copy(update={"state": "submitted", "job_id": job_id})

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
            shard = record.shards[row.index or 0]
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

    def _call(self, record: SubmissionRecord, *, dry_run: bool) -> dict[str, str]:
        if "%" in str(self._workspace.dispatch):
            raise SpecValidationError(
                f"{self._workspace.dispatch} holds a %, which Slurm replaces in file names. "
                "Rename the folder, or set `results` of the profile."
            )
        request = ArrayRequest(
            folder=str(self._workspace.jobs(record.number)),
            parameters=self._parameters(record),
            python=self._profile.python,
            bundle=str(self._workspace.bundle.path),
            shards=record.shards,
            options=record.options,
            dry_run=dry_run,
        )
        return call(request, passed_environment(os.environ, self._profile.environment))

    def _parameters(self, record: SubmissionRecord) -> dict[str, JsonValue]:
        profile = self._profile
        more: dict[str, JsonValue] = {
            "chdir": str(self._workspace.dispatch),
            "requeue" if profile.requeue else "no-requeue": True,
        }
        more |= {key.lstrip("-").replace("_", "-"): v for key, v in profile.sbatch.items()}
        return {
            "job_name": record.name,
            "comment": f"themis {self._workspace.bundle.manifest.run_id}",
            "partition": profile.partition,
            "account": profile.account,
            "qos": profile.qos,
            "time": profile.walltime,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": profile.cpus,
            "mem": profile.memory,
            "gpus_per_node": profile.gpu_request,
            "exclude": ",".join(record.excluded_nodes) or None,
            "array_parallelism": profile.array_parallelism,
            "signal_delay_s": profile.signal_margin_s,
            "setup": list(profile.setup) or None,
            "stderr_to_stdout": True,
            "wckey": None,  # submitit's default is refused where work keys are kept
            # srun of Slurm 22.05 and 23.02 does not inherit the first; a site's default for
            # the second may drop what the setup lines exported.
            "srun_args": [f"--cpus-per-task={profile.cpus}", "--export=ALL"],
            "additional_parameters": more,
        }


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
