"""Thousands of shards cost the scheduler a handful of questions."""

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis_bundles import BundleInfo, BundleWriter, GroupSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.conftest import DevCluster

pytestmark = pytest.mark.cluster

SHARDS = 2500
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
PROFILE = 'partition = "main"\naccount = "dev"\nmem_gb = 0.5\nsignal_margin_s = 60\nwalltime = 10\n'


@pytest.fixture
def wide_cluster(
    start_cluster: "Callable[..., DevCluster]", monkeypatch: pytest.MonkeyPatch
) -> "DevCluster":
    """A cluster with Slurm's own limit of 1001 elements, which accepts jobs and starts none."""
    cluster = start_cluster("--max-array-size", "1001")
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    subprocess.run(
        ("scontrol", "update", "partitionname=main", "state=down"), check=True, timeout=60
    )
    return cluster


class Calls:
    """Counts the calls of Slurm's commands, which go through to the real ones."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls"
        self._log.touch()
        for name in COMMANDS:
            real = shutil.which(name)
            script = folder / name
            script.write_text(f'#!/bin/sh\necho {name} >> {self._log}\nexec {real} "$@"\n')
            script.chmod(0o755)

    def since(self) -> Counter[str]:
        """Give the calls since the last question."""
        found = Counter(self._log.read_text().split())
        self._log.write_text("")
        return found


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    folder = tmp_path / "bin"
    folder.mkdir()
    counted = Calls(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return counted


def themis(*words: object, expect: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return done.stdout


def make_bundle(path: Path) -> Path:
    info = BundleInfo(
        stage="generation",
        run_id="run-1",
        created_for={"project": "tests", "benchmark": "wide"},
        date="2026-01-01",
    )
    with BundleWriter(path, info, shard_items=1) as writer:
        refs = {
            "model": writer.component("model", {"provider": "demo", "model_id": "echo"}),
            "params": writer.component("params", {"max_tokens": 8, "temperature": 0.0}),
            "prompt": writer.component("prompt", {"id": "plain"}),
            "slice": writer.component("slice", {"slice_id": "sums"}),
        }
        writer.start_group(GroupSpec(refs["model"], "demo", "echo"))
        for number in range(SHARDS):
            question = {"role": "user", "content": f"{number} = ?"}
            request = {"messages": [question], "seed": number}
            item = {"id": f"{number:032x}", "sample": 0, "refs": refs, "request": request}
            writer.add(item, prompt_tokens=3, max_new_tokens=8)
    return path


def test_2500_shards_are_three_arrays_and_one_question_at_a_time(
    wide_cluster: "DevCluster", calls: Calls, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    profile = tmp_path / "cluster.toml"
    profile.write_text(PROFILE)

    said = json.loads(themis("slurm", "submit", bundle, "--profile", profile, "--json"))
    submitting = calls.since()
    first = json.loads(themis("slurm", "status", bundle, "--json", expect=1))
    looking = calls.since()
    again = json.loads(themis("slurm", "submit", bundle, "--profile", profile, "--json"))
    repeating = calls.since()

    assert (said["shards"], len(said["jobs"])) == (SHARDS, 3)  # indices end at 1000
    assert submitting == {"sbatch": 3, "scontrol": 1}
    assert first["shards"] == {"total": SHARDS, "pending": SHARDS}
    assert looking == {"squeue": 1}
    assert (again["shards"], len(again["alive"])) == (0, SHARDS)
    assert repeating["sbatch"] == 0
    assert repeating["squeue"] == 1

    themis("slurm", "cancel", bundle)

    assert calls.since()["scancel"] == 1
