"""The whole path at scale: records per second and peak memory of each step, beside its floor.

    python tests/benchmarks/bench_pipeline.py --items 20000

Each step runs in a process of its own, so its peak memory is its own. A floor is the least that
the step's bytes cost with the same libraries and nothing else: for an export, serialise + hash +
zstd of the same lines; for a verification, inflate + hash + parse; for an import, that and one
prepared bulk insert of rows and payloads.
"""

import argparse
import hashlib
import importlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import zstandard

BATCH = 512
WORDS_PER_PROMPT = 210
"""About 1.4 KB of text, which compresses about as well as English does."""


def write_project(root: Path, items: int) -> None:
    """Write a project whose prompts are about 1.5 KB each."""
    draw = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    weights = range(len(letters), 0, -1)
    words = ["".join(draw.choices(letters, weights, k=draw.randint(2, 10))) for _ in range(4000)]
    often = [1 / (rank + 3) for rank in range(len(words))]
    pool = draw.choices(words, often, k=200_000)
    with (root / "items.jsonl").open("w") as file:
        for number in range(items):
            place = draw.randrange(len(pool) - WORDS_PER_PROMPT)
            text = " ".join(pool[place : place + WORDS_PER_PROMPT])
            text = f"{text}. What is {number} + {number % 97}?"
            row = {"id": f"i{number}", "question": text, "answer": str(number + number % 97)}
            file.write(json.dumps(row) + "\n")
    (root / "project.toml").write_text(
        'project_name = "bench"\nresearcher_id = "bench"\nglobal_seed = 1\n'
        '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
    )
    benchmark = {
        "benchmark_id": "bench",
        "models": [{"model_id": "echo", "provider": "demo"}],
        "slices": [
            {
                "slice_id": "all",
                "dataset": {"source": "local", "data_dir": "items.jsonl"},
                "generation": {},
                "parses": [{"name": "number", "extractors": ["last_number"]}],
                "scores": [{"name": "default", "parse": "number", "metrics": ["numeric_match"]}],
            }
        ],
        "prompt_variants": [
            {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]}
        ],
        "inference_grid": {"params": [{"max_tokens": 512}]},
    }
    (root / "benchmark.json").write_text(json.dumps(benchmark))


def plan_and_export(root: Path) -> int:
    from themis.handoff.export import export_generation
    from themis.handoff.register import register_plan
    from themis.orchestration.sessions import open_session

    with open_session(str(root / "benchmark.json")) as session:
        exported = export_generation(session, register_plan(session).run, root / "bundle")
    assert exported is not None
    return exported.items


def plan(root: Path) -> int:
    from themis.handoff.register import register_plan
    from themis.orchestration.sessions import open_session

    with open_session(str(root / "benchmark.json")) as session:
        return register_plan(session).run.trials


def work(root: Path) -> int:
    from themis.generation.worker import WorkOptions, work_shard
    from themis_bundles import Bundle, incomplete_shards

    options = WorkOptions(results=None, model_paths={}, engine_options={}, deadline=None)
    shards = incomplete_shards(Bundle.open(root / "bundle"))
    return sum(work_shard(root / "bundle", shard, options).items_done for shard in shards)


def verify(root: Path) -> int:
    from themis_bundles import Bundle
    from themis_bundles import verify as verify_bundle

    census = verify_bundle(Bundle.open(root / "bundle"))
    assert census.complete
    return census.items


def import_(root: Path) -> int:
    from themis.handoff.importing import import_results
    from themis.storage import open_store

    with open_store(root / "store") as store:
        return import_results(store, root / "bundle").stored


def score(root: Path) -> int:
    from themis.handoff.register import register_plan
    from themis.handoff.scoring import score_pending
    from themis.orchestration.sessions import open_session

    with open_session(str(root / "benchmark.json")) as session:
        return score_pending(session, register_plan(session).run)


def aggregate(root: Path) -> int:
    from themis.results.aggregate import aggregate as aggregate_table
    from themis.storage import open_store
    from themis.storage.plans import find_run
    from themis.storage.tables import read_scores

    with open_store(root / "store") as store:
        table = read_scores(store, find_run(store, "latest"))
    aggregate_table(table, ["model_id", "slice_id", "metric_id"])
    return table.rows


def frames_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield reader.read()


def floor_export(root: Path) -> int:
    """Serialise + hash + compress the lines that the export wrote; reading them is not counted."""
    count, spent = 0, 0.0
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    for path in sorted((root / "bundle/data/items").glob("*.zst")):
        for data in frames_of(path):
            bodies = [orjson.loads(line) for line in data.splitlines()]
            started = time.process_time()
            lines = [orjson.dumps(body, option=orjson.OPT_SORT_KEYS) for body in bodies]
            for line in lines:
                hashlib.sha256(line).digest()
            for at in range(0, len(lines), BATCH):
                compressor.compress(b"\n".join(lines[at : at + BATCH]))
            spent += time.process_time() - started
            count += len(bodies)
    print(json.dumps({"cpu": spent, "wall": spent}))
    return count


def floor_verify(root: Path) -> int:
    """Inflate + hash + parse items and results."""
    count = 0
    for path in sorted((root / "bundle").glob("data/items/*.zst")):
        for data in frames_of(path):
            for line in data.splitlines():
                hashlib.sha256(line).digest()
                orjson.loads(line)
                count += 1
    for path in sorted((root / "bundle").glob("results/*/*.zst")):
        for data in frames_of(path):
            for line in data.splitlines():
                hashlib.sha256(line).digest()
                orjson.loads(line)
    return count


def floor_import(root: Path) -> int:
    """Inflate + hash + parse the results, and insert rows and compressed payloads."""
    compressor = zstandard.ZstdCompressor(level=3)
    db = sqlite3.connect(root / "floor.sqlite3", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, a, b, c, d, e, payload)")
    db.execute("CREATE TABLE rows (t, s, a, b, c, d, e, f, PRIMARY KEY (t, s)) WITHOUT ROWID")
    count = 0
    for path in sorted((root / "bundle").glob("results/*/*.zst")):
        for data in frames_of(path):
            events, rows = [], []
            for line in data.splitlines():
                record = orjson.loads(line)
                if "seq" not in record:
                    continue
                digest = hashlib.sha256(line).digest()
                body = record["record"]
                payload = compressor.compress(orjson.dumps(body))
                events.append((None, 1, count, 0, 1.0, digest, payload))
                usage = body["usage"]["completion_tokens"]
                rows.append((count, 0, 0, body["finish_reason"], usage, usage, 1.0, count))
                count += 1
            db.execute("BEGIN")
            db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", events)
            db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
    return count


STEPS: dict[str, Callable[[Path], int]] = {
    "plan + export": plan_and_export,
    "floor of export": floor_export,
    "plan again": plan,
    "work (demo engine)": work,
    "verify": verify,
    "floor of verify": floor_verify,
    "import": import_,
    "floor of import": floor_import,
    "score": score,
    "aggregate": aggregate,
}


def peak_mb() -> float:
    """Return the peak memory of this program; ru_maxrss would count whoever started it too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM line")


MODULES = (
    "themis.generation.worker",
    "themis.handoff.export",
    "themis.handoff.importing",
    "themis.orchestration.sessions",
    "themis.results.aggregate",
    "themis.storage.tables",
    "scipy.special",
    "sqlite_utils",
)
"""Loaded before the clock starts: a step's start-up does not grow with its records."""


def run_step(name: str, root: Path) -> None:
    """Run one step in this process and print what it took."""
    for module in MODULES if not name.startswith("floor") else ():
        importlib.import_module(module)
    started, cpu_before = time.perf_counter(), time.process_time()
    count = STEPS[name](root)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu_before
    print(json.dumps({"count": count, "wall": wall, "cpu": cpu, "peak_mb": peak_mb()}))


FLOOR_OF = {
    "plan + export": "floor of export",
    "verify": "floor of verify",
    "import": "floor of import",
}


def measure(items: int, root: Path) -> list[dict[str, float | str]]:
    """Run every step in a process of its own; return and print one row for each.

    Rates are by the wall clock. Costs and ratios are CPU time, which other work on the machine
    disturbs less.
    """
    write_project(root, items)
    rows: dict[str, dict[str, float | str]] = {}
    print(f"{'step':<22}{'records':>10}{'records/s':>12}{'CPU µs/record':>15}{'peak MB':>9}")
    for name in STEPS:
        done = subprocess.run(
            [sys.executable, __file__, "--step", name, "--root", str(root)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found: dict[str, float] = {}
        for line in done.stdout.splitlines():
            found = json.loads(line) | found
        cost = 1e6 * found["cpu"] / found["count"]
        rows[name] = {"step": name, "cpu_us": cost, "peak_mb": found["peak_mb"]}
        print(
            f"{name:<22}{found['count']:>10,.0f}{found['count'] / found['wall']:>12,.0f}"
            f"{cost:>15.1f}{found['peak_mb']:>9.0f}",
            flush=True,
        )
    for name, floor in FLOOR_OF.items():
        ratio = float(rows[name]["cpu_us"]) / float(rows[floor]["cpu_us"])
        print(f"{name}: {ratio:.2f} x its floor")
    return list(rows.values())


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--root", type=Path)
    given = parser.parse_args()
    if given.step:
        run_step(given.step, given.root)
        return
    with tempfile.TemporaryDirectory(prefix="themis-bench-") as folder:
        measure(given.items, Path(folder))


if __name__ == "__main__":
    main()
