"""What the documentation shows can be typed, and prints what it says.

In a fenced block marked `console`, a line after `$ ` is a command; the lines under it must come
in its output, in that order. A line that is only `…` stands for anything.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    # tests/cluster/test_docs.py runs the page about Slurm, on a real one.
    if "```console" in page.read_text() and page.stem != "slurm"
)

SLOW = re.compile(r"\$ (make|git clone|cd themis|bash|\.ci)")
"""Commands that other tests run: set-up and the demo."""


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Return the commands of a page, each with the lines that it must print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.strip() and line.strip() != "…":
                found[-1][1].append(line.strip())
    return [entry for entry in found if not SLOW.match(f"$ {entry[0]}")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_and_print_what_it_says(page: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for command, expected in commands(page):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = done.stdout
        place = 0
        for line in expected:
            found = printed.find(line, place)
            assert found >= 0, f"{command!r} did not print {line!r}:\n{printed}"
            place = found + len(line)
        assert done.returncode == 0 or expected, f"{command!r} failed:\n{printed}"
