"""Slurm's words, read from what a real Slurm said (data/record.sh records them)."""

from pathlib import Path

import pytest

from themis_slurm import scheduler
from themis_slurm.errors import SchedulerError
from themis_slurm.scheduler import (
    AccountingRow,
    accounting,
    ask,
    job_end_time,
    max_array_size,
    parse_accounting,
    parse_queue,
    queue,
)

DATA = Path(__file__).parent / "data"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH; tests put commands of their own there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(scheduler, "_PAUSES_S", (0.01, 0.01))
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class TestQueue:
    """What squeue says."""

    def test_elements_and_plain_jobs_are_told_apart(self) -> None:
        rows = list(parse_queue((DATA / "squeue.txt").read_text()))

        # Slurm 22.05 leaves the last element of a stride out; Themis submits no strides.
        assert {row.index for row in rows if row.name == "waiting"} == set(range(0, 40, 2))
        assert [row.index for row in rows if row.name == "time-limit"] == [None]

    def test_a_reason_may_hold_anything(self) -> None:
        (row,) = parse_queue("13|N/A|n|PENDING||ReqNodeNotAvail, UnavailableNodes:c1|c2\n")

        assert row.reason == "ReqNodeNotAvail, UnavailableNodes:c1|c2"

    def test_no_names_ask_nothing(self, commands: Path) -> None:
        command(commands, "squeue", "exit 1")

        assert queue([]) == ()

    def test_one_question_is_asked_for_all_names(self, commands: Path) -> None:
        command(commands, "squeue", f'echo "$*" >> {commands}/asked')

        assert queue(["a", "b"]) == ()
        asked = (commands / "asked").read_text().splitlines()
        assert len(asked) == 1
        assert "--name=a,b" in asked[0]


class TestAsk:
    """No answer is never taken for an empty one."""

    def test_a_passing_failure_is_asked_again(self, commands: Path) -> None:
        command(
            commands,
            "squeue",
            f"[ -e {commands}/second ] && echo fine && exit 0\n"
            f"touch {commands}/second\n"
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
        )

        assert ask(["squeue"]) == "fine\n"

    def test_a_lasting_absence_is_an_error(self, commands: Path) -> None:
        command(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")

        with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
            queue(["a"])

    def test_other_failures_are_not_asked_again(self, commands: Path) -> None:
        command(commands, "scontrol", f"echo x >> {commands}/asked; echo 'bad option' >&2; exit 1")

        with pytest.raises(SchedulerError, match="bad option"):
            max_array_size()
        assert (commands / "asked").read_text() == "x\n"

    def test_a_machine_without_slurm_says_what_to_do(self, commands: Path) -> None:
        assert not list(commands.iterdir())
        with pytest.raises(SchedulerError, match='kind = "local"'):
            ask(["squeue-of-nowhere"])

    def test_cancelling_what_is_gone_is_fine(self, commands: Path) -> None:
        command(
            commands,
            "scancel",
            "echo 'scancel: error: Kill job error on job id 7: Invalid job id specified' >&2\n"
            "exit 1",
        )

        scheduler.cancel(["7"])


class TestAccounting:
    """What sacct says."""

    def test_a_stride_of_pending_elements_is_every_one_of_them(self) -> None:
        rows = _recorded("waiting")

        # Element 4 was cancelled while it waited, and left no row.
        assert {row.index for row in rows} == set(range(0, 41, 2)) - {4}

    def test_cancelled_by_is_a_state_and_a_user(self) -> None:
        (row,) = [row for row in _recorded("cancelled") if not row.step]

        assert (row.state, row.by) == ("CANCELLED", "0")

    def test_steps_are_told_from_their_job(self) -> None:
        assert [row.step for row in _recorded("memory")] == ["", "batch", "0"]

    def test_a_cut_list_gives_what_is_left_of_it(self) -> None:
        line = "7_[0-2,5,...]|n|PENDING|0:0|0:0|None|None|0|None assigned|None\n"

        assert [row.index for row in parse_accounting(line)] == [0, 1, 2, 5]

    def test_a_cluster_without_accounting_gives_none(self, commands: Path) -> None:
        command(commands, "sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")

        assert accounting(["7"], since=0) is None

    def test_the_question_is_bounded_in_time(self, commands: Path) -> None:
        command(commands, "sacct", f'echo "$*" > {commands}/asked')

        assert accounting(["7", "8"], since=1_767_225_600.0) == ()
        asked = (commands / "asked").read_text()
        assert "-S 202" in asked
        assert "-j 7,8" in asked


def _recorded(name: str) -> list[AccountingRow]:
    """Everything that the recording holds of one job, its steps included."""
    rows = list(parse_accounting((DATA / "sacct.txt").read_text()))
    ids = {row.array_id for row in rows if row.name == name and not row.step}
    return [row for row in rows if row.array_id in ids]


class TestJobEndTime:
    """When Slurm will end the job."""

    def test_the_variable_is_believed(self) -> None:
        assert job_end_time({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1700000000"}) == 1.7e9

    def test_an_older_slurm_is_asked_once(self, commands: Path) -> None:
        command(commands, "squeue", "echo 2026-01-01T00:00:00")

        assert job_end_time({"SLURM_JOB_ID": "7"}) is not None

    def test_an_array_element_is_asked_for_by_its_place(self, commands: Path) -> None:
        command(
            commands,
            "squeue",
            '[ "$3" = 5_2 ] || echo 2026-01-01T00:00:00; echo 2026-01-01T00:00:00',
        )
        element = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}

        assert job_end_time(element) is not None

    def test_a_job_without_a_limit_has_no_end(self, commands: Path) -> None:
        command(commands, "squeue", "echo NONE")

        assert job_end_time({"SLURM_JOB_ID": "7"}) is None

    def test_outside_a_job_there_is_no_end(self) -> None:
        assert job_end_time({}) is None
