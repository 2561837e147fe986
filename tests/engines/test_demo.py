"""`themis demo`: a real model answers real questions through the whole job, once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.smollm]

CODE = "from themis.cli import main; main()"


def demo(smollm: Path, directory: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "demo", "--dir", directory, "--no-slurm", *options]
    return subprocess.run(
        [str(word) for word in command],
        # The converted model lies in `models` of the cache.
        env={**os.environ, "THEMIS_CACHE": str(smollm.parent.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_the_demo_ends_with_scores_and_a_report_and_does_nothing_the_second_time(
    smollm: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "demo"

    first = demo(smollm, directory, "--questions", 2)
    second = demo(smollm, directory, "--questions", 2)

    assert first.returncode == 0, first.stderr
    assert "planned 8 candidates" in first.stderr
    assert "8 scores planned, 8 scored, 0 failed, 0 missing" in first.stdout
    for slice_id in ("arithmetic", "gsm8k"):
        assert slice_id in first.stdout
    assert "Paired differences" in first.stdout
    assert second.returncode == 0, second.stderr
    assert "nothing to do: everything was generated and scored before" in second.stderr
    assert second.stdout == first.stdout
    for name in ("report.html", "report.md"):
        assert "SmolLM2-135M-Instruct" in (directory / name).read_text()
