"""How fast results are read, beside its targets and the least that numpy could do.

Each step runs in a process of its own, so that its peak memory is its own. A floor does the
sums that nobody gets around, on the same columns: counts, sums and squares per combination
of keys; a pivot, and sums of its differences; or, for resampling, the draws and one product
with the differences. It does no statistics at all. Times are CPU seconds, the best of the rounds;
making the table up is not counted. Peak memory includes the libraries and the table itself.

    python tests/benchmarks/bench_results.py --models 20 --slices 50 --items 1000
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from themis.records.score_table import ScoreTable
from themis.results.aggregate import aggregate
from themis.results.compare import paired_compare
from themis.results.paired_tests import PairedMethod, TestPlan, examine
from themis.results.pairing import PairSums

KEYS = ("model_id", "slice_id", "prompt_variant_id", "metric_id")
TARGETS = {
    "aggregate, 4 keys": 1.0,
    "paired, tests alone": 0.1,
    "paired, sign flip": 6.0,
    "paired, bootstrap": 6.0,
    "paired, bca": 6.0,
}
TARGET_MB = 500
FLOORS = {
    "aggregate, 4 keys": "floor of aggregate",
    "paired, 0/1 scores": "floor of paired",
    "paired, graded scores": "floor of paired",
    "paired, sign flip": "floor of resampling",
    "paired, bootstrap": "floor of resampling",
    "paired, bca": "floor of resampling",
}
DRAWS = 10_000


def make_table(models: int, slices: int, items: int, *, binary: bool) -> ScoreTable:
    """Make models x slices x items scores in random order, half an item per prompt."""
    rng = np.random.default_rng(0)
    n = models * slices * items
    rows = rng.permutation(n).astype(np.int32)
    item, rest = rows % np.int32(items), rows // np.int32(items)
    value = rng.random(n)
    zero = np.zeros(n, np.int32)

    def names(kind: str, count: int) -> tuple[str, ...]:
        return tuple(f"{kind}{number}" for number in range(count))

    return ScoreTable(
        models=names("m", models),
        slices=names("s", slices),
        prompts=names("p", 2),
        params=("greedy",),
        metrics=("exact_match",),
        evaluations=("default",),
        items=names("i", items),
        model=rest % np.int32(models),
        slice=rest // np.int32(models),
        prompt=item % np.int32(2),
        param=zero,
        metric=zero,
        evaluation=zero,
        item=item,
        sample=zero,
        value=(value < 0.6).astype(np.float64) if binary else value,
        status=np.zeros(n, np.int8),
    )


def best(work: Callable[[], Any], rounds: int) -> float:
    """Give the smallest CPU time of several runs."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def steps(table: ScoreTable, graded: ScoreTable) -> dict[str, Callable[[], Any]]:
    """Name what can be measured."""
    keys = [(len(table.models), table.model), (len(table.slices), table.slice),
            (len(table.prompts), table.prompt), (len(table.metrics), table.metric)]  # fmt: skip

    def floor_aggregate() -> object:
        sizes = [size for size, _ in keys]
        group = np.ravel_multi_index([codes for _, codes in keys], sizes)
        n = np.bincount(group)
        mean = np.bincount(group, table.value) / n
        off = table.value - mean[group]
        return mean, np.sqrt(np.bincount(group, off * off) / n)

    def floor_paired() -> object:
        shape = (len(table.slices), len(table.items), len(table.models))
        cell = np.ravel_multi_index((table.slice, table.item, table.model), shape)
        wide = np.bincount(cell, table.value).reshape(shape)
        d = wide[:, :, 1:] - wide[:, :, :1]
        return (d > 0).sum(axis=1), (d < 0).sum(axis=1), d.mean(axis=1), d.var(axis=1)

    def floor_resampling() -> object:
        rng, items = np.random.default_rng(0), len(table.items)
        columns = np.ones((items, (len(table.models) - 1) * len(table.slices)))
        drawn = np.empty((1000, items))
        for _ in range(DRAWS // 1000):
            drawn[:] = rng.integers(0, 2, drawn.shape, dtype=np.int8)
            np.matmul(drawn, columns)
        return drawn

    def compare(scores: ScoreTable, method: PairedMethod = "auto") -> Callable[[], Any]:
        return lambda: paired_compare(
            scores, baseline="m0", method=method, p_value_correction="holm", n_resamples=DRAWS
        )

    return {
        "floor of aggregate": floor_aggregate,
        "aggregate, 4 keys": lambda: aggregate(table, KEYS),
        "floor of paired": floor_paired,
        "floor of resampling": floor_resampling,
        "paired, 0/1 scores": compare(table),
        "paired, graded scores": compare(graded),
        "paired, tests alone": tests_alone(graded),
        "paired, sign flip": compare(graded, "sign_flip"),
        "paired, bootstrap": compare(graded, "bootstrap"),
        "paired, bca": compare(graded, "bca"),
    }


def tests_alone(table: ScoreTable) -> Callable[[], Any]:
    """Give the default tests of all comparisons, their sums already made."""
    kept: list[PairSums] = []

    def work() -> object:
        if not kept:
            kept.append(_sums(table))
        return examine(kept[0], TestPlan())

    return work


def _sums(table: ScoreTable) -> PairSums:
    from themis.results.grouping import group_rows, read_key
    from themis.results.pairing import lay_arms, sum_pairs

    groups = group_rows(table, ("slice_id",))
    arms = lay_arms(table, groups, read_key(table, "model_id"), [], None)
    return sum_pairs(arms, [(0, other) for other in range(1, len(table.models))])


def main() -> None:
    """Measure every step and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = (asked.models, asked.slices, asked.items)
    table = make_table(*size, binary=True)
    if asked.step:
        work = steps(table, make_table(*size, binary=False))[asked.step]
        seconds = best(work, asked.rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak_mb": peak}))
        return
    print(f"{table.rows:,} scores, {(asked.models - 1) * asked.slices:,} comparisons")
    print(f"{'step':24}{'cpu s':>9}{'target s':>10}{'x floor':>9}{'peak MB':>9}{'target MB':>11}")
    floors: dict[str, float] = {}
    for name in steps(table, table):
        found = measure(name, asked)
        seconds = found["seconds"]
        floors[name] = seconds
        target, ratio = " " * 10, " " * 9
        if name in TARGETS:
            target = f"{TARGETS[name]:10.1f}"
        if name in FLOORS:
            ratio = f"{seconds / floors[FLOORS[name]]:9.1f}"
        memory = f"{found['peak_mb']:9.0f}{TARGET_MB:11}"
        print(f"{name:24}{seconds:9.3f}{target}{ratio}{memory}", flush=True)


def measure(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Run one step in a process of its own; give its seconds and its peak memory."""
    command = [sys.executable, __file__, "--step", name]
    for option in ("models", "slices", "items", "rounds"):
        command += [f"--{option}", str(getattr(asked, option))]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return found


if __name__ == "__main__":
    main()
