"""Dispatch on a real Slurm: what it promises, while jobs are cancelled and nodes crash."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis_bundles import Bundle, BundleInfo, BundleWriter, GroupSpec, shard_state, verify
from themis_bundles.results import read_statuses
from themis_slurm import scheduler
from themis_slurm.doctor import examine, examine_node
from themis_slurm.errors import SubmissionRefusedError
from themis_slurm.evidence import Cause
from themis_slurm.fleet import fleet_for
from themis_slurm.profile import ClusterProfile, load_profile
from themis_slurm.records import read_records, update_record
from themis_slurm.status import ClusterStatus, StatusReader
from themis_slurm.submit import Submitted, cancel, logs_of, preview, submit
from themis_slurm.wait import Patience, run_until_done
from themis_slurm.workspace import Workspace, open_workspace

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
QUICK = Patience(poll_s=0.5, longest_poll_s=1.0, scheduler_s=1.0, settle_s=3.0)


class Nodes(Protocol):
    """What a test may do to the cluster's machines."""

    def node(self, action: str, name: str) -> None: ...

    def stop_controller(self) -> None: ...

    def up(self) -> None: ...


def slurm(*command: str) -> str:
    """Run a Slurm command and give its output."""
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def eventually(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until something is so; Slurm says everything a little late."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.2)


def make_bundle(path: Path, *, shards: int, items: int, groups: int = 1) -> Path:
    """Write a bundle of questions to the demo engine."""
    info = BundleInfo(
        stage="generation",
        run_id="run-1",
        created_for={"project": "tests", "benchmark": "cluster"},
        date="2026-01-01",
    )
    with BundleWriter(path, info, shard_items=items) as writer:
        refs = {
            "params": writer.component("params", {"max_tokens": 32, "temperature": 0.0}),
            "prompt": writer.component("prompt", {"id": "plain"}),
            "slice": writer.component("slice", {"slice_id": "sums"}),
        }
        for group in range(groups):
            model = writer.component(
                "model", {"provider": "demo", "model_id": "echo", "extras": {"group": group}}
            )
            writer.start_group(GroupSpec(model, "demo", "echo", {"group": group}))
            for number in range(shards * items // groups):
                question = {"role": "user", "content": f"{number} + {group} = ?"}
                item = {
                    "id": f"{group * 10**6 + number:032x}",
                    "sample": 0,
                    "refs": {**refs, "model": model},
                    "request": {"messages": [question], "seed": number},
                }
                writer.add(item, prompt_tokens=5, max_new_tokens=32)
    return path


def profile(latency_ms: int, **changes: Any) -> ClusterProfile:
    """The shipped profile of the development cluster, with a slow demo engine."""
    shipped = load_profile(ROOT / "slurm" / "profiles" / "devcluster.toml")
    fields = shipped.model_dump(exclude_unset=True)
    quick = {"engine": {"latency_ms": latency_ms}, "flush_seconds": 0.5, "flush_records": 4}
    return ClusterProfile.model_validate(fields | quick | changes)


def assert_every_item_once(bundle: Path) -> None:
    """Prove the whole bundle, and that no item was answered twice."""
    census = verify(Bundle.open(bundle), require_results=True)
    assert census.problems == ()
    assert census.complete
    assert census.counts["duplicate"] == census.counts["conflict"] == 0


def submit_all(workspace: Workspace, how: ClusterProfile) -> Submitted:
    with fleet_for(workspace, how) as fleet:
        return submit(workspace, how, fleet)


def status_of(workspace: Workspace) -> ClusterStatus:
    with fleet_for(workspace) as fleet:
        return StatusReader(workspace, fleet).read()


def shards_that_are(workspace: Workspace, *causes: Cause) -> list[int]:
    return [row.shard for row in status_of(workspace).with_cause(*causes)]


def finish(workspace: Workspace, how: ClusterProfile) -> ClusterStatus:
    return run_until_done(
        workspace.bundle.path, how, on_status=lambda _status: None, patience=QUICK
    )


def pid_of(workspace: Workspace, shard: int) -> int:
    """Wait until a shard has flushed something, and give its worker's process id."""
    file_sizes = workspace.bundle.results_dir / f"{shard:05d}"
    eventually(
        lambda: any(path.stat().st_size > 1500 for path in file_sizes.glob("*.zst")),
        f"records of shard {shard}",
    )
    return read_statuses(workspace.bundle, shard)[-1].pid


@pytest.fixture
def twelve(tmp_path: Path) -> Workspace:
    return open_workspace(make_bundle(tmp_path / "bundle", shards=12, items=10))


@pytest.fixture(params=["submitit", "sbatch"])
def submission(request: pytest.FixtureRequest) -> str:
    """Both ways to submit, which promise the same."""
    return str(request.param)


def test_twelve_shards_on_four_nodes_become_a_complete_census(
    cluster: object, twelve: Workspace, submission: str
) -> None:
    how = profile(200, submission=submission)
    shown = [script for _, script in preview(twelve, how)]

    status = finish(twelve, how)

    assert status.complete
    assert_every_item_once(twelve.bundle.path)
    records = read_records(twelve.submissions)
    assert [len(record.shards) for record in records] == [9, 3]  # MaxArraySize is 9
    jobs = ",".join(record.job_id or "" for record in records)
    eventually(
        lambda: (
            set(slurm("sacct", "-n", "-X", "-P", "-j", jobs, "-o", "NodeList").split())
            == {"c1", "c2", "c3", "c4"}
        ),
        "rows of all four nodes",
    )
    for record, script in zip(records, shown, strict=True):
        (written,) = twelve.jobs(record.number).rglob("*submission.sh")
        assert _without_names(written.read_text()) == _without_names(script)
    assert len(logs_of(twelve, 11)) == 1


def _without_names(script: str) -> list[str]:
    return [line for line in script.splitlines() if "--job-name" not in line]


def test_each_group_gets_arrays_of_its_own(cluster: object, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", shards=4, items=3, groups=2)
    workspace = open_workspace(bundle)

    status = finish(workspace, profile(0))

    assert status.complete
    assert [record.group for record in read_records(workspace.submissions)] == [0, 1]


def test_what_was_cancelled_is_submitted_again_and_only_that(
    cluster: object, twelve: Workspace, submission: str
) -> None:
    how = profile(1000, array_parallelism=2, submission=submission)
    first = submit_all(twelve, how)
    eventually(lambda: len(shards_that_are(twelve, Cause.RUNNING)) >= 2, "two running shards")
    running = shards_that_are(twelve, Cause.RUNNING)
    waiting = shards_that_are(twelve, Cause.PENDING)
    # Ours, and somebody else's scancel of an element that waits and of one that runs.
    stopped = {running[0], waiting[0]}
    assert set(cancel(twelve, shards=tuple(stopped))) == stopped
    others = {running[1], waiting[1]}
    for shard in others:
        record = next(record for record in first.records if shard in record.shards)
        slurm("scancel", str(record.element(shard)))
    eventually(lambda: not (stopped | others) & _alive(twelve), "end of the four")

    again = submit_all(twelve, how)

    assert {shard for record in again.records for shard in record.shards} >= stopped | others
    assert not {s for r in again.records for s in r.shards} & set(again.alive)
    assert finish(twelve, profile(20, submission=submission)).complete
    assert_every_item_once(twelve.bundle.path)


def _alive(workspace: Workspace) -> set[int]:
    return set(shards_that_are(workspace, Cause.RUNNING, Cause.PENDING))


def test_a_killed_worker_loses_nothing_that_was_flushed(cluster: object, tmp_path: Path) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=2, items=30))
    how = profile(200)
    submit_all(workspace, how)
    os.kill(pid_of(workspace, 1), 9)
    eventually(lambda: shards_that_are(workspace, Cause.CRASHED) == [1], "crash of shard 1")
    kept = status_of(workspace).rows[1].done

    status = finish(workspace, profile(20))

    assert status.complete
    assert_every_item_once(workspace.bundle.path)
    attempts = read_statuses(workspace.bundle, 1)
    assert len(attempts) == 2
    assert max(attempt.records for attempt in attempts) <= 30 - max(kept, 4)


def test_slurms_own_requeue_is_left_alone(cluster: object, tmp_path: Path, submission: str) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=2, items=40))
    how = profile(400, submission=submission)
    (record,) = submit_all(workspace, how).records
    pid_of(workspace, 0)
    slurm("scontrol", "requeue", str(record.element(0)))

    status = finish(workspace, how)

    assert status.complete
    assert status.submissions == 1
    assert_every_item_once(workspace.bundle.path)
    assert any(".r1." in attempt.attempt for attempt in read_statuses(workspace.bundle, 0))


def test_a_crashed_node_costs_its_attempts_only(cluster: Nodes, twelve: Workspace) -> None:
    how = profile(400, requeue=False)
    submit_all(twelve, how)
    eventually(lambda: _on_node(twelve, "c3"), "a shard on c3")
    lost = _on_node(twelve, "c3")

    cluster.node("kill", "c3")
    try:
        eventually(lambda: not lost & _alive(twelve), "end of what ran on c3", 90)
        eventually(
            lambda: (
                {row.cause for row in status_of(twelve).rows if row.shard in lost}
                in ({Cause.NODE_FAILURE}, {Cause.NODE_FAILURE, Cause.COMPLETE})
            ),
            "node failure in the accounting",
        )
        status = finish(twelve, profile(20))
    finally:
        cluster.node("start", "c3")

    assert status.complete
    assert_every_item_once(twelve.bundle.path)


def _on_node(workspace: Workspace, node: str) -> set[int]:
    rows = status_of(workspace).with_cause(Cause.RUNNING)
    return {row.shard for row in rows if row.node == node}


def test_a_preempted_shard_keeps_what_it_finished(
    cluster: object, tmp_path: Path, submission: str
) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=1, items=60))
    pinned = {"nodelist": "c1"}
    pinned_low = {"partition": "low", "cpus": 4, "sbatch": pinned, "submission": submission}
    how = profile(400, signal_margin_s=20, **pinned_low)
    submit_all(workspace, how)
    pid_of(workspace, 0)

    slurm("sbatch", "-p", "high", "-w", "c1", "-c", "4", "-o", "/dev/null", "--wrap", "sleep 1")
    eventually(lambda: _preempted(workspace), "preemption")
    status = finish(workspace, profile(20, sbatch=pinned, cpus=4))

    assert status.complete
    assert_every_item_once(workspace.bundle.path)
    assert len(read_statuses(workspace.bundle, 0)) == 2


def _preempted(workspace: Workspace) -> bool:
    """Whether the shard waits again, was ended, or stopped by itself in the grace period."""
    return Cause.RUNNING not in {row.cause for row in status_of(workspace).rows}


def test_the_time_limit_is_met_by_stopping_before_it_or_by_being_stopped(
    cluster: object, tmp_path: Path
) -> None:
    # One shard stops by itself, 25 s after a deadline that is 50 s before the limit; the
    # other one sits in a single answer for longer than the limit.
    stops = open_workspace(make_bundle(tmp_path / "stops", shards=1, items=60))
    sits = open_workspace(make_bundle(tmp_path / "sits", shards=1, items=1))
    minute = {"walltime": 1, "signal_margin_s": 50}
    submit_all(stops, profile(1000, **minute))
    submit_all(sits, profile(300_000, **minute))
    eventually(lambda: not _alive(stops), "an end of its own", 90)
    stopped = status_of(stops).rows[0]

    assert stopped.cause is Cause.STOPPED
    assert 10 < stopped.done < 60
    assert finish(stops, profile(100, **minute)).complete
    assert_every_item_once(stops.bundle.path)
    eventually(lambda: shards_that_are(sits, Cause.TIME_LIMIT) == [0], "time limit", 150)


def test_two_submitters_at_once_submit_each_shard_once(cluster: object, twelve: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from themis_slurm.fleet import fleet_for; from themis_slurm.profile import load_profile;"
        "from themis_slurm.submit import submit;"
        "from themis_slurm.workspace import open_workspace;"
        "w = open_workspace(Path(sys.argv[1])); p = load_profile(Path(sys.argv[2]));\n"
        "with fleet_for(w, p) as f: print(submit(w, p, f).shards)"
    )
    path = twelve.bundle.path.parent / "slow.toml"
    path.write_text('account = "dev"\nmem_gb = 0.9\n[engine]\nlatency_ms = 400\n')
    command = [sys.executable, "-c", code, str(twelve.bundle.path), str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    counts = sorted(int(process.communicate(timeout=120)[0]) for process in both)

    assert counts == [0, 12]
    assert finish(twelve, load_profile(path)).complete
    assert_every_item_once(twelve.bundle.path)


def test_a_submission_whose_answer_was_lost_is_found_by_its_name(
    cluster: object, twelve: Workspace, submission: str
) -> None:
    how = profile(300, submission=submission)
    made = submit_all(twelve, how)
    for record in made.records:  # as if the submitter had died while sbatch ran
        forgotten = {"state": "prepared", "job_id": None}
        update_record(twelve.submissions, record.model_copy(update=forgotten))

    again = submit_all(twelve, how)

    assert again.shards == 0
    found = {record.job_id for record in read_records(twelve.submissions)}
    assert found == {record.job_id for record in made.records}


def test_what_was_submitted_and_never_released_waits_for_the_next_command(
    cluster: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=3, items=2))
    how = profile(0, submission="sbatch")

    def die(_job_id: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "release", die)
        with pytest.raises(KeyboardInterrupt):
            submit_all(workspace, how)
    (held,) = read_records(workspace.submissions)
    assert held.state == "held"
    assert shards_that_are(workspace, Cause.PENDING) == [0, 1, 2]

    assert finish(workspace, how).complete
    assert [record.job_id for record in read_records(workspace.submissions)] == [held.job_id]
    assert_every_item_once(workspace.bundle.path)


def test_slurms_words_come_with_a_refusal_and_nothing_is_left_behind(
    cluster: object, twelve: Workspace
) -> None:
    with pytest.raises(SubmissionRefusedError, match="invalid partition"):
        submit_all(twelve, profile(0, partition="nowhere"))

    (record,) = read_records(twelve.submissions)
    assert record.state == "refused"
    assert not list(twelve.dispatch.rglob("*.pkl"))


def test_the_queue_is_not_filled_beyond_what_the_profile_allows(
    cluster: object, twelve: Workspace
) -> None:
    how = profile(300, max_submit=3)

    first = submit_all(twelve, how)

    assert (first.shards, first.held_back) == (3, tuple(range(3, 12)))
    assert submit_all(twelve, how).shards == 0
    assert finish(twelve, profile(0, max_submit=5)).complete


def test_a_shard_keeps_away_from_a_node_that_was_unfit(cluster: object, tmp_path: Path) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=4, items=3))
    # A node whose GPU has gone, as the task sees it.
    broken = tmp_path / "python"
    broken.write_text(
        '#!/bin/sh\n[ "$SLURMD_NODENAME" = c2 ] && unset CUDA_VISIBLE_DEVICES\n'
        f'exec {sys.executable} "$@"\n'
    )
    broken.chmod(0o755)
    how = profile(0, python=str(broken), sbatch={"nodelist": "c2"})
    submit_all(workspace, how)
    eventually(lambda: len(shards_that_are(workspace, Cause.BAD_NODE)) == 4, "unfit node")

    status = finish(workspace, profile(0, python=str(broken)))

    assert status.complete
    assert read_records(workspace.submissions)[-1].excluded_nodes == ("c2",)


def test_a_job_receives_no_variable_that_was_not_named(
    cluster: object, tmp_path: Path, submission: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=1, items=1))
    monkeypatch.setenv("HF_TOKEN", "not-for-jobs")
    monkeypatch.setenv("SITE_CACHE", "for-jobs")
    seen = tmp_path / "environment"
    chosen = {"environment": ("SITE_CACHE",), "variables": {"SITE_MODE": "a b"}}
    how = profile(0, setup=(f"env > {seen}",), submission=submission, **chosen)

    status = finish(workspace, how)

    assert status.complete
    environment = seen.read_text()
    assert "SITE_CACHE=for-jobs" in environment
    assert "SITE_MODE=a b" in environment
    assert "not-for-jobs" not in environment


def test_shards_run_inside_a_container(
    cluster: object, tmp_path: Path, submission: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No container runtime is at hand, so one that only notes what it was told stands in.
    folder, diary = tmp_path / "bin", tmp_path / "diary"
    folder.mkdir()
    (folder / "apptainer").write_text(
        "#!/bin/bash\n"
        f'echo "$SLURM_JOB_ID ${{PYTHONPATH-none}} $*" >> {diary}\n'
        'while [ "$1" != image.sif ]; do shift; done; shift; exec "$@"\n'
    )
    (folder / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=3, items=4))
    container = {"runtime": "apptainer", "image": "image.sif", "options": ["--containall"]}
    inside = {"container": container, "python": sys.executable, "submission": submission}

    status = finish(workspace, profile(0, **inside))

    assert status.complete
    assert_every_item_once(workspace.bundle.path)
    told = diary.read_text().splitlines()
    assert len({line.split()[0] for line in told}) == 3
    for line in told:
        assert line.split()[1] == "none"
        assert f" exec --nv --bind {workspace.bundle.path} --containall image.sif " in line


@pytest.mark.usefixtures("unaccounted")
class TestWithoutAccounting:
    """Everything works; only the words for what went wrong are fewer."""

    def test_a_profile_is_written_without_accounts(self) -> None:
        done = CliRunner().invoke(main, ["slurm", "profile", "init"])

        assert done.exit_code == 0, done.output
        assert "keeps no accounts" in done.stdout
        assert "requeue = false" in done.stdout

    def test_a_bundle_becomes_complete(self, twelve: Workspace) -> None:
        status = finish(twelve, profile(50, account=None))

        assert status.complete
        assert_every_item_once(twelve.bundle.path)

    def test_a_cancelled_and_a_killed_shard_are_lost_and_done_again(self, tmp_path: Path) -> None:
        workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=3, items=20))
        how = profile(200, account=None, array_parallelism=2)
        (record,) = submit_all(workspace, how).records
        os.kill(pid_of(workspace, 0), 9)
        slurm("scancel", str(record.element(2)))
        eventually(lambda: shards_that_are(workspace, Cause.LOST) == [0, 2], "two lost shards")

        status = finish(workspace, how)

        assert status.complete
        assert_every_item_once(workspace.bundle.path)


def test_the_summary_of_a_run_is_plain_json(cluster: object, tmp_path: Path) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=2, items=2))
    status = finish(workspace, profile(0))

    summary = status.to_dict()

    assert summary["items"] == {"total": 4, "done": 4}
    assert summary["shards"] == {"total": 2, "complete": 2}


def test_jobs_go_on_while_the_controller_is_away(unaccounted: Nodes, tmp_path: Path) -> None:
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=3, items=10))
    how = profile(300, account=None)
    submit_all(workspace, how)
    for shard in range(3):
        pid_of(workspace, shard)

    unaccounted.stop_controller()
    try:
        away = status_of(workspace)
        eventually(lambda: status_of_files(workspace) == 30, "results without a controller")
    finally:
        unaccounted.up()

    assert "Unable to contact slurm controller" in str(away.scheduler_error)
    assert {row.cause for row in away.rows} <= {Cause.UNKNOWN, Cause.COMPLETE}
    assert finish(workspace, how).complete
    assert len(read_records(workspace.submissions)) == 1
    assert_every_item_once(workspace.bundle.path)


def status_of_files(workspace: Workspace) -> int:
    """Count finished items without asking anybody."""
    states = [shard_state(workspace.bundle, shard) for shard in range(3)]
    return sum(state.ok for state in states)


def test_a_profile_written_from_the_cluster_runs_a_bundle_on_it(
    cluster: object, tmp_path: Path
) -> None:
    path = tmp_path / "cluster.toml"
    done = CliRunner().invoke(main, ["slurm", "profile", "init", "--out", str(path)])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(main, ["slurm", "profile", "init", "--out", str(path)]).exit_code == 2
    written = load_profile(path)
    workspace = open_workspace(make_bundle(tmp_path / "bundle", shards=2, items=2))

    status = finish(workspace, written)

    assert status.complete
    assert (written.account, written.gpus, written.gpu_type) == ("dev", 1, "fake")
    assert "arrays of up to 9 elements" in path.read_text()


def test_a_calibration_runs_as_a_job_and_finished_shards_say_the_same_kind_of_thing(
    cluster: object, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle", shards=3, items=10)
    path = tmp_path / "cluster.toml"
    path.write_text(
        'account = "dev"\nmem_gb = 0.9\ngpus = 1\nsignal_margin_s = 60\n[engine]\nlatency_ms = 50\n'
    )

    def ask(command: str, *words: str) -> dict[str, Any]:
        told = ["slurm", command, str(bundle), "--profile", str(path), "--json", *words]
        done = CliRunner().invoke(main, told)
        assert done.exit_code == 0, done.output
        (sizing,) = json.loads(done.stdout)
        return dict(sizing)

    measured = ask("calibrate", "--items", "8", "--out", str(tmp_path / "speed.json"))
    shown = CliRunner().invoke(
        main, ["slurm", "submit", str(bundle), "--profile", str(path), "--dry-run"]
    )
    assert "# echo: 0.00 GPU-hours for all shards" in shown.stdout
    assert finish(open_workspace(bundle), load_profile(path)).complete
    finished = ask("suggest")

    def used() -> dict[str, Any]:
        done = CliRunner().invoke(main, ["slurm", "usage", str(bundle), "--json"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    def settled() -> bool:
        found = used()
        return bool(found["attempts"] == 3 and found["gpu_hours"] == pytest.approx(found["hours"]))

    eventually(settled, "three attempts, each of one GPU, in the accounting")
    assert measured["pace"]["source"] == "8 items of a calibration"
    assert finished["pace"]["source"] == "3 finished shards"
    for found in (measured, finished):
        assert found["shard_minutes"] == 30
        assert found["walltime_minutes"] == 40
        assert found["pace"]["planned_per_second"] > 0
    assert json.loads((tmp_path / "speed.json").read_text())["format"] == "themis-calibration"
    assert read_statuses(open_workspace(bundle).bundle, 0)[0].records == 10


def test_the_doctor_looks_at_the_cluster_and_at_a_node(cluster: object, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", shards=2, items=2)
    how = profile(0)

    here, there = examine(how, bundle), examine_node(how, bundle)
    wrong = examine(profile(0, account="nobodys"), bundle)

    # The development cluster lives on a file system of one machine, and the doctor says so.
    assert {f.check for f in here if f.level != "ok"} <= {"shared file system"}
    assert {finding.level for finding in there} == {"ok"}
    assert {"node", "GPUs", "results", "engine"} <= {finding.check for finding in there}
    (refused,) = [finding for finding in wrong if finding.level == "error"]
    assert "account" in refused.message
