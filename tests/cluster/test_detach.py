"""A detached run ends by itself, whatever happens to the login session and to its jobs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis_bundles import Bundle, verify
from themis_bundles.results import read_statuses
from themis_slurm.chain import Chain
from themis_slurm.records import read_records
from themis_slurm.workspace import open_workspace

pytestmark = pytest.mark.cluster

THEMIS = [sys.executable, "-P", "-c", "from themis.cli import main; main()"]
PROFILE = """
partition = "main"
account = "dev"
mem_gb = 0.9
walltime = 10
signal_margin_s = 60
flush_records = 2
flush_seconds = 0.5

[engine]
latency_ms = {latency}

[collector]
mem_gb = 0.9
walltime = 10
"""


def eventually(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.2)
    return found


class Project:
    """A project of the shipped template, with a profile for the development cluster."""

    def __init__(self, folder: Path, latency: int) -> None:
        self.folder = folder
        themis(folder, "init", "eval")
        (folder / "cluster.toml").write_text(PROFILE.format(latency=latency))
        self.command = ["run", "eval/benchmark.toml", "--profile", "cluster.toml", "--detach"]
        self.command += ["--shard-items", "10"]

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*THEMIS, *self.command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def found(self, pattern: str) -> list[Path]:
        return sorted(self.folder.rglob(pattern))

    def chain(self) -> Chain | None:
        files = [path for path in self.found("detached/*.json") if path.stat().st_size]
        return Chain.model_validate_json(files[0].read_bytes()) if files else None

    def bundle(self) -> Path:
        return self.found("bundles/*-generation-00")[0]

    def log(self) -> str:
        return "".join(path.read_text() for path in self.found("detached/*.log"))

    def wait(self, seconds: float = 180) -> str:
        """Wait until nothing is in the queue any more, and give the collectors' log."""
        eventually(lambda: not queue(), f"end of the chain\n{self.log()}", seconds)
        return self.log()


def themis(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*THEMIS, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def queue() -> list[str]:
    return subprocess.run(
        ("squeue", "-h", "-o", "%i %j %T"), check=True, capture_output=True, text=True, timeout=60
    ).stdout.splitlines()


def assert_done(project: Project) -> None:
    """Prove the bundle, and that the command finds nothing to do and all scores there."""
    census = verify(Bundle.open(project.bundle()), require_results=True)
    assert census.complete
    assert census.counts["duplicate"] == census.counts["conflict"] == 0
    again = themis(project.folder, *project.command)
    assert again.returncode == 0, again.stderr
    assert "nothing to do: everything was generated and scored before" in again.stderr


def test_the_command_returns_and_the_run_ends_by_itself(cluster: object, tmp_path: Path) -> None:
    assert cluster
    project = Project(tmp_path, latency=300)

    first = themis(tmp_path, *project.command)
    again = themis(tmp_path, *project.command)

    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert "you may log out" in first.stderr
    assert "nothing to do until then" in again.stderr
    log = project.wait()
    assert "80 scored, 0 failed" in log, "the collector ends with the scores"
    assert_done(project)


def test_a_killed_login_and_a_killed_worker_are_made_up_for(
    cluster: object, tmp_path: Path
) -> None:
    assert cluster
    project = Project(tmp_path, latency=2000)
    login = project.start()
    eventually(lambda: (chain := project.chain()) and chain.job_id, "collector")
    os.killpg(login.pid, signal.SIGKILL)
    login.communicate()
    workspace = open_workspace(project.bundle())

    def working() -> int | None:
        statuses = read_statuses(workspace.bundle, 0)
        running = [s for s in statuses if s.state == "running" and s.records >= 1]
        return running[-1].pid if running else None

    os.kill(eventually(working, "records of shard 0"), signal.SIGKILL)
    project.wait()

    chain = project.chain()
    assert chain is not None
    assert chain.links == 2
    last = read_records(workspace.submissions)[-1]
    assert last.shards == (0,)
    assert_done(project)


def test_a_login_killed_before_the_collector_was_submitted_is_continued_by_the_same_command(
    cluster: object, tmp_path: Path
) -> None:
    assert cluster
    project = Project(tmp_path, latency=300)
    login = project.start()
    eventually(
        lambda: any(
            '"submitted"' in path.read_text()
            for path in project.found("dispatch/submissions/0001.json")
        ),
        "submission",
    )
    os.killpg(login.pid, signal.SIGKILL)
    login.communicate()

    done = themis(tmp_path, *project.command)

    assert done.returncode == 0, done.stderr
    project.wait()
    assert_done(project)


def test_what_cannot_be_helped_is_given_up_and_the_chain_ends(
    cluster: object, tmp_path: Path
) -> None:
    assert cluster
    project = Project(tmp_path, latency=0)
    profile = tmp_path / "cluster.toml"
    broken = 'setup = ["exit 3"]\n' + profile.read_text()
    profile.write_text(broken)

    assert themis(tmp_path, *project.command).returncode == 0
    log = project.wait(400)

    assert "given up: nothing that is left can be helped" in log
    records = read_records(open_workspace(project.bundle()).submissions)
    assert len([record for record in records if 0 in record.shards]) == 3
    profile.write_text(broken.replace("exit 3", "true"))
    assert themis(tmp_path, *project.command).returncode == 0
    project.wait()
    assert_done(project)


def test_scores_are_dispatched_too_when_they_have_a_profile(
    cluster: object, tmp_path: Path
) -> None:
    assert cluster
    project = Project(tmp_path, latency=50)
    (tmp_path / "scores.toml").write_text(PROFILE.partition("[engine]")[0])
    project.command += ["--score-profile", "scores.toml"]

    assert themis(tmp_path, *project.command).returncode == 0
    project.wait()

    (scores,) = project.found("bundles/*-evaluation-00")
    assert verify(Bundle.open(scores), require_results=True).complete
    assert len(read_records(open_workspace(scores).submissions)) >= 1
    assert_done(project)
