"""What accounting says that jobs used."""

import os
from pathlib import Path

import pytest

from themis_slurm.billing import Billed, billed
from themis_slurm.processes import this_process
from themis_slurm.records import SubmissionRecord


def record(name: str, job_id: str | None) -> SubmissionRecord:
    return SubmissionRecord(
        number=1,
        kind="slurm",
        state="submitted",
        name=name,
        bundle="ab" * 32,
        group=0,
        shards=(0,),
        items_done=(0,),
        options="o",
        submitter=this_process(),
        prepared=1_700_000_000.0,
        job_id=job_id,
    )


def test_every_attempt_of_our_own_jobs_counts_with_its_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sacct = tmp_path / "sacct"
    sacct.write_text(
        f"""#!/bin/sh
echo "$*" > {tmp_path}/asked
cat <<END
ours|3600|billing=4,cpu=4,gres/gpu:h100=2,gres/gpu=2,mem=1G,node=1
ours|1800|billing=4,cpu=4,gres/gpu=2,mem=1G,node=1
ours|0|
theirs|7200|cpu=64,gres/gpu=8
END
"""
    )
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    found = billed([record("ours", "7"), record("never", None)])

    assert found == Billed(attempts=2, hours=1.5, gpu_hours=3.0, cpu_hours=6.0)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[-2:] == ["-j", "7"]
    assert {"-D", "-X"} <= set(asked)


def test_nothing_submitted_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert billed([]) == Billed(attempts=0, hours=0.0, gpu_hours=0.0, cpu_hours=0.0)
