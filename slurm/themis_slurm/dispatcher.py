"""What the rest of this package needs of a cluster, whatever kind it is.

Three implementations: `SlurmArrays` (submitit), `PlainSbatch` (scripts of our own) and
`LocalPool` (processes of this machine).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from themis_slurm.evidence import Verdict
from themis_slurm.records import SubmissionRecord

UNANSWERED = "submission not yet answered"
"""Why a shard waits whose submitter died before it learned what Slurm said."""


@dataclass(frozen=True)
class LiveShard:
    """A shard that somebody works on, or soon will.

    Attributes:
        running: Whether it runs already.
        job: What the cluster calls it.
        node: Where it runs.
        reason: Why it waits.
    """

    running: bool
    job: str
    node: str = ""
    reason: str = ""


class Dispatcher(Protocol):
    """Runs shards somewhere."""

    def elements_per_submission(self) -> int:
        """How many shards one submission may have.

        Raises:
            SchedulerError: The cluster did not answer.
        """

    def script(self, record: SubmissionRecord) -> str:
        """Give what `submit` would ask of the cluster, for a person to read."""

    def submit(self, record: SubmissionRecord) -> SubmissionRecord:
        """Start a prepared submission and return it with the cluster's name for it.

        One that comes back as `held` starts with `release`, once that name is on record.

        Raises:
            SubmissionRefusedError: The cluster said no.
            SchedulerError: The cluster did not answer; whether it took the work is not known.
        """

    def release(self, record: SubmissionRecord) -> None:
        """Let a held submission start.

        Raises:
            SchedulerError: The cluster did not answer.
        """

    def find(self, record: SubmissionRecord) -> str | None:
        """Look for a submission whose answer was lost, by its name; give its id."""

    def alive(self, records: Sequence[SubmissionRecord]) -> Mapping[int, LiveShard]:
        """Give the shards that need no new submission, from one question.

        Raises:
            SchedulerError: There is no answer, which is not "none".
        """

    def cancel(self, records: Sequence[SubmissionRecord], shards: Sequence[int]) -> None:
        """Stop shards, running or waiting. Those that are gone already are fine."""

    def evidence(
        self, records: Sequence[SubmissionRecord], shards: Sequence[int]
    ) -> Mapping[int, Verdict]:
        """Say what became of shards that are neither done nor alive, from one question."""
