r"""Shards as Slurm job arrays, with a script of our own and without submitit.

    sbatch --parsable --hold script   ->   id on record   ->   scontrol release id

An element's number is its shard's number (within a window of MaxArraySize), so a shard keeps
its names through every submission, and the array of a resubmission is sparse. Nothing starts
before the id is on record. The nodes need neither submitit nor pickles of it.

The script starts the task as a step, because Slurm warns steps before a time limit or a
preemption, and not the shell around them.

Environment: sbatch runs with the chosen variables and nothing else, and the script passes them
all on. A list of names after `--export` would do the same but for one thing: with a list Slurm
also runs a login shell on every node, and adds whatever that sets.
"""

import os
import shlex
import shutil
from collections.abc import Sequence

from themis_bundles.files import make_folder
from themis_slurm.errors import SubmissionRefusedError
from themis_slurm.import_path import importable
from themis_slurm.launch import python_command, setup_lines, srun_flags
from themis_slurm.records import SubmissionRecord
from themis_slurm.resources import Options, flags, resource_options
from themis_slurm.sbatch_array import passed_environment
from themis_slurm.sbatch_call import sbatch
from themis_slurm.slurm_queue import SlurmQueue, comment, own_options, refuse_patterns

SCRIPT = "submission.sh"


class PlainSbatch(SlurmQueue):
    """Submits with sbatch to the Slurm that this machine's commands talk to."""

    def script(self, record: SubmissionRecord) -> str:
        """Give the script, exactly as sbatch gets it."""
        refuse_patterns(self._workspace)
        options = (f"#SBATCH {shlex.quote(word)}" for word in flags(self._options(record)))
        lines = setup_lines(self._profile)
        return "\n".join(("#!/bin/bash", *options, "", *lines, self._command(record), ""))

    def submit(self, record: SubmissionRecord) -> SubmissionRecord:
        """Submit one array of the record's shards; it waits until `release`."""
        folder = self._workspace.jobs(record.number)
        # Before sbatch: a job whose log has no folder dies without a word.
        make_folder(folder)
        path = folder / SCRIPT
        path.write_text(self.script(record))
        try:
            job_id = sbatch(path, self._environment(), "--hold")
        except SubmissionRefusedError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return record.model_copy(update={"state": "held", "job_id": job_id})

    def _environment(self) -> dict[str, str]:
        return importable(passed_environment(os.environ, self._profile.environment))

    def _options(self, record: SubmissionRecord) -> Options:
        profile, folder = self._profile, self._workspace.jobs(record.number)
        numbers = index_list([shard - record.offset for shard in record.shards])
        options = resource_options(profile) | {
            "job-name": record.name,
            "comment": comment(self._workspace),
            "array": f"{numbers}%{profile.array_parallelism}",
            "time": profile.walltime,
            "signal": f"USR2@{profile.signal_margin_s}",
            "output": str(folder / "%A_%a.log"),
            "open-mode": "append",
            "export": "ALL",
        }
        if record.excluded_nodes:
            options["exclude"] = ",".join(record.excluded_nodes)
        return options | own_options(self._workspace, profile)

    def _command(self, record: SubmissionRecord) -> str:
        """Give the step that runs a shard."""
        srun = shlex.join(["srun", "--unbuffered", *srun_flags(self._workspace, self._profile)])
        python = python_command(self._workspace, self._profile)
        task = f"-m themis_slurm.task {shlex.quote(str(self._workspace.bundle.path))}"
        shard = f"$((SLURM_ARRAY_TASK_ID + {record.offset}))"
        return f"exec {srun} {python} {task} {shard} --options {shlex.quote(record.options)}"


def index_list(numbers: Sequence[int]) -> str:
    """Write ascending numbers as sbatch's `--array` takes them.

    >>> index_list([0, 2, 7, 8, 9])
    '0,2,7-9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
