"""Sites that are strange, and two people at once: one command, repeated, still completes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_dispatch import (
    assert_every_item_once,
    eventually,
    make_bundle,
    profile,
    shards_that_are,
    status_of,
    submit_all,
)
from themis.storage import open_store
from themis.storage.plans import find_run
from themis.storage.tables import iter_candidates
from themis_bundles import Bundle
from themis_bundles.results import read_statuses
from themis_slurm.evidence import Cause
from themis_slurm.workspace import Workspace, open_workspace

pytestmark = pytest.mark.cluster

THEMIS = (sys.executable, "-c", "from themis.cli import main; main()")


def themis(*words: object) -> subprocess.CompletedProcess[str]:
    command = [*THEMIS, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def without_scontrol(tmp_path: Path) -> Path:
    """A folder with every program of this machine but scontrol."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if program.name != "scontrol" and not link.is_symlink():
                link.symlink_to(program)
    return folder


def test_one_minute_walltimes_without_accounting_requeue_and_scontrol_complete_by_repetition(
    unaccounted: object, tmp_path: Path, without_scontrol: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", shards=2, items=60)
    path = tmp_path / "cluster.toml"
    # 60 s less the margin and less what Python takes to start: half of a shard each time.
    path.write_text(
        'partition = "main"\nmem_gb = 0.9\nwalltime = 1\nsignal_margin_s = 25\nrequeue = false\n'
        f'flush_records = 2\nflush_seconds = 0.5\nsetup = ["export PATH={without_scontrol}"]\n'
        "[engine]\nlatency_ms = 700\n"
    )

    submissions = 0
    while not status_of(open_workspace(bundle)).complete:
        assert themis("slurm", "submit", bundle, "--profile", path).returncode == 0
        submissions += 1
        assert submissions < 8
        themis("slurm", "watch", bundle, "--every", "2")

    assert submissions > 1
    assert_every_item_once(bundle)
    causes = {status.cause for status in read_statuses(Bundle.open(bundle), 0)}
    assert causes & {"deadline", "SIGUSR2"}


class TestCauses:
    """What `status` says of a shard is why it failed."""

    @pytest.fixture(params=["cluster", "unaccounted"])
    def account(self, request: pytest.FixtureRequest) -> str | None:
        """A cluster with accounting, and one without; gives the account to use."""
        request.getfixturevalue(request.param)
        return "dev" if request.param == "cluster" else None

    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Workspace:
        return open_workspace(make_bundle(tmp_path / "bundle", shards=1, items=6))

    @pytest.fixture
    def site(self, tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
        """Make the setup lines that give every task some lines of Python first."""

        def plant(lines: str) -> tuple[str, ...]:
            folder = tmp_path / "site"
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(lines)
            return (f"export PYTHONPATH={folder}:$PYTHONPATH",)

        return plant

    def test_out_of_memory(
        self, account: str | None, workspace: Workspace, site: Callable[[str], tuple[str, ...]]
    ) -> None:
        # A task that takes three times the memory that it asked for, as loading weights does.
        lines = (
            "import sys, time\nif 'themis_slurm.task' in ' '.join(sys.orig_argv) or "
            "'submitit' in ' '.join(sys.orig_argv):\n"
            "    kept = b'x' * (600 << 20)\n    time.sleep(30)\n"
        )
        how = profile(0, account=account, mem_gb=0.2, setup=site(lines))

        submit_all(workspace, how)

        eventually(lambda: not _alive(workspace), "end", 90)
        eventually(lambda: shards_that_are(workspace, Cause.OUT_OF_MEMORY) == [0], "memory")

    def test_time_limit(self, account: str | None, workspace: Workspace) -> None:
        # Each answer takes longer than the limit, and nothing can stop it in time.
        minute = {"walltime": 1, "signal_margin_s": 10}
        submit_all(workspace, profile(300_000, account=account, **minute))

        eventually(lambda: _ended(workspace), "end", 150)

        assert status_of(workspace).rows[0].cause in {Cause.TIME_LIMIT, Cause.STOPPED}

    def test_engine_crash(
        self, account: str | None, workspace: Workspace, site: Callable[[str], tuple[str, ...]]
    ) -> None:
        lines = (
            "import themis.providers.demo as demo\nfrom themis.providers import EngineDead\n"
            "def die(self, *_a, **_k):\n    raise EngineDead('CUDA error: device-side assert')\n"
            "demo.DemoEngine.poll = die\n"
        )
        many = open_workspace(
            make_bundle(workspace.bundle.path.with_name("many"), shards=1, items=80)
        )

        submit_all(many, profile(0, account=account, setup=site(lines)))

        eventually(lambda: shards_that_are(many, Cause.ENGINE_CRASH) == [0], "crash")
        assert "device-side assert" in status_of(many).rows[0].detail

    def test_bad_item(
        self, account: str | None, workspace: Workspace, site: Callable[[str], tuple[str, ...]]
    ) -> None:
        lines = (
            "import themis.providers.demo as demo\nfrom themis.providers import EngineDead\n"
            "submit = demo.DemoEngine.submit\npoll = demo.DemoEngine.poll\n"
            "def take(self, request):\n"
            "    self.poisoned = getattr(self, 'poisoned', False) or request.id == 3\n"
            "    return submit(self, request)\n"
            "def answer(self, *a, **k):\n"
            "    if self.poisoned:\n        raise EngineDead('poison')\n"
            "    return poll(self, *a, **k)\n"
            "demo.DemoEngine.submit = take\ndemo.DemoEngine.poll = answer\n"
        )

        submit_all(workspace, profile(0, account=account, setup=site(lines)))

        eventually(lambda: shards_that_are(workspace, Cause.BAD_ITEM) == [0], "bad item")
        status = status_of(workspace)
        assert status.rows[0].detail.endswith("items failed through the machinery")
        assert "infra provider_unavailable" in status.errors

    def test_node_failure(self, request: pytest.FixtureRequest, workspace: Workspace) -> None:
        cluster: Any = request.getfixturevalue("cluster")
        submit_all(workspace, profile(5000, requeue=False, sbatch={"nodelist": "c3"}))
        eventually(lambda: shards_that_are(workspace, Cause.RUNNING) == [0], "a shard on c3")

        cluster.node("kill", "c3")
        try:
            eventually(lambda: not _alive(workspace), "end of what ran on c3", 90)
            eventually(lambda: shards_that_are(workspace, Cause.NODE_FAILURE) == [0], "its cause")
        finally:
            cluster.node("start", "c3")

        assert status_of(workspace).rows[0].node == "c3"


def _alive(workspace: Workspace) -> list[int]:
    return shards_that_are(workspace, Cause.RUNNING, Cause.PENDING)


def _ended(workspace: Workspace) -> bool:
    return not shards_that_are(workspace, Cause.RUNNING, Cause.PENDING, Cause.LOST, Cause.UNKNOWN)


def test_two_people_submit_and_import_the_same_bundle_and_no_item_is_twice_in_a_store(
    cluster: object, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_project(tmp_path / name)
        made = export(tmp_path / name)
        assert made.returncode == 0, made.stderr
    bundle = tmp_path / "one" / "bundle"
    path = tmp_path / "cluster.toml"
    path.write_text('account = "dev"\nmem_gb = 0.9\n[engine]\nlatency_ms = 200\n')

    submitted = at_once(*[("slurm", "submit", bundle, "--profile", path, "--json")] * 2)
    assert sorted(json.loads(said)["shards"] for said in submitted) == [0, 6]
    assert themis("slurm", "watch", bundle, "--every", "2").returncode == 0
    assert_every_item_once(bundle)

    # Both import into a store of their own, and the first one's store gets it from both.
    projects = [tmp_path / name / "project.toml" for name in ("one", "two", "one")]
    at_once(*(("import", bundle, "--project", project) for project in projects))

    for name in ("one", "two"):
        with open_store(tmp_path / name / "store", create=False) as store:
            found = [
                (entry.trial_hash, entry.sample)
                for entry in iter_candidates(store, find_run(store, "latest"))
                if entry.output is not None
            ]
            (rows,) = store.db.execute("SELECT count(*) FROM candidates").fetchone()
        assert len(found) == len(set(found)) == rows == 24


def at_once(*commands: tuple[object, ...]) -> list[str]:
    """Start commands at the same moment; every one has to succeed. Gives what they printed."""
    running = [
        subprocess.Popen(
            [*THEMIS, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    ended = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), ended
    return [said for said, _ in ended]


def write_project(directory: Path) -> None:
    directory.mkdir()
    rows = [{"id": f"q{n}", "question": f"{n} + 1 = ?", "answer": str(n + 1)} for n in range(24)]
    (directory / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (directory / "project.toml").write_text(
        'project_name = "two"\nresearcher_id = "nobody"\nglobal_seed = 5\n'
        '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
    )
    benchmark = {
        "benchmark_id": "two",
        "models": [{"model_id": "sampler", "provider": "demo"}],
        "slices": [
            {
                "slice_id": "sums",
                "dataset": {"source": "local", "data_dir": "sums.jsonl"},
                "generation": {},
                "scores": [{"name": "exact", "metrics": ["exact_match"]}],
            }
        ],
        "prompt_variants": [
            {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]}
        ],
        "inference_grid": {"params": [{"max_tokens": 24, "temperature": 1.0}]},
    }
    (directory / "benchmark.json").write_text(json.dumps(benchmark))


def export(directory: Path) -> subprocess.CompletedProcess[str]:
    out = ("--out", directory / "bundle", "--shard-items", 4)
    return themis("export", "generation", directory / "benchmark.json", *out)
