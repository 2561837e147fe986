"""Forty shards on four nodes, while everything that can go wrong on a cluster goes wrong.

The same command is given until nothing is left. Then the census is complete, each item has one
answer, and the scores are those of a run that nobody disturbed.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.storage import open_store
from themis.storage.plans import find_run
from themis.storage.tables import iter_candidates
from themis_bundles import Bundle, finished, verify
from themis_bundles.results import read_statuses

T = TypeVar("T")

pytestmark = pytest.mark.cluster

SHARDS, SHARD_ITEMS = 40, 8
MOST_SUBMISSIONS = 12
PROFILE = """
partition = "low"
account = "dev"
gpus = 1
cpus = 2
mem_gb = 0.9
walltime = 10
signal_margin_s = 20
array_parallelism = 4
flush_records = 2
flush_seconds = 0.5
[engine]
latency_ms = 1500
"""


class Nodes(Protocol):
    """What the test may do to the cluster's machines."""

    def node(self, action: str, name: str) -> None: ...


def slurm(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def themis(*words: object, expect: tuple[int, ...] = (0,)) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code in expect, done.output
    return done.stdout


def eventually(condition: Callable[[], T], what: str, seconds: float = 120) -> T:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.3)
    return found


def make_project(directory: Path) -> Path:
    """Write a benchmark of sums, and export it as forty shards."""
    directory.mkdir()
    rows = [
        {"id": f"q{n}", "question": f"What is {n} + {n % 7}?", "answer": str(n + n % 7)}
        for n in range(SHARDS * SHARD_ITEMS)
    ]
    (directory / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (directory / "project.toml").write_text(
        'project_name = "chaos"\nresearcher_id = "nobody"\nglobal_seed = 5\n'
        '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
    )
    benchmark = {
        "benchmark_id": "chaos",
        "models": [{"model_id": "sampler", "provider": "demo"}],
        "slices": [
            {
                "slice_id": "sums",
                "dataset": {"source": "local", "data_dir": "sums.jsonl"},
                "generation": {},
                "parses": [{"name": "number", "extractors": ["last_number"]}],
                "scores": [{"name": "exact", "parse": "number", "metrics": ["numeric_match"]}],
            }
        ],
        "prompt_variants": [
            {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]}
        ],
        "inference_grid": {"params": [{"max_tokens": 24, "temperature": 1.0}]},
    }
    (directory / "benchmark.json").write_text(json.dumps(benchmark))
    bundle = directory / "bundle"
    export = ("export", "generation", directory / "benchmark.json", "--out", bundle)
    themis(*export, "--shard-items", SHARD_ITEMS)
    return bundle


def outcome(directory: Path) -> list[tuple[Any, ...]]:
    """Import what came back, score it, and return every answer with its scores."""
    themis("import", directory / "bundle", "--project", directory / "project.toml")
    themis("run", directory / "benchmark.json")
    with open_store(directory / "store", create=False) as store:
        return [
            (
                entry.trial_hash,
                entry.sample,
                entry.output and {**entry.output, "latency_ms": None},
                entry.evaluations,
            )
            for entry in iter_candidates(store, find_run(store, "latest"))
        ]


class Chaos:
    """One bundle on the cluster, and what can be done to its shards."""

    def __init__(self, bundle: Path, profile: Path) -> None:
        self.bundle = bundle
        self._profile = profile
        self._touched: set[int] = set()

    def submit(self) -> None:
        themis("slurm", "submit", self.bundle, "--profile", self._profile)

    def rows(self, *causes: str) -> list[dict[str, Any]]:
        """Give the shards that stand so, from one call of `themis slurm status`."""
        found = json.loads(themis("slurm", "status", self.bundle, "--json", expect=(0, 1)))
        return [row for row in found["rows"] if row["cause"] in causes]

    def working(self, count: int, *, node: str = "") -> list[dict[str, Any]]:
        """Wait for so many shards, none given before, that have finished some items, not all."""

        def some() -> list[dict[str, Any]]:
            found = [
                row
                for row in self.rows("running")
                if row["node"].startswith(node) and self._is_working(row["shard"])
            ]
            return found[:count] if len(found) >= count else []

        chosen = eventually(some, f"{count} shards at work {node}")
        self._touched.update(row["shard"] for row in chosen)
        return chosen

    def _is_working(self, shard: int) -> bool:
        if shard in self._touched:
            return False
        bundle = Bundle.open(self.bundle)
        return 0 < len(finished(bundle, shard)) < SHARD_ITEMS - 2 and is_alive(self._pid(shard))

    def _pid(self, shard: int) -> int:
        return read_statuses(Bundle.open(self.bundle), shard)[-1].pid

    def settle(self) -> None:
        """Wait until nothing of the bundle is in the queue."""
        eventually(lambda: not self.rows("running", "pending", "unknown"), "empty queue", 240)

    def kill(self, row: dict[str, Any]) -> None:
        """End a shard's worker as a kernel without memory does."""
        os.kill(self._pid(row["shard"]), signal.SIGKILL)

    def hang(self, row: dict[str, Any]) -> None:
        """Let a shard's worker hang, and its time limit pass in three seconds."""
        os.kill(self._pid(row["shard"]), signal.SIGSTOP)
        end = datetime.now() + timedelta(seconds=3)  # noqa: DTZ005 - Slurm takes local time
        slurm("scontrol", "update", f"JobId={row['job']}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def states_of(bundle: Path) -> set[str]:
    """Give every state that accounting has seen of the bundle's jobs, former starts included."""
    records = [json.loads(p.read_text()) for p in bundle.glob("dispatch/submissions/*.json")]
    jobs = ",".join(record["job_id"] for record in records)
    told = slurm("sacct", "-n", "-X", "-D", "-P", "-j", jobs, "-o", "State")
    return {line.split()[0] for line in told.splitlines()}


def test_forty_shards_survive_whatever_happens_to_them(cluster: Nodes, tmp_path: Path) -> None:
    make_project(tmp_path / "calm")
    themis("work", tmp_path / "calm" / "bundle", "--all")
    profile = tmp_path / "cluster.toml"
    profile.write_text(PROFILE)
    chaos = Chaos(make_project(tmp_path / "chaos"), profile)

    chaos.submit()
    first, second = chaos.working(2)
    waiting = chaos.rows("pending")[-1]
    slurm("scancel", first["job"])
    slurm("scancel", waiting["job"])
    slurm("scontrol", "requeue", second["job"])
    for row in chaos.working(2):
        chaos.kill(row)
    for row in chaos.working(2):
        chaos.hang(row)
    chaos.submit()
    chaos.working(1, node="c1")
    slurm("sbatch", "-p", "high", "-w", "c1", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 2")
    chaos.working(1, node="c3")
    cluster.node("kill", "c3")
    try:
        chaos.submit()
        eventually(lambda: "NODE_FAIL" in states_of(chaos.bundle), "a lost node")
    finally:
        cluster.node("start", "c3")
    submissions = 0
    while len(chaos.rows("complete")) < SHARDS:
        assert submissions < MOST_SUBMISSIONS, "repeating the command does not end"
        chaos.submit()
        chaos.settle()
        submissions += 1

    census = verify(Bundle.open(chaos.bundle), require_results=True)
    assert census.problems == ()
    assert census.complete
    assert census.counts["ok"] == SHARDS * SHARD_ITEMS
    assert census.counts["duplicate"] == census.counts["conflict"] == 0
    happened = {"CANCELLED", "FAILED", "NODE_FAIL", "REQUEUED", "TIMEOUT"}
    assert happened - states_of(chaos.bundle) == set()
    assert outcome(tmp_path / "chaos") == outcome(tmp_path / "calm")
