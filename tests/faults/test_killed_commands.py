"""SIGKILL at any instant of plan, export, import and scoring: the same command finishes the job."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from themis.generation.worker import WorkOptions, work_shard
from themis.handoff.importing import import_results
from themis.orchestration.sessions import open_session
from themis.storage import open_store
from themis.storage.checking import check_store
from themis.storage.plans import find_run
from themis.storage.tables import read_scores
from themis_bundles import Bundle

ITEMS = 3000
KILLS = 12


@pytest.fixture
def benchmark(write_benchmark: Callable[[int], Path]) -> Path:
    return write_benchmark(ITEMS)


def themis(*arguments: object) -> list[str]:
    code = "from themis.cli import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def kill_at_random(command: list[str], kills: int, longest: float) -> int:
    """Start a command and kill it, again and again; return how many kills found it running.

    On a fast machine many come too late, so it goes on until enough have hit.
    """
    draw = random.Random(7)
    found = 0
    for _ in range(5 * kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.05, longest))
        found += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        if found == kills:
            break
    return found


def test_a_killed_import_goes_on_where_it_was(benchmark: Path, tmp_path: Path) -> None:
    from themis.handoff.export import export_generation
    from themis.handoff.register import register_plan

    with open_session(str(benchmark)) as session:
        run = register_plan(session).run
        exported = export_generation(session, run, tmp_path / "bundle", shard_items=100)
    assert exported is not None
    for shard in Bundle.open(exported.path).shards:
        work_shard(exported.path, shard.index, WorkOptions())
    command = themis("import", exported.path, "--project", tmp_path / "project.toml")

    found = kill_at_random(command, KILLS, 0.7)
    with open_store(tmp_path / "store") as store:
        between = store.db.execute("SELECT count(*) FROM events").fetchone()[0]
        import_results(store, exported.path)
        events = store.db.execute("SELECT count(*) FROM events").fetchone()[0]
        report = check_store(store)

    assert found > KILLS // 2, "the kills must hit"
    assert between % 100 == 0, "a shard is imported whole or not at all"
    assert events == ITEMS
    assert report.problems == ()


def test_a_killed_run_gives_the_tables_of_an_undisturbed_one(
    benchmark: Path, tmp_path: Path
) -> None:
    command = themis("run", benchmark, "--shard-items", 200)

    found = kill_at_random(command, KILLS, 2.5)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with open_store(tmp_path / "store") as store:
        run = find_run(store, "latest")
        table = read_scores(store, run)
        generated = store.db.execute("SELECT count(*) FROM events WHERE kind = 1").fetchone()[0]
        report = check_store(store)

    assert found > KILLS // 2, "the kills must hit"
    assert done.returncode == 0, done.stderr
    assert generated == ITEMS
    assert table.rows == ITEMS
    assert table.scored.all()
    assert report.problems == ()
    assert not [path for path in (tmp_path / "store" / "bundles").iterdir() if "tmp" in path.name]
