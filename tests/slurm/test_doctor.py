"""The doctor names what would go wrong, and what to do about it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from themis_slurm.checks import write_findings
from themis_slurm.doctor import examine, file_system_of
from themis_slurm.findings import Finding, worst
from themis_slurm.profile import ClusterProfile
from themis_slurm.workspace import Workspace

LOCAL = ClusterProfile(kind="local")


def of(findings: tuple[Finding, ...], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of scripts in front of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    command(folder, "sbatch", '[ "$1" = --version ] && echo slurm 24.05 || echo "would start" >&2')
    command(folder, "scontrol", "echo 'MaxArraySize            = 1001'")
    for name in ("srun", "squeue", "scancel", "sacct"):
        command(folder, name, "exit 0")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_healthy_machine_and_bundle_are_fine(workspace: Workspace) -> None:
    findings = examine(LOCAL, workspace.bundle.path)

    assert worst(findings) == "ok"
    assert {"this machine", "Python", "bundle", "results", "disk"} <= {f.check for f in findings}
    assert not list(workspace.bundle.path.rglob(".themis-probe*"))


def test_a_healthy_slurm_is_fine(slurm: Path) -> None:
    assert slurm.is_dir()
    findings = examine(ClusterProfile())

    assert worst(findings) == "ok"
    assert of(findings, "Slurm")[0].message == "slurm 24.05, arrays of up to 1001 elements"


def test_resources_that_slurm_would_refuse_are_an_error_in_its_words(slurm: Path) -> None:
    command(slurm, "sbatch", '[ "$1" = --version ] && exit; echo invalid account >&2; exit 1')

    (finding,) = of(examine(ClusterProfile()), "resources")

    assert (finding.level, finding.message) == ("error", "invalid account")
    assert "account" in finding.fix


def test_a_cluster_without_accounting_is_a_notice(slurm: Path) -> None:
    command(slurm, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")

    assert worst(of(examine(ClusterProfile()), "accounting")) == "notice"


def test_a_machine_without_slurm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr("shutil.which", lambda *_a, **_k: None)

    (finding,) = of(examine(ClusterProfile()), "Slurm")

    assert finding.level == "error"
    assert "sbatch" in finding.message


def test_a_damaged_bundle_is_an_error_that_names_the_file(workspace: Workspace) -> None:
    items = workspace.bundle.path / "data" / "items" / "00002.jsonl.zst"
    items.unlink()

    findings = of(examine(LOCAL, workspace.bundle.path), "bundle")

    assert worst(findings) == "error"
    assert any("00002.jsonl.zst" in finding.message for finding in findings)


def test_what_is_no_bundle_is_an_error(tmp_path: Path) -> None:
    assert worst(of(examine(LOCAL, tmp_path), "bundle")) == "error"


def test_a_model_that_is_not_there_is_an_error_here_and_a_warning_for_nodes(
    write_generation_bundle: Callable[..., Path], slurm: Path
) -> None:
    assert slurm.is_dir()
    bundle = write_generation_bundle(["a"], provider="hf", model_id="org/none")
    named = {"org/none": "/on/nodes/only"}

    here = of(examine(ClusterProfile(kind="local", models=named), bundle), "model")
    there = of(examine(ClusterProfile(models=named), bundle), "model")
    unnamed = of(examine(ClusterProfile(), bundle), "model")

    assert [worst(found) for found in (here, there, unnamed)] == ["error", "warning", "error"]


def test_an_incomplete_model_directory_is_an_error(
    write_generation_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = write_generation_bundle(["a"], provider="hf", model_id="m")
    (tmp_path / "weights").mkdir()

    profile = ClusterProfile(kind="local", models={"m": str(tmp_path / "weights")})
    findings = of(examine(profile, bundle), "model")

    assert any("config.json is missing" in finding.message for finding in findings)


def test_a_python_without_themis_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "python"
    command(tmp_path, "python", "echo 'No module named themis_slurm' >&2; exit 1")

    (finding,) = of(examine(ClusterProfile(kind="local", python=str(python))), "Python")

    assert finding.level == "error"
    assert "No module named themis_slurm" in finding.message


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "none"

    (finding,) = write_findings(missing)

    assert finding.level == "error"


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount() -> None:
    mounts = "a / ext4 rw 0 0\nb /scratch lustre rw 0 0\nc /scratch/my\\040disk nfs4 rw 0 0\n"

    found = [
        file_system_of(Path(path), mounts)
        for path in ("/home/me", "/scratch/me", "/scratch/my disk/x")
    ]

    assert found == ["ext4", "lustre", "nfs4"]
