"""The development cluster: it starts anywhere, twice, and ends without a trace."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster"
SMALL = ("--no-accounting", "--max-array-size", "5")


def call(command: str, state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DEVCLUSTER / command), *options, "--state", str(state)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def state(require: Callable[[object, str], None]) -> Iterator[Path]:
    place = Path(f"/tmp/themis-test-{os.getpid()}-own")  # noqa: S108 - sockets want it short
    done = call("up", place, *SMALL)
    lacking = "missing Debian packages" in done.stderr or "needs root" in done.stderr
    require(not lacking, f"no Slurm to test with: {done.stderr.strip()}")
    try:
        assert done.returncode == 0, done.stderr
        yield place
    finally:
        call("down", place, "--remove")


def slurm(state: Path, *command: str) -> str:
    environment = {**os.environ, "SLURM_CONF": str(state / "slurm.conf")}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def processes_of(state: Path) -> set[int]:
    found = set()
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(state) in (proc / "environ").read_text(errors="replace") or str(state) in (
                proc / "cmdline"
            ).read_text(errors="replace"):
                found.add(int(proc.name))
    return found


def test_a_second_up_changes_nothing_and_down_leaves_nothing(state: Path) -> None:
    before = processes_of(state)

    again = call("up", state, *SMALL)

    assert again.stdout == f"export SLURM_CONF={state}/slurm.conf\n"
    assert processes_of(state) == before
    assert slurm(state, "sinfo", "-h", "-o", "%D %T") == "4 idle\n"
    slurm(state, "sbatch", "-o", "/dev/null", "--wrap", "sleep 100")

    assert call("down", state, "--remove").returncode == 0
    assert processes_of(state) == set()
    assert not state.exists()


def test_another_cluster_beside_it_takes_other_ports(state: Path) -> None:
    beside = state.with_name(f"{state.name}2")
    try:
        assert call("up", beside, *SMALL).returncode == 0
        assert "4 idle" in slurm(state, "sinfo", "-h", "-o", "%D %T")
        assert "4 idle" in slurm(beside, "sinfo", "-h", "-o", "%D %T")
    finally:
        call("down", beside, "--remove")


def test_a_port_that_is_taken_is_not_used(state: Path) -> None:
    port = port_of(state)
    call("down", state, "--remove")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", port))
        taken.listen()

        assert call("up", state, *SMALL).returncode == 0
        assert port_of(state) != port
        assert slurm(state, "sinfo", "-h", "-o", "%D %T") == "4 idle\n"


def port_of(state: Path) -> int:
    (line,) = [
        line
        for line in (state / "slurm.conf").read_text().splitlines()
        if line.startswith("SlurmctldPort=")
    ]
    return int(line.partition("=")[2])


def test_other_options_for_a_running_cluster_are_refused(state: Path) -> None:
    refused = call("up", state)

    assert refused.returncode == 1
    assert "take it down first" in refused.stderr


def test_a_state_directory_that_no_socket_could_live_in_is_refused(tmp_path: Path) -> None:
    refused = call("up", tmp_path / ("long" * 20), *SMALL)

    assert refused.returncode == 1
    assert "too long for a socket" in refused.stderr or "needs root" in refused.stderr


def test_a_job_sees_the_gpus_it_asked_for(state: Path) -> None:
    seen = slurm(state, "srun", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")

    assert seen == "0,1\n"
