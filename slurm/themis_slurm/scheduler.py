"""Asking Slurm: as few questions as possible, as text with fixed fields.

JSON output is larger by two orders of magnitude and its schema moves with every release; the
fields used here have been the same for ten years. A question that gets no answer is asked
once more; it is never mistaken for the answer "nothing".
"""

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from themis_slurm.errors import SchedulerError

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 60
# Slurm's own commands try for 10 s and more before they give up.
_PAUSES_S = (3.0,)
# slurmctld restarts, overload, and per-user rate limits all end in one of these.
_PASSING = re.compile(
    r"unable to contact|timed out|temporarily|connection refused|communications? (failure|error)"
    r"|rate limit|transport endpoint|try again|resource busy",
    re.IGNORECASE,
)


def is_passing(message: str) -> bool:
    """Whether Slurm's words mean that asking again later may help.

    >>> is_passing("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    True
    >>> is_passing("sbatch: error: invalid partition specified: nope")
    False
    """
    return _PASSING.search(message) is not None


def ask(command: Sequence[str], *, accept: str | None = None) -> str:
    """Run a Slurm command and return its output, trying again while the controller is away.

    Args:
        command: The program and its arguments.
        accept: A failure whose words match this pattern is an empty answer.

    Raises:
        SchedulerError: The program is missing, failed, or the controller stayed away.
    """
    if shutil.which(command[0]) is None:
        raise SchedulerError(
            f"{command[0]} is not on the PATH, so this machine cannot talk to Slurm. "
            'Use a login node, or a profile with kind = "local".'
        )
    said = ""
    for pause in (*_PAUSES_S, None):
        try:
            done = subprocess.run(
                command,
                # Long index lists are cut at 64 bytes unless told otherwise.
                env={**os.environ, "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "standard"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            said = f"{command[0]} timed out after {COMMAND_TIMEOUT_S} s"
        else:
            if done.returncode == 0:
                return done.stdout
            said = (done.stderr or done.stdout).strip()
            if accept and re.search(accept, said):
                return ""
        if not is_passing(said) or pause is None:
            break
        log.warning("%s: %s; asking again in %g s", command[0], said, pause)
        time.sleep(pause)
    raise SchedulerError(f"{command[0]} failed: {said}", details={"command": list(command)})


# --- what is alive ------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueRow:
    """One array element, or one job, that Slurm still has.

    Attributes:
        array_id: The array's job id.
        index: The element's index; None when the job is no array.
        name: The job name.
        state: Slurm's word, such as `PENDING` or `RUNNING`.
        node: Where it runs; empty while it waits.
        reason: Why it waits.
    """

    array_id: str
    index: int | None
    name: str
    state: str
    node: str
    reason: str


def queue(names: Sequence[str]) -> tuple[QueueRow, ...]:
    """Ask once what Slurm still has under these job names.

    Names are asked for, not ids: Slurm gives ids out again, an unknown id is an error, and an
    array whose id was never learned has its name.

    Raises:
        SchedulerError: There is no answer. That is not an empty answer.
    """
    if not names:
        return ()
    output = ask(["squeue", "-h", "-r", f"--name={','.join(names)}", "-o", "%F|%K|%j|%T|%N|%r"])
    return tuple(parse_queue(output))


def parse_queue(output: str) -> Iterator[QueueRow]:
    r"""Read the lines of `squeue -o '%F|%K|%j|%T|%N|%r'`.

    >>> list(parse_queue("41|3|name|RUNNING|c1|None\n"))[0].index
    3
    """
    for line in output.splitlines():
        array_id, index, name, state, node, reason = line.split("|", 5)
        yield QueueRow(array_id, int(index) if index.isdigit() else None, name, state, node, reason)


# --- what became of the others ------------------------------------------------------------

ACCOUNTING_FIELDS = (
    "JobID,JobName,State,ExitCode,DerivedExitCode,Start,End,ElapsedRaw,NodeList,Reason"
)


@dataclass(frozen=True)
class AccountingRow:
    """One line of sacct: an allocation, or one of its steps.

    Attributes:
        array_id: The array's job id.
        index: The element's index; None when the job is no array.
        step: The step's name, such as `batch` or `0`; empty for the allocation itself.
        name: The job name; steps have their own.
        state: Slurm's word, without `by UID`.
        by: The user id in `CANCELLED by UID`; empty otherwise.
        exit_code: Exit status and signal, as `1:0`.
        derived_exit_code: The highest of all steps, as `0:125`.
        start, end: As sacct prints them.
        elapsed_s: Seconds that it ran.
        node: Where it ran.
        reason: Slurm's reason.
    """

    array_id: str
    index: int | None
    step: str
    name: str
    state: str
    by: str
    exit_code: str
    derived_exit_code: str
    start: str
    end: str
    elapsed_s: int
    node: str
    reason: str


def accounting(array_ids: Sequence[str], since: float) -> tuple[AccountingRow, ...] | None:
    """Ask once what the accounting database knows of some arrays, all attempts included.

    Args:
        array_ids: The arrays' job ids.
        since: Unix seconds before which nothing can have been submitted; an hour is allowed
            for clocks that disagree. It keeps away older jobs that had the same ids.

    Returns:
        The rows in sacct's order; None when this cluster has no usable accounting.
    """
    if not array_ids:
        return ()
    start = accounting_start(since)
    command = ["sacct", "-n", "-P", "-D", "-S", start, "-o", ACCOUNTING_FIELDS]
    try:
        output = ask([*command, "-j", ",".join(array_ids)])
    except SchedulerError as error:
        log.info("no accounting: %s", error)
        return None
    return tuple(parse_accounting(output))


def accounting_start(since: float) -> str:
    """Give the start of a question to sacct, an hour early for clocks that disagree."""
    start = datetime.fromtimestamp(since - 3600).astimezone()
    return start.strftime("%Y-%m-%dT%H:%M:%S")


def parse_accounting(output: str) -> Iterator[AccountingRow]:
    r"""Read the lines of sacct; a row for several pending elements becomes one row for each.

    >>> [row.index for row in parse_accounting("7_[0-1,4%2]|n|PENDING|0:0|0:0|a|b|0|c|r\n")]
    [0, 1, 4]
    """
    for line in output.splitlines():
        # The reason is last, and may hold anything.
        job, name, state, code, derived, start, end, elapsed, node, reason = line.split("|", 9)
        job, _, step = job.partition(".")
        array_id, _, index = job.partition("_")
        word, _, by = state.partition(" by ")
        for element in _indices(index):
            yield AccountingRow(
                array_id, element, step, name, word.strip(), by.strip(), code, derived,
                start, end, int(elapsed or 0), node, reason,
            )  # fmt: skip


def _indices(text: str) -> Iterator[int | None]:
    """Give the elements in `3`, `[0-4,9]`, `[0-40:2%8]` or nothing."""
    if not text:
        yield None
        return
    for part in text.strip("[]").partition("%")[0].split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if found is None:  # cut off by Slurm: "..." at the end
            continue
        first = int(found[1])
        yield from range(first, int(found[2] or first) + 1, int(found[3] or 1))


# --- everything else ----------------------------------------------------------------------


def max_array_size() -> int:
    """Ask how many elements an array may have here (its highest index plus one)."""
    found = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE
    )
    if found is None:
        raise SchedulerError("scontrol show config does not say MaxArraySize")
    return int(found[1])


def cancel(elements: Sequence[str]) -> None:
    """Cancel arrays, jobs or single elements; one that is gone already is fine.

    Raises:
        SchedulerError: The controller did not answer, or it is somebody else's job.
    """
    for first in range(0, len(elements), 500):
        ask(["scancel", *elements[first : first + 500]], accept=r"Invalid job id|already complet")


def release(job_id: str) -> None:
    """Let a held job or array start; one that is gone already is fine.

    Raises:
        SchedulerError: The controller did not answer, or it is somebody else's job.
    """
    ask(["scontrol", "release", job_id], accept=r"Invalid job id|already (finished|complet)")


def job_end_time(environment: Mapping[str, str]) -> float | None:
    """Give the Unix time at which Slurm will end the job that this process belongs to.

    The variable exists since Slurm 23.02; before, squeue is asked once.

    Returns:
        None outside a job, without a time limit, or when nobody can tell.
    """
    if "SLURM_JOB_ID" not in environment:
        return None
    if environment.get("SLURM_JOB_END_TIME", "").isdigit():
        return float(environment["SLURM_JOB_END_TIME"])
    job = environment["SLURM_JOB_ID"]
    if "SLURM_ARRAY_TASK_ID" in environment:
        # The last element has the array's own id, for which squeue lists every element.
        job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    try:
        said = ask(["squeue", "-h", "-j", job, "-o", "%e"]).strip()
        return datetime.fromisoformat(said).timestamp()
    except (SchedulerError, ValueError) as error:
        log.warning("the job's end time is not known (%s)", error)
        return None
