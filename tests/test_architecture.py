"""The architecture holds: layers import downwards, and the command line starts light."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

HEAVY = [
    "numpy",
    "scipy",
    "pydantic",
    "rich",
    "torch",
    "transformers",
    "vllm",
    "submitit",
    "sqlite3",
]


def test_every_import_points_downwards() -> None:
    found = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "bundles:slurm"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=lambda given: given[0])
def test_the_command_line_starts_without_heavy_libraries(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from themis.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"loaded = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stderr
