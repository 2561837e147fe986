"""How fast bundles are written, proved and read, beside the least that could be done.

Each step runs in a process of its own, so that its peak memory is its own. A floor does the
same work on the same bytes with nothing around it. Times are CPU seconds, the best of the
rounds; making up the items is not counted.

    python tests/benchmarks/bench_bundles.py --items 20000
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import zstandard

from themis_bundles import Bundle, BundleInfo, BundleWriter, GroupSpec, ResultWriter, chosen, verify
from themis_bundles.frames import FRAME_LINES, FrameReader, compressor

SHARD_ITEMS = 512
CHUNK = 2048
TARGETS = {
    "export": ("export floor", 1.4),
    "export lines": ("lines floor", 1.4),
    "read items": ("read floor", None),
    "verify items": ("read floor", 1.3),
    "verify": ("verify floor", 1.3),
    "choose": ("verify floor", None),
}


class Stopwatch:
    """Adds up CPU and wall time."""

    def __init__(self) -> None:
        self.cpu = 0.0
        self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a block."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def chunks(count: int) -> Iterator[list[dict[str, Any]]]:
    """Give generation items of about 1.4 KB that compress about as well as prompts do."""
    source = random.Random(1)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randrange(2, 9))) for _ in range(4000)]
    heights = list(itertools.accumulate(1 / (rank + 5) for rank in range(len(words))))
    for start in range(0, count, CHUNK):
        chunk = []
        for number in range(start, min(start + CHUNK, count)):
            text = " ".join(source.choices(words, cum_weights=heights, k=200))
            chunk.append(
                {
                    "id": hashlib.sha256(b"%d" % number).hexdigest()[:32],
                    "sample": 0,
                    "refs": {"model": 0, "params": 1, "prompt": 2, "slice": 3},
                    "request": {"messages": [{"role": "user", "content": text}], "seed": number},
                }
            )
        yield chunk


def record(item: dict[str, Any]) -> dict[str, Any]:
    """Give a record of about the length of its item."""
    return {
        "text": item["request"]["messages"][0]["content"][::-1],
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": {"prompt_tokens": 300, "completion_tokens": 280, "cached_tokens": 16},
        "latency_ms": 812.25 + item["seq"] % 97 / 8,
        "prompt_sha256": hashlib.sha256(item["id"].encode()).hexdigest(),
    }


def serialised(chunk: list[dict[str, Any]]) -> list[bytes]:
    """Give the items as planning gives them: as canonical JSON."""
    return [orjson.dumps(item, option=orjson.OPT_SORT_KEYS) for item in chunk]


def export_floor(folder: Path, count: int, watch: Stopwatch) -> None:
    """Serialise, hash and compress the lines; hash and write the frames."""
    for_frames = _frame_floor(folder)
    for chunk in chunks(count):
        with watch.running():
            for start in range(0, len(chunk), FRAME_LINES):
                for_frames(serialised(chunk[start : start + FRAME_LINES]))


def lines_floor(folder: Path, count: int, watch: Stopwatch) -> None:
    """Hash and compress lines that are serialised; hash and write the frames."""
    for_frames = _frame_floor(folder)
    for chunk in chunks(count):
        lines = serialised(chunk)
        with watch.running():
            for start in range(0, len(lines), FRAME_LINES):
                for_frames(lines[start : start + FRAME_LINES])


def _frame_floor(folder: Path) -> Callable[[list[bytes]], None]:
    compress = compressor(3).compress
    running = hashlib.sha256()
    out = (folder / "floor.zst").open("wb")

    def write(lines: list[bytes]) -> None:
        for line in lines:
            hashlib.sha256(line).digest()
        frame = compress(b"\n".join(lines))
        running.update(frame)
        out.write(frame)

    return write


@contextmanager
def ready_writer(folder: Path) -> Iterator[BundleWriter]:
    """Begin a bundle of a ready plan."""
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    info = BundleInfo("generation", "bench", {"project": "p", "benchmark": "b"}, "2026-01-01")
    with BundleWriter(folder / "bundle", info, shard_items=SHARD_ITEMS) as writer:
        model = writer.component("model", {"model_id": "echo"})
        for kind in ("params", "prompt", "slice"):
            writer.component(kind, {"id": kind})
        writer.start_group(GroupSpec(model, "demo", "echo"))
        yield writer


def export(folder: Path, count: int, watch: Stopwatch) -> None:
    """Write a bundle of a ready plan."""
    with ready_writer(folder) as writer:
        for chunk in chunks(count):
            with watch.running():
                for item in chunk:
                    writer.add(item, prompt_tokens=300, max_new_tokens=300)


def export_lines(folder: Path, count: int, watch: Stopwatch) -> None:
    """Write a bundle of a ready plan whose items are serialised."""
    with ready_writer(folder) as writer:
        for chunk in chunks(count):
            lines = serialised(chunk)
            with watch.running():
                for line in lines:
                    writer.add_canonical(line, 300, 300)


def work(folder: Path, _: int, watch: Stopwatch) -> None:
    """Record an answer for every item, as workers do."""
    bundle = Bundle.open(folder / "bundle")
    shutil.rmtree(bundle.results_dir, ignore_errors=True)
    for shard in bundle.shards:
        answers = [(i.seq, i.sha256, record(i.body)) for i in bundle.iter_items(shard.index)]
        with (
            watch.running(),
            ResultWriter(bundle, shard.index, f"a{shard.index}", header={}) as writer,
        ):
            for seq, digest, answer in answers:
                writer.append(seq, digest, "ok", answer)


def read_floor(folder: Path, _: int, watch: Stopwatch) -> None:
    """Inflate, hash and parse the items."""
    with watch.running():
        _plain((folder / "bundle/data/items").glob("*.zst"))


def verify_floor(folder: Path, _: int, watch: Stopwatch) -> None:
    """Inflate, hash and parse the items and the records."""
    with watch.running():
        _plain((folder / "bundle/data/items").glob("*.zst"))
        _plain((folder / "bundle/results").glob("*/*.zst"))


def _plain(paths: Iterator[Path]) -> None:
    decompress = zstandard.ZstdDecompressor().decompress
    for path in paths:
        with path.open("rb") as file:
            for frame in FrameReader(file.read, 2**24):
                if not frame.head.skippable:
                    for line in decompress(frame.blob).splitlines():
                        hashlib.sha256(line).digest()
                        orjson.loads(line)


def read_items(folder: Path, _: int, watch: Stopwatch) -> None:
    """Read every item, proved."""
    bundle = Bundle.open(folder / "bundle")
    with watch.running():
        for shard in bundle.shards:
            for _item in bundle.iter_items(shard.index):
                pass


def verify_all(folder: Path, _: int, watch: Stopwatch) -> None:
    """Prove the bundle and its results."""
    with watch.running():
        census = verify(Bundle.open(folder / "bundle"))
    assert census.complete, census.problems[:3]


def verify_quick(folder: Path, _: int, watch: Stopwatch) -> None:
    """Prove the digests of every file."""
    with watch.running():
        census = verify(Bundle.open(folder / "bundle"), quick=True)
    assert census.complete


def verify_items(folder: Path, _: int, watch: Stopwatch) -> None:
    """Prove a bundle without results."""
    with watch.running():
        census = verify(Bundle.open(folder / "bundle", results=folder / "none"))
    assert not census.refused


def choose(folder: Path, count: int, watch: Stopwatch) -> None:
    """Join items and records, as an import does."""
    bundle = Bundle.open(folder / "bundle")
    with watch.running():
        found = sum(c.record is not None for s in bundle.shards for c in chosen(bundle, s.index))
    assert found == count


STEPS = {
    "export floor": export_floor,
    "export": export,
    "lines floor": lines_floor,
    "export lines": export_lines,
    "work": work,
    "read floor": read_floor,
    "read items": read_items,
    "verify items": verify_items,
    "verify floor": verify_floor,
    "verify": verify_all,
    "verify quick": verify_quick,
    "choose": choose,
}


def measure(step: str, folder: Path, count: int) -> dict[str, float]:
    """Run one step in this process and return what it took."""
    watch = Stopwatch()
    STEPS[step](folder, count, watch)
    return {
        "cpu": watch.cpu,
        "wall": watch.wall,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure every step in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.folder, options.items)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found: dict[str, dict[str, float]] = {}
        # Rounds go around all steps, so that a slow minute of the machine hits all alike.
        for _ in range(options.rounds):
            for step in STEPS:
                command = [sys.executable, __file__, "--items", str(options.items)]
                command += ["--step", step, "--folder", folder]
                out = subprocess.run(command, check=True, capture_output=True, env=os.environ)
                once = json.loads(out.stdout)
                best = found.setdefault(step, once)
                for key, value in once.items():
                    best[key] = max(best[key], value) if key == "rss" else min(best[key], value)
    print(f"{options.items} items, best of {options.rounds}, CPU time of one core")
    print(f"{'step':<14}{'µs/record':>10}{'records/s':>12}{'wall µs':>9}{'RSS MB':>8}  beside")
    for step, best in found.items():
        floor, target = TARGETS.get(step, (None, None))
        beside = ""
        if floor:
            beside = f"{best['cpu'] / found[floor]['cpu']:.2f} x {floor}"
            beside += f" (target {target})" if target else ""
        each = best["cpu"] / options.items
        wall = best["wall"] / options.items
        print(
            f"{step:<14}{each * 1e6:>10.2f}{1 / each:>12.0f}{wall * 1e6:>9.2f}"
            f"{best['rss']:>8.0f}  {beside}"
        )
    if options.json:
        options.json.write_text(json.dumps({"items": options.items, "steps": found}, indent=1))


if __name__ == "__main__":
    main()
