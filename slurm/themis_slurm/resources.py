"""What one shard asks Slurm for, as options that sbatch and srun both know."""

from themis_slurm.profile import ClusterProfile

Options = dict[str, str | int]
"""Long names and values; `True` is a bare flag."""


def resource_options(profile: ClusterProfile) -> Options:
    """Give the resources of a profile, and its further options."""
    options: dict[str, str | int | None] = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": profile.cpus,
        "mem": profile.memory,
        "gpus-per-node": profile.gpu_request,
        **further_options(profile),
    }
    return {name: value for name, value in options.items() if value is not None}


def further_options(profile: ClusterProfile) -> Options:
    """Give the options under `[sbatch]` by the names that Slurm has for them."""
    return {name.lstrip("-").replace("_", "-"): value for name, value in profile.sbatch.items()}


def flags(options: Options) -> list[str]:
    """Write options as the words of a command.

    >>> flags({"exclusive": True, "time": 90})
    ['--exclusive', '--time=90']
    """
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()
    ]
