"""Status: results first, few questions, and words for what went wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from themis_bundles import ResultWriter
from themis_slurm.dispatcher import LiveShard
from themis_slurm.errors import SchedulerError
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.failures import leave_failure
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import read_records, update_record
from themis_slurm.status import ClusterStatus, StatusReader
from themis_slurm.submit import submit
from themis_slurm.workspace import Workspace

Answer = Callable[..., None]


@pytest.fixture
def reader(workspace: Workspace, fleet: Fleet, fake: Any) -> StatusReader:
    """A reader of six submitted shards."""
    submit(workspace, ClusterProfile(), fleet)
    fake.questions.clear()
    return StatusReader(workspace, fleet)


def causes(status: ClusterStatus) -> list[Cause]:
    return [row.cause for row in status.rows]


def test_a_bundle_that_nobody_submitted_asks_nothing(
    workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    status = StatusReader(workspace, fleet).read()

    assert causes(status) == [Cause.NOT_SUBMITTED] * 6
    assert fake.questions == []


def test_every_shard_stands_somewhere(
    reader: StatusReader, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    answer(workspace.bundle, 0)
    answer(workspace.bundle, 1, count=2)
    fake.live = {
        2: LiveShard(running=True, job="101_2", node="n7"),
        3: LiveShard(running=False, job="101_3", reason="Priority"),
    }
    fake.ended = {1: Verdict(Cause.STOPPED), 4: Verdict(Cause.OUT_OF_MEMORY, "killed for memory")}

    status = reader.read()

    assert causes(status) == [
        Cause.COMPLETE,
        Cause.STOPPED,
        Cause.RUNNING,
        Cause.PENDING,
        Cause.OUT_OF_MEMORY,
        Cause.LOST,
    ]
    assert (status.items, status.done) == (24, 6)
    assert (status.rows[2].node, status.rows[3].detail) == ("n7", "Priority")
    assert status.counts["complete"] == 1
    assert not status.complete


def test_a_refresh_asks_squeue_once_and_sacct_once(reader: StatusReader, fake: Any) -> None:
    fake.live.clear()

    reader.read()

    assert fake.questions == ["alive", "evidence"]


def test_nothing_dead_asks_no_accounting(reader: StatusReader, fake: Any) -> None:
    reader.read()

    assert fake.questions == ["alive"]


def test_a_complete_bundle_asks_nothing_any_more(
    reader: StatusReader, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    for shard in range(6):
        answer(workspace.bundle, shard)
    reader.read()
    fake.questions.clear()

    assert reader.read().complete
    assert fake.questions == []


def test_a_done_shard_is_complete_whatever_slurm_says(
    reader: StatusReader, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    answer(workspace.bundle, 0)
    fake.live[0] = LiveShard(running=True, job="101_0")

    assert reader.read().rows[0].cause is Cause.COMPLETE


def test_the_tasks_own_words_come_before_slurms(
    reader: StatusReader, workspace: Workspace, fake: Any
) -> None:
    del fake.live[2]
    fake.ended[2] = Verdict(Cause.CRASHED, "exit code 69")
    job = {"SLURM_ARRAY_JOB_ID": "101", "SLURMD_NODENAME": "n3"}
    leave_failure(workspace.failures, 2, Cause.NOT_READY, "No directory for the model 'x'.", job)

    row = reader.read().rows[2]

    assert (row.cause, row.detail, row.node) == (
        Cause.NOT_READY,
        "No directory for the model 'x'.",
        "n3",
    )
    assert "evidence" not in fake.questions


def test_words_of_a_former_submission_are_not_todays(
    reader: StatusReader, workspace: Workspace, fake: Any
) -> None:
    del fake.live[2]
    leave_failure(workspace.failures, 2, Cause.BAD_NODE, "old", {"SLURM_JOB_ID": "99"})

    assert reader.read().rows[2].cause is Cause.LOST


@pytest.mark.parametrize(
    ("attempt", "cause", "found"),
    [
        ("101_2.r0.ab", "deadline", Cause.STOPPED),
        ("101_2.r0.ab", "SIGUSR2", Cause.STOPPED),
        ("101_2.r0.ab", "SIGTERM", Cause.CANCELLED),  # as accounting says
        ("101_3.r0.ab", "deadline", Cause.CANCELLED),  # another element
        ("99_2.r0.ab", "deadline", Cause.CANCELLED),  # another submission
    ],
)
def test_an_attempts_own_receipt_says_that_it_stopped_in_time(
    reader: StatusReader, workspace: Workspace, fake: Any, attempt: str, cause: str, found: Cause
) -> None:
    del fake.live[2]
    fake.ended[2] = Verdict(Cause.CANCELLED, "by user 0")
    writer = ResultWriter(workspace.bundle, 2, attempt, header={})
    writer.close("partial", cause)

    assert reader.read().rows[2].cause is found


def test_what_was_cancelled_here_says_so(
    reader: StatusReader, workspace: Workspace, fake: Any
) -> None:
    fake.live.clear()
    (record,) = read_records(workspace.submissions)
    update_record(workspace.submissions, record.model_copy(update={"cancelled": (1, 4)}))

    assert [row.shard for row in reader.read().with_cause(Cause.CANCELLED)] == [1, 4]
    assert fake.questions == ["alive", "evidence"]


def test_a_controller_that_is_away_is_said_and_results_are_still_counted(
    reader: StatusReader, workspace: Workspace, fake: Any, answer: Answer
) -> None:
    answer(workspace.bundle, 0)
    fake.down = SchedulerError("squeue failed: Unable to contact slurm controller")

    status = reader.read()

    assert causes(status) == [Cause.COMPLETE] + [Cause.UNKNOWN] * 5
    assert "Unable to contact" in str(status.scheduler_error)


def test_tries_without_progress_are_counted(
    reader: StatusReader, workspace: Workspace, fleet: Fleet, fake: Any, answer: Answer
) -> None:
    fake.live.clear()
    answer(workspace.bundle, 1, count=2)
    submit(workspace, ClusterProfile(), fleet)
    fake.live.clear()

    rows = reader.read().rows

    assert (rows[0].tries_without_progress, rows[1].tries_without_progress) == (2, 1)


def test_rates_come_from_running_attempts(
    reader: StatusReader, workspace: Workspace, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.live = {shard: LiveShard(running=True, job=f"101_{shard}") for shard in range(6)}
    folder = workspace.bundle.results_dir / "00003"
    folder.mkdir(parents=True)
    status = {
        "attempt": "101_3.r0.ab",
        "bundle": workspace.bundle.digest,
        "shard": 3,
        "state": "running",
        "outcome": None,
        "cause": "",
        "items_done": 2,
        "items_total": 4,
        "ok": 2,
        "model_error": 0,
        "infra_error": 0,
        "records": 2,
        "bytes": 10,
        "sha256": "0" * 64,
        "started": 100.0,
        "updated": 104.0,
        "pid": 1,
        "host": "n1",
        "tokens": 200,
    }
    line = json.dumps(status, sort_keys=True, separators=(",", ":"))
    (folder / "101_3.r0.ab.json").write_text(line + "\n")

    found = reader.read()

    assert (found.items_per_s, found.tokens_per_s) == (0.5, 50.0)
    assert found.eta_s == 44
    assert found.slowest is not None
    assert (found.slowest.shard, found.slowest.eta_s) == (3, 4)


def test_somebody_who_watches_asks_one_question_at_a_time(
    reader: StatusReader, workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    assert reader is not None
    watching = StatusReader(workspace, fleet, one_question=True)
    del fake.live[2]
    fake.ended = {2: Verdict(Cause.TIME_LIMIT, "ended after 60 s")}

    seen = []
    for _ in range(4):
        fake.questions.clear()
        seen.append(watching.read().rows[2].cause)
        assert len(fake.questions) == 1

    assert seen == [Cause.UNKNOWN] + [Cause.TIME_LIMIT] * 3
    assert fake.questions == ["alive"]


def test_an_end_is_asked_about_once_and_again_when_the_shard_ended_again(
    reader: StatusReader, fake: Any
) -> None:
    live = fake.live.pop(2)
    fake.ended = {2: Verdict(Cause.NODE_FAILURE)}
    assert [reader.read().rows[2].cause for _ in range(2)] == [Cause.NODE_FAILURE] * 2
    assert fake.questions.count("evidence") == 1

    fake.live[2] = live  # Slurm started it again by itself
    reader.read()
    del fake.live[2]
    fake.ended = {2: Verdict(Cause.TIME_LIMIT)}

    assert reader.read().rows[2].cause is Cause.TIME_LIMIT


def receipt(workspace: Workspace, shard: int, cause: str, **fields: Any) -> None:
    writer = ResultWriter(workspace.bundle, shard, f"101_{shard}.r0.ab", header={})
    writer.status(**fields)
    writer.close("partial", cause)


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("2 items failed through the machinery", Cause.BAD_ITEM),
        ("poisoned; another engine did not start: the GPU is gone", Cause.ENGINE_CRASH),
    ],
)
def test_a_receipt_tells_a_bad_item_from_a_dead_engine(
    reader: StatusReader, workspace: Workspace, fake: Any, words: str, cause: Cause
) -> None:
    del fake.live[2]
    receipt(workspace, 2, words)

    row = reader.read().rows[2]

    assert (row.cause, row.detail) == (cause, words)
    assert "evidence" not in fake.questions


def test_without_accounting_the_log_says_why(
    reader: StatusReader, workspace: Workspace, fake: Any
) -> None:
    del fake.live[2]
    log = workspace.jobs(1) / "101" / "101_2_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text(
        "working\nslurmstepd: error: *** STEP 101.0 ON c1 CANCELLED AT "
        "2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    )

    row = reader.read().rows[2]

    assert (row.cause, row.detail) == (Cause.TIME_LIMIT, "as its log says")


def test_what_was_used_and_what_failed_is_added_up_over_all_attempts(
    workspace: Workspace, fleet: Fleet, fake: Any
) -> None:
    submit(workspace, ClusterProfile(gpus=2), fleet)
    receipt(workspace, 1, "SIGUSR2", tokens=30, loading_s=1800.0, errors={"model parse_error": 1})
    receipt(workspace, 2, "deadline", tokens=12, loading_s=900.0, errors={"infra x": 2})
    fake.live.clear()

    found = StatusReader(workspace, fleet).read()

    assert found.gpu_hours == pytest.approx(1.5, abs=0.01)
    assert found.tokens == 42
    assert found.errors == {"infra x": 2, "model parse_error": 1}


def test_each_submission_has_a_row_of_the_shards_that_are_still_its_own(
    reader: StatusReader, workspace: Workspace, fleet: Fleet, fake: Any, answer: Answer
) -> None:
    answer(workspace.bundle, 0)
    fake.live = {shard: fake.live[shard] for shard in (2, 3, 4)}
    submit(workspace, ClusterProfile(), fleet)

    first, second = reader.read().arrays

    assert (first.job, first.shards, first.counts) == ("101", 6, {"pending": 3, "complete": 1})
    assert (second.job, second.shards, second.counts) == ("102", 2, {"pending": 2})
    assert (first.items, first.done) == (16, 4)


def test_a_status_is_plain_json(reader: StatusReader) -> None:
    parsed = json.loads(json.dumps(reader.read().to_dict()))

    assert parsed["shards"] == {"total": 6, "pending": 6}
    assert parsed["rows"][0]["cause"] == "pending"
