"""Running until done on a cluster that does what the test says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from themis_slurm import wait
from themis_slurm.dispatcher import LiveShard
from themis_slurm.errors import SchedulerError, SubmissionLockedError, SubmissionRefusedError
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord, read_records, update_record
from themis_slurm.status import ClusterStatus
from themis_slurm.submit import submit
from themis_slurm.wait import Patience, run_until_done
from themis_slurm.workspace import Workspace

QUICK = Patience(poll_s=0.01, longest_poll_s=0.01, scheduler_s=0.02, settle_s=0.05)
PROFILE = ClusterProfile(signal_margin_s=10)

Answer = Callable[..., None]
Run = Callable[..., ClusterStatus]


@pytest.fixture
def run(workspace: Workspace, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Run:
    @contextmanager
    def fake_fleet(*_arguments: object) -> Iterator[Fleet]:
        yield fleet

    monkeypatch.setattr(wait, "fleet_for", fake_fleet)

    def call(
        profile: ClusterProfile = PROFILE,
        on_status: Callable[[ClusterStatus], None] = lambda _status: None,
    ) -> ClusterStatus:
        return run_until_done(workspace.bundle.path, profile, on_status=on_status, patience=QUICK)

    return call


def test_a_cluster_that_works_needs_one_submission(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    def work(record: SubmissionRecord) -> None:
        for shard in record.shards:
            answer(workspace.bundle, shard)
        fake.live.clear()

    fake.on_submit = work

    assert run().complete
    assert len(fake.submitted) == 1


def test_what_ends_early_is_submitted_again_while_the_rest_runs(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    def work(record: SubmissionRecord) -> None:
        if record.number == 1:  # shard 2 is preempted, the others run on
            del fake.live[2]
            fake.ended[2] = Verdict(Cause.PREEMPTED)
        else:
            for shard in range(6):
                answer(workspace.bundle, shard)
            fake.live.clear()

    fake.on_submit = work

    assert run().complete
    assert [record.shards for record in fake.submitted] == [(0, 1, 2, 3, 4, 5), (2,)]


def test_progress_is_enough_to_go_on(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    def one_more_item(record: SubmissionRecord) -> None:
        for shard in record.shards:
            answer(workspace.bundle, shard, count=record.number)
        fake.live.clear()

    fake.on_submit = one_more_item

    assert run().complete
    assert len(fake.submitted) == 4  # more than Patience.tries


def test_a_shard_that_never_gets_anywhere_is_given_up(run: Run, fake: Any) -> None:
    fake.on_submit = lambda _record: fake.live.clear()

    status = run()

    assert not status.complete
    assert len(fake.submitted) == 3


@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.BAD_INPUT])
def test_what_a_person_cancelled_or_is_damaged_is_not_submitted_again(
    run: Run, fake: Any, cause: Cause
) -> None:
    fake.on_submit = lambda _record: fake.live.clear()
    fake.ended = dict.fromkeys(range(6), Verdict(cause))

    status = run()

    assert [row.cause for row in status.rows] == [cause] * 6
    assert len(fake.submitted) == 1


def test_a_lost_shard_is_not_given_up_with_a_cancelled_one(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    def work(record: SubmissionRecord) -> None:
        if record.number == 2:
            for shard in record.shards:
                answer(workspace.bundle, shard)
        fake.live.clear()

    fake.on_submit = work
    fake.ended = {0: Verdict(Cause.CANCELLED)}

    status = run()

    assert [row.cause for row in status.rows] == [Cause.CANCELLED] + [Cause.COMPLETE] * 5
    assert fake.submitted[1].shards == (1, 2, 3, 4, 5)


def test_a_new_call_submits_what_was_cancelled_before(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    fake.on_submit = lambda _record: fake.live.clear()
    fake.ended = dict.fromkeys(range(6), Verdict(Cause.CANCELLED))
    run()

    def work(record: SubmissionRecord) -> None:
        for shard in record.shards:
            answer(workspace.bundle, shard)

    fake.on_submit = work

    assert run().complete


def test_held_back_shards_are_submitted_when_there_is_room(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    def work(record: SubmissionRecord) -> None:
        assert len(fake.live) <= 2
        for shard in record.shards:
            answer(workspace.bundle, shard)
            del fake.live[shard]

    fake.on_submit = work

    assert run(ClusterProfile(max_submit=2, signal_margin_s=10)).complete
    assert {record.shards for record in fake.submitted} == {(0, 1), (2, 3), (4, 5)}


def test_a_controller_that_goes_away_is_waited_for(
    run: Run, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    errors: list[str] = []

    def look(status: ClusterStatus) -> None:
        if fake.down is None and not errors:
            fake.down = SchedulerError("Unable to contact slurm controller")
        elif status.scheduler_error:
            errors.append(status.scheduler_error)
            fake.down = None
        else:
            for shard in range(6):
                answer(workspace.bundle, shard)

    assert run(on_status=look).complete
    assert len(errors) == 1
    assert len(read_records(workspace.submissions)) == 1


def test_a_cluster_that_takes_nothing_is_an_error(run: Run, fake: Any) -> None:
    fake.refusals = [SubmissionRefusedError("invalid partition specified")]

    with pytest.raises(SubmissionRefusedError):
        run()


def test_shards_that_somebody_else_submitted_are_waited_for(
    run: Run, workspace: Workspace, fleet: Fleet, fake: Any, answer: Answer
) -> None:
    submit(workspace, PROFILE, fleet)
    fake.live = {shard: LiveShard(running=True, job="1") for shard in range(6)}

    def look(_status: ClusterStatus) -> None:
        for shard in range(6):
            answer(workspace.bundle, shard)

    assert run(on_status=look).complete
    assert len(fake.submitted) == 1


def test_a_submission_without_an_answer_is_not_waited_for_for_ever(
    run: Run,
    workspace: Workspace,
    fleet: Fleet,
    fake: Any,
    answer: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit(workspace, PROFILE, fleet)
    (record,) = read_records(workspace.submissions)
    update_record(workspace.submissions, record.model_copy(update={"state": "prepared"}))
    fake.live.clear()
    monkeypatch.setattr("themis_slurm.submit.VISIBILITY_S", 0.5)

    def work(record: SubmissionRecord) -> None:
        for shard in record.shards:
            answer(workspace.bundle, shard)

    fake.on_submit = work

    assert run().complete
    assert len(fake.submitted) == 2


def test_another_submitter_in_the_middle_is_no_reason_to_stop(
    run: Run, workspace: Workspace, fake: Any, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def locked_once(*arguments: Any, **options: Any) -> Any:
        calls.append("")
        if len(calls) == 2:
            raise SubmissionLockedError("Somebody else is submitting this bundle.")
        return submit(*arguments, **options)

    monkeypatch.setattr(wait, "submit", locked_once)

    def work(record: SubmissionRecord) -> None:
        if record.number == 2:
            for shard in record.shards:
                answer(workspace.bundle, shard)
        fake.live.clear()

    fake.on_submit = work

    assert run().complete
    assert len(calls) == 3
