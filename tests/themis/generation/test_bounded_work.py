"""A worker's memory stays bounded however many items wait."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WORK = """
import json, sys
from pathlib import Path
from themis.generation.worker import WorkOptions, work_shard

def peak():
    # Of this program alone: getrusage counts the process that started it too.
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10

before = peak()
outcome = work_shard(Path(sys.argv[1]), 0, WorkOptions())
print(json.dumps({"done": outcome.items_done, "before": before, "after": peak()}))
"""

MOST_MIB = 200
MOST_KIB_AN_ITEM = 1
"""What stays of an item until its shard is done: where its record lies, never the record."""


def worked(path: Path) -> dict[str, int]:
    """Work on a shard in a process of its own, and return its resident memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(300)
def test_a_hundred_thousand_items_add_less_than_a_kibibyte_each(
    write_generation_bundle: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = (
        worked(
            write_generation_bundle(
                [f"What is {n} + {n}?" for n in range(count)],
                model_id="arithmetic",
                shard_items=count,
                name=f"of-{count}",
            )
        )
        for count in (5_000, 100_000)
    )

    with capsys.disabled():
        print(f"\nresident MiB of a worker: 5,000 items {few}, 100,000 items {many}")
    assert (few["done"], many["done"]) == (5_000, 100_000)
    assert many["after"] < MOST_MIB
    assert (many["after"] - few["after"]) * 1024 < 95_000 * MOST_KIB_AN_ITEM
