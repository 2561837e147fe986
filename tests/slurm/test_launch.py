"""How Python is started: on the node, with apptainer, and with enroot through pyxis."""

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from themis_slurm.launch import local_environment, python_command, setup_lines, srun_flags
from themis_slurm.profile import ClusterProfile
from themis_slurm.workspace import Workspace

MODELS = {"a": "/models/a", "b": "/models/a/inner", "c": "/models/c c"}


def in_container(runtime: str, **changes: Any) -> ClusterProfile:
    container = {
        "runtime": runtime,
        "image": "/images/themis.sif",
        "mounts": ["/data:/mnt"],
        "options": ["--writable-tmpfs" if runtime == "apptainer" else "--no-container-mount-home"],
    }
    fields = {"gpus": 1, "cpus": 4, "models": MODELS, "container": container, **changes}
    return ClusterProfile.model_validate(fields)


def test_without_a_container_it_is_the_python_that_submits(workspace: Workspace) -> None:
    assert python_command(workspace, ClusterProfile()) == f"{shlex.quote(sys.executable)} -P"
    assert python_command(workspace, ClusterProfile(python="nice py")) == "nice py"


def test_apptainer_sees_bundle_models_and_what_the_profile_mounts(workspace: Workspace) -> None:
    command = python_command(workspace, in_container("apptainer", scratch="$SCRATCH"))

    assert command == (
        "apptainer exec --nv --bind /models/a --bind '/models/c c' "
        f"--bind {workspace.bundle.path} --bind /data:/mnt --writable-tmpfs "
        "/images/themis.sif python3"
    )
    assert srun_flags(workspace, in_container("apptainer")) == ["--cpus-per-task=4", "--export=ALL"]


@pytest.mark.parametrize(("changes", "there"), [({}, True), ({"gpus": 0}, False)])
def test_a_container_sees_gpus_where_a_shard_has_some(
    workspace: Workspace, changes: dict[str, Any], *, there: bool
) -> None:
    command = python_command(workspace, in_container("apptainer", **changes))

    assert (" --nv " in command) is there


def test_pyxis_is_told_on_the_command_line_of_srun(workspace: Workspace) -> None:
    profile = in_container("enroot", python="/opt/venv/bin/python")

    assert python_command(workspace, profile) == "/opt/venv/bin/python"
    path = workspace.bundle.path
    assert srun_flags(workspace, profile)[2:] == [
        "--container-image=/images/themis.sif",
        f"--container-mounts=/models/a:/models/a,/models/c c:/models/c c,{path}:{path},/data:/mnt",
        "--no-container-mount-home",
    ]


def test_the_folder_of_plugins_is_mounted_where_there_are_some(workspace: Workspace) -> None:
    command = python_command(workspace, in_container("apptainer", plugins=["own"]))

    assert f"--bind {Path.cwd()} " in command


def test_results_elsewhere_are_mounted_too(workspace: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(workspace.bundle, tmp_path / "out" / "dispatch")

    command = python_command(elsewhere, in_container("apptainer"))

    assert f"--bind {tmp_path / 'out'} " in command


def test_variables_come_before_the_setup_lines_with_their_values_quoted() -> None:
    profile = ClusterProfile(variables={"A": "x y", "B": "$HOME"}, setup=("module load cuda",))

    assert setup_lines(profile) == ["export A='x y'", "export B='$HOME'", "module load cuda"]


def test_a_container_brings_its_own_themis_unless_the_profile_says_otherwise() -> None:
    assert setup_lines(in_container("apptainer"))[-1] == "unset PYTHONPATH"
    assert setup_lines(in_container("apptainer", environment=["PYTHONPATH"])) == []
    own = in_container("apptainer", variables={"X": "1"}).model_copy(update={"kind": "local"})
    assert local_environment({"PYTHONPATH": "/x", "HOME": "/h"}, own) == {"HOME": "/h", "X": "1"}
