"""Submitting: exactly what is left, exactly once, whatever happened before."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from themis_slurm import submit as submitting
from themis_slurm.dispatcher import LiveShard
from themis_slurm.errors import SchedulerError, SubmissionLockedError, SubmissionRefusedError
from themis_slurm.evidence import Cause
from themis_slurm.failures import leave_failure
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord, read_records, update_record
from themis_slurm.submit import cancel, submit, unfit_nodes
from themis_slurm.workspace import Workspace, open_for_profile

PROFILE = ClusterProfile(cpus=2)


def shards_of(fake: Any) -> list[tuple[int, ...]]:
    return [record.shards for record in fake.submitted]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "_REFUSAL_PAUSES_S", (0.01, 0.01))


def test_a_fresh_bundle_is_submitted_whole(workspace: Workspace, fleet: Fleet, fake: Any) -> None:
    made = submit(workspace, PROFILE, fleet)

    assert made.shards == 6
    assert shards_of(fake) == [(0, 1, 2, 3, 4, 5)]
    (record,) = read_records(workspace.submissions)
    assert (record.state, record.job_id) == ("submitted", "101")


def test_complete_and_living_shards_are_left_alone(
    workspace: Workspace, fleet: Fleet, fake: Any, answer: Callable[..., None]
) -> None:
    submit(workspace, PROFILE, fleet)
    answer(workspace.bundle, 0)
    del fake.live[0], fake.live[3], fake.live[5]

    made = submit(workspace, PROFILE, fleet)

    assert made.records[0].shards == (3, 5)
    assert made.alive == (1, 2, 4)


def test_shards_are_split_by_the_clusters_array_size(
    workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    fake.array_size = 4

    submit(workspace, PROFILE, fleet)

    assert shards_of(fake) == [(0, 1, 2, 3), (4, 5)]


def test_the_queue_holds_no_more_than_the_profile_says(
    workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    made = submit(workspace, ClusterProfile(max_submit=2), fleet)
    again = submit(workspace, ClusterProfile(max_submit=3), fleet)

    assert shards_of(fake) == [(0, 1), (2,)]
    assert made.held_back == (2, 3, 4, 5)
    assert again.held_back == (3, 4, 5)


def test_a_record_is_written_before_slurm_is_asked(
    workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    seen: list[str] = []
    fake.on_submit = lambda _r: seen.extend(r.state for r in read_records(workspace.submissions))

    submit(workspace, PROFILE, fleet)

    assert seen == ["prepared"]


class TestLostAnswers:
    """A submitter that dies while sbatch runs leaves a name behind."""

    @staticmethod
    def forget(workspace: Workspace, age_s: float = 0) -> SubmissionRecord:
        (record,) = read_records(workspace.submissions)
        forgotten = record.model_copy(update={"state": "prepared", "job_id": None})
        update_record(workspace.submissions, forgotten)
        then = time.time() - age_s
        os.utime(workspace.submissions / "0001.json", (then, then))
        return forgotten

    def test_an_array_that_is_in_the_queue_is_found(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        submit(workspace, PROFILE, fleet)
        fake.known_names[self.forget(workspace).name] = "77"

        assert submit(workspace, PROFILE, fleet).shards == 0
        assert read_records(workspace.submissions)[0].job_id == "77"

    def test_an_array_that_may_still_turn_up_is_waited_for(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        submit(workspace, PROFILE, fleet)
        fake.live.clear()
        self.forget(workspace, age_s=100)

        made = submit(workspace, PROFILE, fleet)

        assert (made.shards, made.alive) == (0, (0, 1, 2, 3, 4, 5))

    def test_an_array_that_never_arrived_is_submitted_again(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        submit(workspace, PROFILE, fleet)
        fake.live.clear()
        self.forget(workspace, age_s=400)

        made = submit(workspace, PROFILE, fleet)

        assert made.shards == 6
        assert [r.state for r in read_records(workspace.submissions)] == ["refused", "submitted"]


class TestRefusals:
    """Slurm says no, for a while or for good."""

    def test_a_passing_refusal_is_tried_again(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        fake.refusals = [SubmissionRefusedError("Socket timed out on send/recv operation")] * 2

        assert submit(workspace, PROFILE, fleet).shards == 6

    def test_a_time_out_may_hide_a_yes(
        self, workspace: Workspace, fleet: Fleet, fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.refusals = [SubmissionRefusedError("Socket timed out on send/recv operation")]
        monkeypatch.setattr(fake, "find", lambda _record: "55")

        made = submit(workspace, PROFILE, fleet)

        assert [record.job_id for record in made.records] == ["55"]
        assert fake.submitted == []

    def test_a_final_refusal_is_raised_and_recorded(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        fake.refusals = [SubmissionRefusedError("invalid partition specified: x")]

        with pytest.raises(SubmissionRefusedError, match="invalid partition"):
            submit(workspace, PROFILE, fleet)

        assert [r.state for r in read_records(workspace.submissions)] == ["refused"]

    def test_what_was_taken_before_a_refusal_is_kept(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        fake.array_size = 4

        def refuse_the_next(_record: SubmissionRecord) -> None:
            fake.refusals = [SubmissionRefusedError("QOSMaxSubmitJobPerUserLimit")]

        fake.on_submit = refuse_the_next

        made = submit(workspace, PROFILE, fleet)

        assert made.records[0].shards == (0, 1, 2, 3)
        assert made.refused == "QOSMaxSubmitJobPerUserLimit"

    def test_no_answer_about_the_queue_submits_nothing(
        self, workspace: Workspace, fleet: Fleet, fake: Any
    ) -> None:
        submit(workspace, PROFILE, fleet)
        fake.live.clear()
        fake.down = SchedulerError("Unable to contact slurm controller")

        with pytest.raises(SchedulerError):
            submit(workspace, PROFILE, fleet)

        assert len(read_records(workspace.submissions)) == 1

    def test_a_submitter_that_lost_its_lock_submits_nothing(
        self, workspace: Workspace, fleet: Fleet, fake: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def overtaken() -> int:
            (workspace.dispatch / "lock" / "000009").write_text("{}")
            return 1000

        monkeypatch.setattr(fake, "elements_per_submission", overtaken)

        with pytest.raises(SubmissionLockedError, match="suspended"):
            submit(workspace, PROFILE, fleet)

        assert fake.submitted == []


class TestUnfitNodes:
    """Nodes are kept away from when they are at fault, and not when everything is."""

    def test_a_few_nodes_are_excluded(self, workspace: Workspace, fleet: Fleet, fake: Any) -> None:
        for node in ("n1", "n2"):
            leave_failure(workspace.failures, 0, Cause.BAD_NODE, "", {"SLURMD_NODENAME": node})
        leave_failure(workspace.failures, 0, Cause.NOT_READY, "", {"SLURMD_NODENAME": "n3"})

        submit(workspace, PROFILE, fleet)

        assert fake.submitted[0].excluded_nodes == ("n1", "n2")

    def test_many_nodes_are_not(self, workspace: Workspace) -> None:
        for number in range(5):
            node = {"SLURMD_NODENAME": f"n{number}"}
            leave_failure(workspace.failures, 0, Cause.BAD_NODE, "", node)

        assert unfit_nodes(workspace) == ()


def test_two_bundles_never_share_a_results_folder(
    write_generation_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    one = write_generation_bundle(["a"], name="one/bundle")
    two = write_generation_bundle(["b"], name="two/bundle")
    profile = ClusterProfile(results=tmp_path / "scratch")

    places = {open_for_profile(path, profile).dispatch for path in (one, two)}

    assert len(places) == 2
    assert all((tmp_path / "scratch") in place.parents for place in places)


def test_an_element_that_ended_between_the_questions_is_not_submitted(
    workspace: Workspace, fleet: Fleet, fake: Any, answer: Callable[..., None]
) -> None:
    submit(workspace, PROFILE, fleet)
    fake.live = {shard: LiveShard(running=True, job="1") for shard in (1, 2, 3, 4, 5)}
    alive = fake.alive

    def finish_meanwhile(records: Any) -> Any:
        found = alive(records)
        answer(workspace.bundle, 0)
        return found

    fake.alive = finish_meanwhile

    assert submit(workspace, PROFILE, fleet).shards == 0


def test_what_was_cancelled_is_written_down_before_it_ends(
    workspace: Workspace, fleet: Fleet, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(workspace, PROFILE, fleet)
    noted: list[tuple[int, ...]] = []

    @contextmanager
    def fake_fleet(*_arguments: object) -> Iterator[Fleet]:
        yield fleet

    monkeypatch.setattr(submitting, "fleet_for", fake_fleet)
    monkeypatch.setattr(
        fake,
        "cancel",
        lambda *_a: noted.extend(r.cancelled for r in read_records(workspace.submissions)),
    )
    fake.live.pop(5)

    stopped = cancel(workspace, shards=[1, 4, 5])

    assert stopped == (1, 4)
    assert noted == [(1, 4)]
