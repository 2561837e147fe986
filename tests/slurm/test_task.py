"""What an array element runs: it ends with the code that says how it ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis_bundles import Bundle, shard_state, verify
from themis_slurm import task
from themis_slurm.evidence import Cause
from themis_slurm.failures import read_failures
from themis_slurm.options import write_options
from themis_slurm.profile import ClusterProfile
from themis_slurm.task import run_task
from themis_slurm.workspace import Workspace


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A task sets up the environment of its whole process; here, that of a test alone."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def options(workspace: Workspace, **changes: Any) -> str:
    return str(write_options(workspace, ClusterProfile(kind="local", **changes)))


def run(workspace: Workspace, shard: int, told: str) -> int:
    command = [sys.executable, "-m", "themis_slurm.task", str(workspace.bundle.path), str(shard)]
    return subprocess.run([*command, "--options", told], check=False, timeout=60).returncode


def test_a_shard_that_becomes_complete_ends_with_0(workspace: Workspace) -> None:
    told = options(workspace)

    assert run(workspace, 1, told) == 0
    assert shard_state(workspace.bundle, 1).done
    assert run(workspace, 1, told) == 0  # and at once, the second time


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_ends_it_with_75_and_everything_flushed(
    workspace: Workspace, number: signal.Signals
) -> None:
    # With a margin of 10 s, what is in flight has 5 s to finish: two or three of four answers.
    told = options(workspace, engine={"latency_ms": 2000}, signal_margin_s=10)
    command = [sys.executable, "-m", "themis_slurm.task", str(workspace.bundle.path), "0"]
    process = subprocess.Popen([*command, "--options", told])
    folder = workspace.bundle.results_dir / "00000"
    deadline = time.monotonic() + 30
    while not list(folder.glob("*.zst")):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process.send_signal(number)

    assert process.wait(60) == 75
    assert verify(Bundle.open(workspace.bundle.path)).refused is False


def test_a_deadline_that_has_passed_starts_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))

    assert run(workspace, 0, options(workspace, signal_margin_s=120)) == 75
    assert not list(workspace.bundle.results_dir.glob("00000/*.zst"))


def test_a_bundle_that_is_damaged_ends_it_with_65(workspace: Workspace) -> None:
    told = options(workspace)
    items = workspace.bundle.path / "data" / "items" / "00000.jsonl.zst"
    items.write_bytes(b"x" + items.read_bytes()[1:])

    assert run(workspace, 0, told) == 65
    (failure,) = read_failures(workspace.failures)
    assert (failure.cause, failure.shard) == (Cause.BAD_INPUT, 0)


def test_missing_options_end_it_with_65(workspace: Workspace, tmp_path: Path) -> None:
    assert run(workspace, 0, str(tmp_path / "none.json")) == 65


def test_a_model_that_is_not_there_ends_it_with_69(
    write_generation_bundle: Callable[..., Path], workspace: Workspace
) -> None:
    bundle = write_generation_bundle(["a"], provider="hf", model_id="org/none", name="other")
    told = options(workspace)

    done = subprocess.run(
        [sys.executable, "-m", "themis_slurm.task", str(bundle), "0", "--options", told],
        check=False,
        timeout=60,
    )

    assert done.returncode == 69
    (failure,) = read_failures(workspace.failures)
    assert failure.cause is Cause.NOT_READY
    assert "org/none" in failure.message


def test_a_node_without_its_gpus_ends_it_with_69(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURMD_NODENAME", "n9")

    assert run(workspace, 0, options(workspace, gpus_per_slot=2)) == 69
    (failure,) = read_failures(workspace.failures)
    assert (failure.cause, failure.node) == (Cause.BAD_NODE, "n9")


def test_a_bug_ends_it_with_70_and_its_traceback(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(task, "_work", broken)
    monkeypatch.setattr(task, "_EarlyStop", lambda: None)

    assert run_task(str(workspace.bundle.path), 0, options(workspace)) == 70
    (failure,) = read_failures(workspace.failures)
    assert failure.message.startswith("Traceback")
    assert "ZeroDivisionError: a bug" in failure.message


def test_the_array_entry_never_returns(workspace: Workspace) -> None:
    told = options(workspace)
    code = (
        "import sys; from themis_slurm.task import run_array_task;"
        f"run_array_task({str(workspace.bundle.path)!r}, 2, {told!r}); sys.exit(3)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
    assert shard_state(workspace.bundle, 2).done


def test_a_signal_before_the_worker_listens_is_not_lost(workspace: Workspace) -> None:
    # The signal comes while the worker is being imported, and once more, after the early look.
    code = (
        "import os, signal, sys, time\n"
        "from themis_slurm import task\n"
        "import themis.generation.worker as worker\n"
        "def slow(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    heard = []\n"
        "    signal.signal(signal.SIGTERM, lambda *_: heard.append(1))\n"
        "    time.sleep(1.5)\n"
        "    os._exit(42 if heard else 43)\n"
        "worker.work_shard = slow\n"
        f"task.run_task({str(workspace.bundle.path)!r}, 0, {options(workspace)!r})\n"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 42


def test_options_that_say_the_same_are_one_file(workspace: Workspace) -> None:
    assert options(workspace) == options(workspace)
    assert options(workspace) != options(workspace, engine={"latency_ms": 1})
    assert json.loads(Path(options(workspace)).read_text())["margin_s"] == 180


def test_importing_the_entry_is_light() -> None:
    code = (
        "import sys, themis_slurm.task, themis_slurm.submit;"
        "heavy = ('torch', 'vllm', 'transformers', 'submitit', 'scipy');"
        "print([module for module in heavy if module in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_task_stops_when_the_pool_that_started_it_is_gone(workspace: Workspace) -> None:
    told = options(workspace, engine={"latency_ms": 2000}, signal_margin_s=10)
    command = [sys.executable, "-m", "themis_slurm.task", str(workspace.bundle.path), "0"]
    pool = (
        "import os, subprocess, sys, time\n"
        f"command = {[*command, '--options', told, '--parent']!r}\n"
        "p = subprocess.Popen([*command, str(os.getpid())])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", pool], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    folder = workspace.bundle.results_dir / "00000"
    while not list(folder.glob("*.zst")):
        time.sleep(0.05)

    parent.kill()
    parent.communicate()

    deadline = time.monotonic() + 30
    while '"outcome":"partial"' not in "".join(p.read_text() for p in folder.glob("*.json")):
        assert time.monotonic() < deadline, f"task {child} goes on"
        time.sleep(0.1)
    assert not _runs(child, deadline)


def _runs(pid: int, deadline: float) -> bool:
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        os.sched_yield()
        time.sleep(0.05)
    return True
