"""A calibration as a short job, with the resources and the environment of a shard."""

import json
import secrets
import shlex
from pathlib import Path

from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis.generation.calibration import Measured, read_calibration
from themis_bundles.files import make_folder
from themis_slurm.one_job import run_on_node
from themis_slurm.profile import ClusterProfile
from themis_slurm.workspace import Workspace


def calibrate_on_node(
    workspace: Workspace, profile: ClusterProfile, *, items: int, minutes: int
) -> tuple[Path, list[Measured]]:
    """Answer a sample of a bundle on a node, and throw the answers away.

    Waits for the job, at most as long as the queue makes it wait.

    Args:
        workspace: The bundle.
        profile: The resources, of kind `slurm`.
        items: How many items of each model to time.
        minutes: The time limit of the job.

    Returns:
        The calibration's file, under `dispatch/calibrations/`, and what it says.

    Raises:
        SpecValidationError: The profile has no Slurm.
        EnvironmentNotReadyError: The job ended without measuring; the message holds its words.
    """
    if profile.kind != "slurm":
        raise SpecValidationError(
            'the profile has kind = "local": `themis calibrate` measures on this machine'
        )
    make_folder(workspace.calibrations)
    out = workspace.calibrations / f"{secrets.token_hex(4)}.json"
    arguments = _arguments(workspace, profile, items, out)
    done = run_on_node(workspace, profile, arguments, name="themis-calibrate", minutes=minutes)
    if not out.is_file():
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise EnvironmentNotReadyError(f"the calibration ended without a result: {said}")
    return out, read_calibration(out)


def _arguments(workspace: Workspace, profile: ClusterProfile, items: int, out: Path) -> str:
    words = ["-c", "from themis.cli import main; main()", "calibrate", str(workspace.bundle.path)]
    words += ["--items", str(items), "--out", str(out)]
    for model, place in profile.models.items():
        words += ["--model", f"{model}={place}"]
    for key, value in profile.engine.items():
        words += ["--engine-option", f"{key}={json.dumps(value)}"]
    return shlex.join(words)
