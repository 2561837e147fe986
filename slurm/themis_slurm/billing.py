"""What Slurm says the jobs of a bundle used, every attempt counted: what an account is billed by.

It is more than what the attempts themselves report, by the start of Python, the last seconds of
killed attempts, and attempts that never got as far as a status file.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from themis_slurm import scheduler
from themis_slurm.records import SubmissionRecord

_FIELDS = "JobName,ElapsedRaw,AllocTRES"
_GPUS = re.compile(r"gres/gpu=(\d+)")
_CPUS = re.compile(r"\bcpu=(\d+)")


@dataclass(frozen=True)
class Billed:
    """What accounting counts.

    Attributes:
        attempts: Jobs and array elements that ran, each start counted.
        hours: The time of all of them.
        gpu_hours: The same times the GPUs of each; 0 where the site does not account for GPUs.
        cpu_hours: Likewise for processors.
    """

    attempts: int
    hours: float
    gpu_hours: float
    cpu_hours: float

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as JSON."""
        return asdict(self)


def billed(records: Sequence[SubmissionRecord]) -> Billed:
    """Ask accounting once what the submissions of a bundle used so far.

    Raises:
        SchedulerError: There is no usable accounting here.
    """
    submitted = [record for record in records if record.job_id is not None]
    names = {record.name for record in submitted}
    rows = []
    if submitted:
        since = min(record.prepared for record in submitted)
        jobs = ",".join(sorted({record.job_id or "" for record in submitted}))
        command = ["sacct", "-n", "-P", "-D", "-X", "-S", scheduler.accounting_start(since)]
        output = scheduler.ask([*command, "-o", _FIELDS, "-j", jobs])
        # An id is given out again after years; a name is not.
        rows = [row for name, *row in _rows(output) if name in names]
    return _sum((int(elapsed), tres) for elapsed, tres in rows)


def _rows(output: str) -> Iterator[list[str]]:
    for line in output.splitlines():
        yield line.split("|", 2)


def _sum(rows: Iterable[tuple[int, str]]) -> Billed:
    ran = [(seconds, tres) for seconds, tres in rows if seconds > 0]
    return Billed(
        attempts=len(ran),
        hours=sum(seconds for seconds, _ in ran) / 3600,
        gpu_hours=sum(seconds * _count(_GPUS, tres) for seconds, tres in ran) / 3600,
        cpu_hours=sum(seconds * _count(_CPUS, tres) for seconds, tres in ran) / 3600,
    )


def _count(pattern: re.Pattern[str], tres: str) -> int:
    found = pattern.search(tres)
    return int(found[1]) if found else 0
