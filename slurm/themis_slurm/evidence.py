"""Why a shard is not done: read from what Slurm and the task itself left behind.

    done.json   squeue    sacct                                     verdict
    valid       any       any                                       complete
    no          present   any                                       running, or pending
    no          absent    NODE_FAIL, BOOT_FAIL                      node failure
    no          absent    PREEMPTED, REQUEUED                       preempted
    no          absent    TIMEOUT, DEADLINE                         time limit
    no          absent    OUT_OF_MEMORY in the job or a step        out of memory
    no          absent    FAILED 75:0                               stopped in time, to be continued
    no          absent    FAILED 69:0 / 65:0                        not ready / bad input
    no          absent    FAILED otherwise                          crashed
    no          absent    CANCELLED by somebody                     cancelled
    no          absent    no row, or no accounting                  what the log says, else lost

A task that ends with an error writes its last words to a file, which is better evidence than
any of these and works without accounting. Slurm's own words have traps, each noted below with
the case that showed it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from themis_slurm.exit_codes import BAD_INPUT, NOT_READY, PARTIAL
from themis_slurm.scheduler import AccountingRow


class Cause(StrEnum):
    """Where a shard stands, and why."""

    COMPLETE = "complete"
    RUNNING = "running"
    PENDING = "pending"
    NOT_SUBMITTED = "not submitted"
    STOPPED = "stopped"
    TIME_LIMIT = "time limit"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILURE = "node failure"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"
    ENGINE_CRASH = "engine crash"
    BAD_ITEM = "bad item"
    CRASHED = "crashed"
    BAD_NODE = "bad node"
    NOT_READY = "not ready"
    BAD_INPUT = "bad input"
    LOST = "lost"
    UNKNOWN = "unknown"

    @property
    def advice(self) -> str:
        """What a person should do about it; empty when nothing."""
        return _ADVICE.get(self, "")


_ADVICE = {
    Cause.TIME_LIMIT: "submitting again continues it; a longer walltime or margin loses less",
    Cause.OUT_OF_MEMORY: "raise mem_gb, or lower the engine's batch or context length",
    Cause.CANCELLED: "somebody cancelled it; submit again when that was not meant",
    Cause.ENGINE_CRASH: "read the log of the attempt; lower the engine's batch or context length",
    Cause.BAD_ITEM: "its log has their errors; submitting again tries them once more",
    Cause.CRASHED: "read the log of the attempt",
    Cause.BAD_NODE: "submitting again keeps away from that node",
    Cause.NOT_READY: "a model, a library or a service is missing on the nodes: see doctor",
    Cause.BAD_INPUT: "verify the bundle; submitting again cannot help",
    Cause.UNKNOWN: "Slurm does not answer; results that arrived are counted",
    Cause.LOST: "nothing is known of it; submitting again continues it",
}


@dataclass(frozen=True)
class Verdict:
    """A cause with the words that a person sees beside it."""

    cause: Cause
    detail: str = ""
    node: str = ""


_CAUSES = {
    "NODE_FAIL": Cause.NODE_FAILURE,
    "BOOT_FAIL": Cause.NODE_FAILURE,
    "PREEMPTED": Cause.PREEMPTED,
    "REQUEUED": Cause.PREEMPTED,
    "TIMEOUT": Cause.TIME_LIMIT,
    "DEADLINE": Cause.TIME_LIMIT,
    "CANCELLED": Cause.CANCELLED,
    "REVOKED": Cause.CANCELLED,
}

_WHO = {"9": " (by somebody, or by the kernel for memory)"}

_EXIT_CODES = {
    PARTIAL: (Cause.STOPPED, "stopped in time with its results flushed"),
    BAD_INPUT: (Cause.BAD_INPUT, "the bundle cannot be worked on"),
    NOT_READY: (Cause.NOT_READY, "the node or its environment is not ready"),
}


def judge(rows: Sequence[AccountingRow]) -> Verdict:
    """Say why the latest attempt of one array element ended.

    Args:
        rows: Everything sacct knows of the element, in its order: each attempt's allocation
            and then its steps, older attempts first.
    """
    last = max((place for place, row in enumerate(rows) if not row.step), default=None)
    if last is None:
        return Verdict(Cause.LOST, "no accounting row (cancelled while pending leaves none)")
    job = rows[last]
    return Verdict(*_cause(job, rows[last + 1 :]), node=_node(job))


def judge_exit(code: int) -> Verdict:
    """Say why a task that ran as a plain process ended.

    Args:
        code: Its exit code; the negative number of a signal.
    """
    if code in _EXIT_CODES:
        return Verdict(*_EXIT_CODES[code])
    if code < 0:
        return Verdict(Cause.CRASHED, f"ended by signal {-code}")
    if code == 0:
        return Verdict(Cause.LOST, "ended well, but its results are not there")
    return Verdict(Cause.CRASHED, f"exit code {code}")


# What Slurm writes into a job's log when it ends the job; the last one counts.
_LOG_WORDS = (
    (Cause.TIME_LIMIT, r"CANCELLED AT \S+ DUE TO TIME LIMIT"),
    (Cause.NODE_FAILURE, r"CANCELLED AT \S+ DUE TO NODE FAILURE"),
    (Cause.PREEMPTED, r"CANCELLED AT \S+ DUE TO PREEMPTION"),
    (Cause.PREEMPTED, r"CANCELLED AT \S+ DUE TO JOB REQUEUE"),
    (Cause.CANCELLED, r"CANCELLED AT \S+ \*\*\*"),
    (
        Cause.OUT_OF_MEMORY,
        r"oom[-_]kill|task \d+: Out Of Memory|(?:exceeded|over) (?:step |job )?memory limit",
    ),
)


def judge_log(text: str) -> Verdict | None:
    r"""Say why an attempt ended from what Slurm wrote into its log.

    It needs no accounting. A task that Slurm could not warn leaves nothing else.

    >>> judge_log("slurmstepd: error: *** STEP 7.0 ON c1 CANCELLED AT 0 DUE TO TIME LIMIT ***\n")
    Verdict(cause=<Cause.TIME_LIMIT: 'time limit'>, detail='as its log says', node='')

    Args:
        text: The end of the log; attempts that Slurm started again are in the same one.

    Returns:
        None when Slurm wrote nothing that says why.
    """
    found = [
        (match.end(), cause)
        for cause, words in _LOG_WORDS
        for match in re.finditer(words, text, re.IGNORECASE)
    ]
    if not found:
        return None
    # A step that is killed for memory is cancelled too, by Slurm and right afterwards.
    last = max(found)[1]
    if last is Cause.CANCELLED and any(cause is Cause.OUT_OF_MEMORY for _, cause in found):
        last = Cause.OUT_OF_MEMORY
    return Verdict(last, "as its log says")


def _cause(job: AccountingRow, steps: Sequence[AccountingRow]) -> tuple[Cause, str]:
    states = {job.state, *(step.state for step in steps)}
    # Under srun the job says FAILED 1:0; the step, or the derived exit code, says why.
    if "OUT_OF_MEMORY" in states or job.derived_exit_code.endswith(":125"):
        return Cause.OUT_OF_MEMORY, "killed for memory"
    if job.state == "FAILED":
        return _failure(job, steps)
    cause = _CAUSES.get(job.state, Cause.LOST)
    details = {
        Cause.NODE_FAILURE: "" if job.reason == "None" else job.reason,
        Cause.PREEMPTED: job.state.lower(),
        Cause.TIME_LIMIT: f"ended after {job.elapsed_s} s",
        Cause.CANCELLED: f"by user {job.by}" if job.by else "",
        # Accounting lags the queue by seconds; a crashed slurmdbd may leave RUNNING for ever.
        Cause.LOST: f"accounting says {job.state}, but it is neither in the queue nor done",
    }
    return cause, details[cause]


def _failure(job: AccountingRow, steps: Sequence[AccountingRow]) -> tuple[Cause, str]:
    status, _, number = job.exit_code.partition(":")
    code = int(status) if status.isdigit() else -1
    # A memory limit without cgroups: FAILED 9:0, and root "cancelled" the step (OverMemoryKill).
    if any(step.state == "CANCELLED" and step.by == "0" for step in steps):
        return Cause.OUT_OF_MEMORY, "a step was cancelled by Slurm, most likely for memory"
    if code in _EXIT_CODES:
        return _EXIT_CODES[code]
    # Under srun the job has its signal as the exit status; the step has it as a signal.
    numbers = {number, *(step.exit_code.partition(":")[2] for step in steps)} - {"", "0"}
    if numbers:
        return Cause.CRASHED, f"ended by signal {min(numbers)}{_WHO.get(min(numbers), '')}"
    # No log and no program: the log directory was missing, or the node could not start it.
    launch = " (Slurm could not start it)" if re.search("launch", job.reason, re.IGNORECASE) else ""
    return Cause.CRASHED, f"exit code {code}{launch}"


def _node(job: AccountingRow) -> str:
    return "" if job.node == "None assigned" else job.node
