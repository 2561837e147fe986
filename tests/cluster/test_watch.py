"""Watching a bundle, following a log and retrying shards, as a person does it at a terminal."""

import itertools
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.test_dispatch import (
    assert_every_item_once,
    eventually,
    make_bundle,
    pid_of,
    shards_that_are,
    slurm,
)
from themis_slurm.evidence import Cause
from themis_slurm.workspace import Workspace, open_workspace

pytestmark = pytest.mark.cluster

PROFILE = 'partition = "main"\naccount = "dev"\ngpus = 1\nmem_gb = 0.9\nsignal_margin_s = 60\n'
THEMIS = (sys.executable, "-c", "from themis.cli import main; main()")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command at a terminal of 100 columns; what it shows is kept as text."""

    def __init__(self, *command: str) -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            os.environ.update(COLUMNS="100", LINES="40", TERM="xterm")
            os.execv(command[0], command)  # noqa: S606 - a terminal for a command, not a shell
        self._pid = pid
        self.shown = ""
        self.code: int | None = None

    def until(self, words: str, seconds: float = 60) -> None:
        """Read until some words were shown."""
        end = time.monotonic() + seconds
        while words not in self.shown:
            assert time.monotonic() < end, f"no {words!r} in: {self.shown}"
            self._read(0.5)

    def press_ctrl_c(self) -> None:
        os.write(self._fd, b"\x03")

    def wait(self, seconds: float = 90) -> int:
        """Read to the end, and give the exit code."""
        end = time.monotonic() + seconds
        while self._read(0.5):
            assert time.monotonic() < end, self.shown
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # Linux says EIO when the other end is closed
            return False
        self.shown += SEQUENCE.sub("", data.decode("utf-8", "replace"))
        return bool(data)


@pytest.fixture
def profile(tmp_path: Path) -> Callable[[int], Path]:
    """Write a profile whose engine takes so long for an answer."""

    def write(latency_ms: int) -> Path:
        path = tmp_path / "cluster.toml"
        engine = f"flush_records = 2\nflush_seconds = 0.5\n[engine]\nlatency_ms = {latency_ms}\n"
        path.write_text(PROFILE + engine)
        return path

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(make_bundle(tmp_path / "bundle", shards=3, items=20))


def themis(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = (*THEMIS, "slurm", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_watching_shows_everything_and_ctrl_c_leaves_the_jobs_running(
    cluster: object, workspace: Workspace, profile: Callable[[int], Path]
) -> None:
    path = str(workspace.bundle.path)
    assert themis("submit", path, "--profile", profile(700)).returncode == 0
    pid_of(workspace, 0)
    eventually(lambda: len(shards_that_are(workspace, Cause.RUNNING)) == 3, "three that run")

    terminal = Terminal(*THEMIS, "slurm", "watch", path, "--every", "2")
    for words in ("items/s", "tokens/s", "done in about", "GPU-hours", "slowest shard", "of which"):
        terminal.until(words)
    terminal.press_ctrl_c()

    assert terminal.wait() == 1
    assert "The jobs go on" in terminal.shown
    assert len(slurm("squeue", "-h", "-r").splitlines()) == 3

    again = Terminal(*THEMIS, "slurm", "watch", path, "--every", "2")
    assert again.wait() == 0
    assert "60/60 items, 100.0%" in again.shown
    assert_every_item_once(workspace.bundle.path)


def test_a_refresh_asks_the_scheduler_one_question_and_the_end_is_explained(
    cluster: object,
    workspace: Workspace,
    profile: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = workspace.bundle.path
    themis("submit", path, "--profile", profile(400))
    os.kill(pid_of(workspace, 1), 9)
    # Accounting is late by seconds at times, and watching need not wait for it.
    eventually(lambda: shards_that_are(workspace, Cause.CRASHED) == [1], "crash of shard 1")
    calls = tmp_path / "calls"
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("squeue", "sacct", "scontrol"):
        (shims / name).write_text(
            f'#!/bin/sh\necho {name} $(date +%s%N) >> {calls}\nexec {shutil.which(name)} "$@"\n'
        )
        (shims / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")

    done = themis("watch", path, "--every", "2")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert len(lines) == len(set(lines))
    assert lines[-1].startswith("shard 1: crashed: ended by signal 9")
    asked = [line.split() for line in calls.read_text().splitlines()]
    assert Counter(name for name, _ in asked).keys() == {"squeue", "sacct"}
    moments = [int(when) for _, when in asked]
    # Two seconds lie between two looks, so two questions of one look would lie closer.
    assert min(b - a for a, b in itertools.pairwise(moments)) > 1.5e9


def test_what_failed_is_shown_in_its_log_and_tried_again_by_name(
    cluster: object, workspace: Workspace, profile: Callable[[int], Path]
) -> None:
    path = workspace.bundle.path
    slow = profile(400)
    themis("submit", path, "--profile", slow)
    os.kill(pid_of(workspace, 1), 9)
    themis("cancel", path, "--shard", "2")
    eventually(lambda: shards_that_are(workspace, Cause.CRASHED) == [1], "crash of shard 1")
    eventually(lambda: shards_that_are(workspace, Cause.CANCELLED) == [2], "end of shard 2")

    log = themis("logs", path)
    alive = themis("retry", path, "--profile", slow, "--shard", "0")
    made = themis("retry", path, "--profile", slow, "--failed", "--json")

    assert "shard 1: crashed: ended by signal 9" in log.stderr
    assert "preflight: disk:" in log.stdout
    assert alive.returncode != 0
    assert "shard 0 is" in alive.stderr
    assert json.loads(made.stdout)["shards"] == [1, 2]
    assert themis("watch", path, "--every", "2").returncode == 0
    assert_every_item_once(path)


def test_a_log_is_followed_until_its_shard_has_ended(
    cluster: object, workspace: Workspace, profile: Callable[[int], Path]
) -> None:
    path = workspace.bundle.path
    themis("submit", path, "--profile", profile(300))
    pid_of(workspace, 2)

    followed = themis("logs", path, "--shard", "2", "--follow")

    assert followed.returncode == 0
    assert "shard 2: complete" in followed.stdout
    assert 2 in shards_that_are(workspace, Cause.COMPLETE)


def test_a_retry_says_what_it_needs(cluster: object, workspace: Workspace) -> None:
    path = workspace.bundle.path

    neither = themis("retry", path, "--profile", "none.toml")

    assert neither.returncode == 2
    assert "give either --shard, once or more, or --failed" in neither.stderr
