"""Calling sbatch with a script and a chosen environment."""

import os
import shutil
import subprocess
from collections.abc import Mapping

from themis_slurm import scheduler
from themis_slurm.errors import SchedulerError, SubmissionRefusedError


def sbatch(script: os.PathLike[str], environment: Mapping[str, str], *flags: str) -> str:
    """Submit a script and give its job id.

    Args:
        script: The script.
        environment: Everything that sbatch, and so the job, sees.
        flags: Further words of the command.

    Raises:
        SubmissionRefusedError: sbatch refused; the message holds its words.
        SchedulerError: There is no sbatch here, or it gave no answer.
    """
    if shutil.which("sbatch") is None:
        raise SchedulerError(
            "sbatch is not on the PATH, so this machine cannot submit to Slurm. "
            'Use a login node, or a profile with kind = "local".'
        )
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *flags, str(script)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=scheduler.COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"sbatch gave no answer in {scheduler.COMMAND_TIMEOUT_S} s") from None
    if done.returncode:
        raise SubmissionRefusedError(f"sbatch refused the job: {done.stderr.strip()}")
    # `--parsable` prints the id, and behind a semicolon the cluster where there are several.
    return done.stdout.strip().splitlines()[-1].partition(";")[0]
