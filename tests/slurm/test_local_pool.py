"""The local pool, and running until done with it: real processes, no Slurm."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from themis.errors import EnvironmentNotReadyError
from themis_bundles import Bundle, incomplete_shards, verify
from themis_bundles.results import read_statuses
from themis_slurm.evidence import Cause
from themis_slurm.fleet import fleet_for
from themis_slurm.local_pool import assign_gpus
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import read_records
from themis_slurm.status import ClusterStatus, StatusReader
from themis_slurm.submit import preview, submit
from themis_slurm.wait import Patience, run_until_done
from themis_slurm.workspace import Workspace

QUICK = Patience(poll_s=0.2, longest_poll_s=0.5, settle_s=1.0)


def local(**changes: object) -> ClusterProfile:
    return ClusterProfile.model_validate({"kind": "local", "slots": 2, **changes})


def finish(workspace: Workspace, profile: ClusterProfile) -> ClusterStatus:
    return run_until_done(
        workspace.bundle.path, profile, on_status=lambda _status: None, patience=QUICK
    )


def test_a_bundle_becomes_complete(workspace: Workspace) -> None:
    seen: list[ClusterStatus] = []

    status = run_until_done(workspace.bundle.path, local(), on_status=seen.append, patience=QUICK)

    assert status.complete
    assert seen[-1] is status
    assert max(len(s.with_cause(Cause.RUNNING)) for s in seen) <= 2
    census = verify(Bundle.open(workspace.bundle.path), require_results=True)
    assert census.complete
    assert census.counts["duplicate"] == 0


def test_a_complete_bundle_starts_nothing(workspace: Workspace) -> None:
    finish(workspace, local())
    before = len(read_records(workspace.submissions))

    assert finish(workspace, local()).complete
    assert len(read_records(workspace.submissions)) == before


def test_a_shard_that_cannot_be_helped_is_given_up(
    write_generation_bundle: Callable[..., Path],
) -> None:
    bundle = write_generation_bundle(["a", "b"], model_id="none", shard_items=1)

    status = run_until_done(bundle, local(), on_status=lambda _s: None, patience=QUICK)

    assert not status.complete
    assert [row.cause for row in status.rows] == [Cause.NOT_READY] * 2
    assert [row.tries_without_progress for row in status.rows] == [3, 3]
    assert "demo engine has no model 'none'" in status.rows[0].detail


def test_a_killed_worker_is_done_again(workspace: Workspace) -> None:
    profile = local(engine={"latency_ms": 300}, flush_records=1)
    killed: list[int] = []

    def kill_one(status: ClusterStatus) -> None:
        for row in status.with_cause(Cause.RUNNING):
            for attempt in read_statuses(workspace.bundle, row.shard):
                if not killed:
                    killed.append(row.shard)
                    os.kill(attempt.pid, signal.SIGKILL)

    status = run_until_done(workspace.bundle.path, profile, on_status=kill_one, patience=QUICK)

    assert status.complete
    assert len(killed) == 1
    assert len(read_statuses(workspace.bundle, killed[0])) == 2
    assert verify(Bundle.open(workspace.bundle.path)).counts["duplicate"] == 0


def test_ctrl_c_stops_in_order_and_the_same_call_continues(workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from themis_slurm.profile import ClusterProfile; from themis_slurm.wait import *;"
        "run_until_done(Path(sys.argv[1]), ClusterProfile(kind='local', slots=2, flush_records=1,"
        "engine={'latency_ms': 400}), on_status=lambda s: None)"
    )
    path = str(workspace.bundle.path)
    process = subprocess.Popen([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(workspace.bundle.results_dir.glob("*/*.zst")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)

    process.send_signal(signal.SIGINT)

    assert process.wait(60) != 0
    attempts = [s for shard in range(6) for s in read_statuses(workspace.bundle, shard)]
    assert attempts
    assert {attempt.state for attempt in attempts} == {"ended"}
    assert incomplete_shards(workspace.bundle)
    assert finish(workspace, local()).complete
    assert verify(Bundle.open(workspace.bundle.path)).counts["duplicate"] == 0


def test_another_process_pool_is_left_to_its_work(workspace: Workspace) -> None:
    profile = local(engine={"latency_ms": 300})
    with fleet_for(workspace, profile) as first, fleet_for(workspace, profile) as second:
        submit(workspace, profile, first)
        records = read_records(workspace.submissions)
        parent = records[0].submitter.model_copy(update={"pid": 1, "started": _start_of_init()})
        elsewhere = [record.model_copy(update={"submitter": parent}) for record in records]

        assert set(second.alive(elsewhere)) == set(range(6))
        gone = parent.model_copy(update={"started": parent.started + 1})
        records = tuple(r.model_copy(update={"submitter": gone}) for r in elsewhere)
        assert not second.alive(records)


def _start_of_init() -> int:
    return int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])


def test_cancelled_shards_end_and_say_so(workspace: Workspace) -> None:
    profile = local(engine={"latency_ms": 500}, flush_records=1)
    with fleet_for(workspace, profile) as fleet:
        submit(workspace, profile, fleet)
        fleet.cancel(read_records(workspace.submissions), range(6))
        status = StatusReader(workspace, fleet).read()

    assert {row.cause for row in status.rows} <= {Cause.CANCELLED, Cause.COMPLETE}


def test_a_preview_shows_commands_and_writes_nothing(workspace: Workspace) -> None:
    ((record, script),) = preview(workspace, local())

    assert record.shards == (0, 1, 2, 3, 4, 5)
    assert script.count("themis_slurm.task") == 6
    assert not workspace.dispatch.exists()


class TestAssignGpus:
    """No GPU belongs to two slots."""

    def test_named_devices_are_dealt_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,8")

        assert assign_gpus(2, 2) == (("4", "5"), ("6", "7"))

    def test_without_names_they_are_numbered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

        assert assign_gpus(2, 1) == (("0",), ("1",))

    def test_slots_without_gpus_leave_the_variable_alone(self) -> None:
        assert assign_gpus(3, 0) == (None, None, None)

    def test_too_few_devices_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

        with pytest.raises(EnvironmentNotReadyError, match="need 2 GPUs"):
            assign_gpus(2, 1)
