"""Which code was submitted."""

import subprocess
import sys
from pathlib import Path

from themis_bundles import sha256_hex
from themis_slurm.code_version import code_version, package_list
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.submit import submit
from themis_slurm.workspace import Workspace


def test_the_packages_are_those_that_pip_would_freeze() -> None:
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.lower()

    wanted = {line.replace("_", "-").partition("==")[0] for line in frozen.split()}
    assert {line.partition("==")[0] for line in package_list().split()} >= wanted


def test_a_submission_says_which_code_it_was(workspace: Workspace, fleet: Fleet) -> None:
    (record,) = submit(workspace, ClusterProfile(), fleet).records

    assert record.code == code_version()
    kept = workspace.code / f"{record.code.packages}.txt"
    assert sha256_hex(kept.read_bytes()) == record.code.packages


def test_a_checkout_gives_its_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    source = Path(__file__).parents[2]
    for name in ("slurm/themis_slurm", "bundles/themis_bundles"):
        (tmp_path / name).parent.mkdir(parents=True)
        subprocess.run(["cp", "-r", source / name, tmp_path / name], check=True)

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def seen() -> list[str]:
        code = (
            "from themis_slurm.code_version import code_version as v; print(v().commit, v().dirty)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={"PYTHONPATH": f"{tmp_path}/slurm:{tmp_path}/bundles", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    git("init", "-q")
    git("add", "slurm/themis_slurm/__init__.py")
    git("commit", "-qm", "one")
    clean = seen()
    (tmp_path / "slurm" / "themis_slurm" / "__init__.py").write_text("# changed\n")

    assert clean == [git("rev-parse", "HEAD"), "False"]
    assert seen()[1] == "True"
