"""A real Slurm for the tests of this folder."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster"

Require = Callable[[object, str], None]


@dataclass(frozen=True)
class DevCluster:
    """A running development cluster."""

    state: Path
    options: tuple[str, ...]

    @property
    def conf(self) -> str:
        return str(self.state / "slurm.conf")

    def node(self, action: str, name: str) -> None:
        command = [str(DEVCLUSTER / "node"), action, name, "--state", str(self.state)]
        subprocess.run(command, check=True, timeout=60)

    def stop_controller(self) -> None:
        """End slurmctld and nothing else, as when its machine is rebooted."""
        os.kill(int((self.state / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)

    def up(self) -> None:
        """Start whatever does not run."""
        command = [str(DEVCLUSTER / "up"), "--state", str(self.state), *self.options]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def _up(require: Require, *options: str, name: str) -> DevCluster:
    # pytest's own directories are too long for the address of a socket.
    state = Path(f"/tmp/themis-test-{os.getpid()}-{name}")  # noqa: S108
    command = [str(DEVCLUSTER / "up"), "--state", str(state), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lacking = "missing Debian packages" in done.stderr or "needs root" in done.stderr
    require(not lacking, f"no Slurm to test with: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return DevCluster(state, options)


def _down(cluster: DevCluster) -> None:
    command = [str(DEVCLUSTER / "down"), "--state", str(cluster.state)]
    subprocess.run(command, check=True, timeout=120)
    shutil.rmtree(cluster.state)


@pytest.fixture
def start_cluster(require: Require) -> Iterator[Callable[..., DevCluster]]:
    """Start clusters with options of the test's own; they end with it."""
    started: list[DevCluster] = []

    def start(*options: str) -> DevCluster:
        started.append(_up(require, *options, name="own"))
        return started[-1]

    yield start
    for cluster in started:
        _down(cluster)


@pytest.fixture(scope="session")
def full_cluster(require: Require) -> Iterator[DevCluster]:
    # Arrays of at most nine elements, so that twelve shards need two.
    cluster = _up(require, "--max-array-size", "9", name="full")
    yield cluster
    _down(cluster)


@pytest.fixture(scope="session")
def bare_cluster(require: Require) -> Iterator[DevCluster]:
    cluster = _up(require, "--no-accounting", "--no-requeue", "--max-array-size", "9", name="bare")
    yield cluster
    _down(cluster)


@pytest.fixture
def cluster(full_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevCluster]:
    """A cluster with accounting, for one test; whatever the test left in it is cancelled."""
    monkeypatch.setenv("SLURM_CONF", full_cluster.conf)
    yield full_cluster
    _clear()


@pytest.fixture
def unaccounted(bare_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevCluster]:
    """A cluster without accounting that forbids requeues."""
    monkeypatch.setenv("SLURM_CONF", bare_cluster.conf)
    yield bare_cluster
    _clear()


def _clear() -> None:
    subprocess.run(["scancel", "--user=root"], check=True, timeout=60)
    end = time.monotonic() + 60
    while subprocess.run(("squeue", "-h"), capture_output=True, check=True, timeout=60).stdout:
        assert time.monotonic() < end, "the queue does not become empty"
        time.sleep(0.2)
