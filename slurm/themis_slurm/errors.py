"""What can go wrong between a bundle and a cluster.

ThemisError
├── SpecValidationError
│   └── ProfileError            a cluster profile is not valid
├── EnvironmentNotReadyError
│   └── SchedulerError          a Slurm command is missing, failed or gave no answer
│       └── SubmissionRefusedError   sbatch said no, for a reason that it named
└── OrchestrationAbortedError
    ├── SubmissionLockedError   somebody else submits this bundle right now
    └── ShardsBusyError         shards that were asked for by name are alive, or complete
"""

from pathlib import Path

from themis.errors import EnvironmentNotReadyError, OrchestrationAbortedError, SpecValidationError


class ProfileError(SpecValidationError):
    """A cluster profile is not valid.

    Attributes:
        path: The profile.
        problems: Every problem found, each as `key path: rule`.
    """

    def __init__(self, path: Path, problems: tuple[str, ...]) -> None:
        super().__init__("\n  ".join((f"{path} is not a valid cluster profile:", *problems)))
        self.path = path
        self.problems = problems

    def __reduce__(self) -> tuple[type["ProfileError"], tuple[Path, tuple[str, ...]]]:
        """Survive a pickle, whose default would call the constructor with the message."""
        return (ProfileError, (self.path, self.problems))


class SchedulerError(EnvironmentNotReadyError):
    """A Slurm command is missing, failed, or gave no answer after several tries."""


class SubmissionRefusedError(SchedulerError):
    """Slurm refused an array; the message holds its words."""


class SubmissionLockedError(OrchestrationAbortedError):
    """Another process is submitting this bundle and did not finish in time."""


class ShardsBusyError(OrchestrationAbortedError):
    """Shards that were asked for by name need no other attempt, or already have one."""
