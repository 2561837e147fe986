"""Why an element ended, from the rows of jobs that really ended so."""

from pathlib import Path

import pytest

from themis_slurm.evidence import Cause, judge, judge_exit, judge_log
from themis_slurm.scheduler import AccountingRow, parse_accounting

DATA = Path(__file__).parent / "data"

RECORDED = {
    "time-limit": Cause.TIME_LIMIT,
    "exit-0": Cause.LOST,  # ended well, and yet there is no done.json
    "exit-1": Cause.CRASHED,
    "exit-65": Cause.BAD_INPUT,
    "exit-69": Cause.NOT_READY,
    "exit-70": Cause.CRASHED,
    "exit-75": Cause.STOPPED,
    "killed": Cause.CRASHED,
    "memory": Cause.OUT_OF_MEMORY,
    "cancelled": Cause.CANCELLED,
    "gone": Cause.NODE_FAILURE,
    "preempted": Cause.PREEMPTED,
}

# From clusters with cgroups, which this machine's Slurm does without.
TOLD = {
    "memory, the step says so": (
        "7|n|FAILED|1:0|0:125|a|b|9|c1|None\n7.0|python|OUT_OF_MEMORY|0:125||a|b|9|c1|",
        Cause.OUT_OF_MEMORY,
    ),
    "memory, the job says so": (
        "7|n|OUT_OF_MEMORY|0:125|0:0|a|b|9|c1|None",
        Cause.OUT_OF_MEMORY,
    ),
    "no log directory": ("7|n|FAILED|0:53|0:0|a|b|0|c1|JobLaunchFailure", Cause.CRASHED),
    "boot failure": ("7|n|BOOT_FAIL|0:0|0:0|a|b|0|c1|None", Cause.NODE_FAILURE),
    "deadline": ("7|n|DEADLINE|0:0|0:0|a|b|0|c1|None", Cause.TIME_LIMIT),
    "a state of the future": ("7|n|SURPRISED|0:0|0:0|a|b|0|c1|None", Cause.LOST),
}


def rows_of(name: str) -> list[AccountingRow]:
    rows = list(parse_accounting((DATA / "sacct.txt").read_text()))
    (array_id,) = {row.array_id for row in rows if row.name == name and not row.step}
    return [row for row in rows if row.array_id == array_id]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_end_has_its_cause(name: str) -> None:
    assert judge(rows_of(name)).cause is RECORDED[name]


@pytest.mark.parametrize("name", TOLD)
def test_an_end_on_another_kind_of_cluster_has_its_cause(name: str) -> None:
    text, cause = TOLD[name]

    assert judge(list(parse_accounting(text))).cause is cause


def test_the_latest_attempt_decides() -> None:
    rows = rows_of("requeued")

    assert judge(rows[:3]).cause is Cause.PREEMPTED
    assert judge(rows).detail.startswith("accounting says COMPLETED")


def test_an_element_that_was_cancelled_while_it_waited_leaves_no_row() -> None:
    verdict = judge([])

    assert verdict.cause is Cause.LOST
    assert "cancelled while pending" in verdict.detail


def test_the_node_is_named() -> None:
    assert judge(rows_of("gone")).node == "c4"
    assert judge(rows_of("gone")).detail == ""


@pytest.mark.parametrize(
    ("code", "cause"),
    [(0, Cause.LOST), (75, Cause.STOPPED), (-9, Cause.CRASHED), (3, Cause.CRASHED)],
)
def test_a_plain_process_tells_by_its_exit_code(code: int, cause: Cause) -> None:
    assert judge_exit(code).cause is cause


STEP = "slurmstepd: error: *** STEP 7.0 ON c1 CANCELLED AT 2026-01-01T00:00:00"
LOGS = {
    "nothing of it": ("loading\nTraceback (most recent call last):", None),
    "time limit": (f"{STEP} DUE TO TIME LIMIT ***", Cause.TIME_LIMIT),
    "preemption": (f"{STEP} DUE TO PREEMPTION ***", Cause.PREEMPTED),
    "node failure": (f"{STEP} DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***", Cause.NODE_FAILURE),
    "requeue": (f"{STEP} DUE TO JOB REQUEUE ***", Cause.PREEMPTED),
    "cancelled": (f"{STEP} ***", Cause.CANCELLED),
    "cgroup": ("error: Detected 1 oom_kill event in StepId=7.0.", Cause.OUT_OF_MEMORY),
    "srun": ("srun: error: c1: task 0: Out Of Memory", Cause.OUT_OF_MEMORY),
    "sampled": (
        f"StepId=7.0 exceeded memory limit (2 > 1), being killed\n{STEP} ***",
        Cause.OUT_OF_MEMORY,
    ),
    "the last of two": (
        f"{STEP} DUE TO PREEMPTION ***\n{STEP} DUE TO TIME LIMIT ***",
        Cause.TIME_LIMIT,
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_says_why_slurm_ended_a_job(name: str) -> None:
    text, cause = LOGS[name]

    verdict = judge_log(text)

    assert (None if verdict is None else verdict.cause) is cause


def test_every_cause_that_a_person_can_act_on_has_advice() -> None:
    silent = {cause for cause in Cause if not cause.advice}

    assert silent == {
        Cause.COMPLETE,
        Cause.RUNNING,
        Cause.PENDING,
        Cause.NOT_SUBMITTED,
        Cause.STOPPED,
        Cause.NODE_FAILURE,
        Cause.PREEMPTED,
    }
