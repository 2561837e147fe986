"""A task refuses before it loads weights, and says whose fault it is."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis.errors import EnvironmentNotReadyError
from themis_bundles import shard_state
from themis_slurm.evidence import Cause
from themis_slurm.failures import Failure, read_failures
from themis_slurm.findings import Finding
from themis_slurm.options import write_options
from themis_slurm.preflight import NodeUnfitError, insist
from themis_slurm.profile import ClusterProfile
from themis_slurm.workspace import Workspace, open_for_profile


def run(bundle: Path, **changes: Any) -> tuple[int, str, Workspace]:
    """Run shard 0 as a task; give its exit code, its log, and the workspace."""
    profile = ClusterProfile(kind="local", **changes)
    workspace = open_for_profile(bundle, profile)
    options = str(write_options(workspace, profile))
    command = [sys.executable, "-m", "themis_slurm.task", str(bundle), "0", "--options", options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr, workspace


def words(workspace: Workspace) -> Failure:
    (failure,) = read_failures(workspace.failures)
    return failure


@pytest.fixture
def bundle(write_generation_bundle: Callable[..., Path]) -> Path:
    return write_generation_bundle(["a", "b"])


@pytest.fixture
def small_disk(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    require(mounted, "mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_what_was_looked_at_is_in_the_log(bundle: Path) -> None:
    code, log, _ = run(bundle)

    assert code == 0
    for check in ("GPUs", "disk", "engine", "hub access"):
        assert f"preflight: {check}: " in log


def test_a_model_without_its_weights_is_refused_with_its_problem(
    write_generation_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = write_generation_bundle(["a"], provider="hf", model_id="m")
    (tmp_path / "model").mkdir()

    code, _, workspace = run(bundle, models={"m": str(tmp_path / "model")})

    assert code == 69
    assert words(workspace).cause is Cause.NOT_READY
    assert "config.json is missing" in words(workspace).message


def test_a_full_disk_is_refused_before_anything_is_loaded(bundle: Path, small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(48 << 10))

    code, log, workspace = run(bundle, results=str(small_disk))

    assert code == 69
    assert "results may need" in log
    assert shard_state(workspace.bundle, 0).attempts == ()


def test_a_task_without_network_proves_it_and_works(bundle: Path) -> None:
    code, log, workspace = run(bundle, forbid_network=True)

    assert code == 0
    assert "network: none" in log or "only Python's own sockets are guarded" in log
    assert shard_state(workspace.bundle, 0).done


def test_a_service_cannot_be_asked_without_network(
    write_generation_bundle: Callable[..., Path],
) -> None:
    pytest.importorskip("httpx")
    bundle = write_generation_bundle(["a"], provider="openai", model_id="m")

    code, _, workspace = run(bundle, forbid_network=True)

    assert code == 69
    assert "openai asks a service" in words(workspace).message


def test_a_shard_that_is_complete_needs_nothing(bundle: Path) -> None:
    assert run(bundle)[0] == 0

    code, log, _ = run(bundle, gpus_per_slot=0, forbid_network=True)

    assert code == 0
    assert "network" not in log


def test_the_fault_of_a_node_is_told_from_everybodys(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fine = Finding("ok", "disk", "room")

    insist([fine, Finding("warning", "clock", "late")])
    with pytest.raises(NodeUnfitError, match="none here: ask"):
        insist([fine, Finding("error", "GPUs", "none here", "ask")])
    with pytest.raises(EnvironmentNotReadyError) as refused:
        insist([fine, Finding("error", "model", "no weights")])

    assert not isinstance(refused.value, NodeUnfitError)
    assert "clock: late" in caplog.text
