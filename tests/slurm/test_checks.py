"""Each need of a task is one check, which says what is wrong and what to do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from themis_slurm.checks import (
    clock_finding,
    clock_findings,
    gpu_findings,
    is_writable,
    library_findings,
    space_findings,
)
from themis_slurm.findings import Finding, worst

LIST = "GPU 0: NVIDIA H100 (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi in front of the PATH that shows two GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    write(program, f"printf '%s' '{LIST}'")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def write(program: Path, body: str) -> None:
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(("named", "asked"), [(None, 1), ("", 1), ("0", 2), ("0,", 2)])
def test_fewer_gpus_than_asked_for_are_an_error(named: str | None, asked: int) -> None:
    environment = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}

    (finding,) = gpu_findings(asked, environment)

    assert finding.level == "error"
    assert f"not {asked}" in finding.message


def test_as_many_gpus_as_asked_for_are_fine(driver: Path) -> None:
    assert driver.is_file()

    assert worst(gpu_findings(2, {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"})) == "ok"
    assert worst(gpu_findings(0, {})) == "ok"


def test_gpus_that_only_slurm_believes_in_are_an_error(driver: Path) -> None:
    (finding,) = gpu_findings(3, {"CUDA_VISIBLE_DEVICES": "0,1,2"})

    assert driver.is_file()
    assert finding.message == "the driver shows 2; 3 were asked for"


def test_a_driver_that_fails_is_an_error_in_its_words(driver: Path) -> None:
    write(driver, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")

    (finding,) = gpu_findings(1, {"CUDA_VISIBLE_DEVICES": "0"})

    assert finding.level == "error"
    assert "version mismatch" in finding.message


def test_a_library_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)

    (finding,) = [f for f in library_findings(["demo", "hf"]) if f.level != "ok"]

    assert "torch" in finding.message
    assert "themis-hpc[hf]" in finding.fix


def test_a_place_with_room_is_fine_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    assert worst(space_findings(tmp_path, 1 << 20, 10)) == "ok"
    assert is_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_room_says_how_much_there_is(tmp_path: Path) -> None:
    findings = list(space_findings(tmp_path, 1 << 60, 10))

    assert findings[0].level == "error"
    assert "results may need 1,073,741,824 GiB" in findings[0].message


def test_a_limit_that_only_writing_shows_is_found(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path;"
        "from themis_slurm.checks import space_findings;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16));"
        "print(*space_findings(Path(sys.argv[1]), 1 << 20, 1), sep=chr(10))"
    )

    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout

    assert "File too large" in said
    assert "quota" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ahead", "level"), [(0, "ok"), (9, "ok"), (-30, "warning"), (30, "warning"), (-600, "error")]
)
def test_a_clock_that_is_off_is_as_bad_as_the_margin_is_short(
    tmp_path: Path, ahead: float, level: str
) -> None:
    (finding,) = clock_findings(
        tmp_path, machine="n1", margin_s=180, clock=lambda: time.time() + ahead
    )

    assert finding.level == level
    assert list(tmp_path.iterdir()) == []


def test_the_clock_that_is_ahead_is_named() -> None:
    def words(skew: float) -> Finding:
        return clock_finding(skew, "n1", "the file server", 180)

    assert words(60).message.startswith("the clock of the file server is 60 s ahead of that of n1")
    assert words(-60).message.startswith("the clock of n1 is 60 s ahead")
