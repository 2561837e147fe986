"""One short job that somebody waits for, with everything that a shard would get."""

import os
import subprocess

from themis_slurm.import_path import importable
from themis_slurm.launch import python_command, setup_lines, srun_flags
from themis_slurm.profile import ClusterProfile
from themis_slurm.resources import flags, resource_options
from themis_slurm.sbatch_array import passed_environment
from themis_slurm.workspace import Workspace


def run_on_node(
    workspace: Workspace, profile: ClusterProfile, arguments: str, *, name: str, minutes: int
) -> subprocess.CompletedProcess[str]:
    """Run Python on a compute node and wait for it, for as long as the queue makes it wait.

    Args:
        workspace: The bundle, whose directories a container sees.
        profile: The resources, setup lines and container, of kind `slurm`.
        arguments: What Python is given, as shell words.
        name: The job's name.
        minutes: Its time limit.
    """
    python = python_command(workspace, profile)
    script = "\n".join((*setup_lines(profile), f"exec {python} {arguments}"))
    command = [
        *("srun", *flags(resource_options(profile)), *srun_flags(workspace, profile)),
        *(f"--job-name={name}", "--quiet", f"--time={minutes}"),
    ]
    return subprocess.run(
        [*command, "bash", "-c", script],
        env=importable(passed_environment(os.environ, profile.environment)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
