"""What a cluster says about itself.

Three questions, each asked once: `sinfo` for partitions and GPUs, `scontrol show config` for
limits, `sacctmgr show assoc` for the accounts of the person who asks. The last one may have no
answer; everything else still stands.
"""

import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass

from themis_slurm import scheduler
from themis_slurm.errors import SchedulerError

SINFO_FIELDS = "%P|%a|%l|%D|%c|%m|%G"
_GPU = re.compile(r"gpu(?::(?P<type>[A-Za-z][^:,(]*))?:(?P<count>\d+)")
_TIME = re.compile(r"(?:(?P<d>\d+)-)?(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)")


@dataclass(frozen=True)
class Partition:
    """Nodes of one kind in one partition.

    Attributes:
        name: The partition.
        default: Whether jobs go there that name none.
        up: Whether jobs start there now.
        minutes: Its time limit; None is no limit.
        nodes: How many such nodes it has.
        cpus: Processors of a node.
        memory_mb: Memory of a node in MiB.
        gpu_type: The model of its GPUs as Slurm calls it; empty when it has no name.
        gpus: GPUs of a node.
    """

    name: str
    default: bool
    up: bool
    minutes: int | None
    nodes: int
    cpus: int
    memory_mb: int
    gpu_type: str
    gpus: int


@dataclass(frozen=True)
class Account:
    """What one person may charge.

    Attributes:
        name: The account.
        qos: The qualities of service that it may use.
        max_submit: The most jobs in the queue; None when nothing is set.
    """

    name: str
    qos: tuple[str, ...]
    max_submit: int | None


@dataclass(frozen=True)
class Site:
    """A cluster as it describes itself."""

    cluster: str
    version: str
    max_array_size: int | None
    requeue: bool
    partitions: tuple[Partition, ...]
    accounts: tuple[Account, ...] | None
    """None when there is no accounting to ask."""


def inspect() -> Site:
    """Ask the cluster what it is.

    Raises:
        SchedulerError: There is no Slurm here, or it gives no answer.
    """
    config = dict(parse_config(scheduler.ask(["scontrol", "show", "config"])))
    try:
        fields = "format=Account,QOS,MaxSubmitJobs"
        person = f"user={getpass.getuser()}"
        said = scheduler.ask(["sacctmgr", "-n", "-P", "show", "assoc", person, fields])
        accounts = tuple(dict.fromkeys(parse_accounts(said)))
    except SchedulerError:
        accounts = None
    size = config.get("MaxArraySize", "")
    return Site(
        cluster=config.get("ClusterName", ""),
        version=config.get("SLURM_VERSION", ""),
        max_array_size=int(size) if size.isdigit() else None,
        requeue=config.get("JobRequeue", "1") != "0",
        partitions=tuple(parse_partitions(scheduler.ask(["sinfo", "-h", "-o", SINFO_FIELDS]))),
        accounts=accounts,
    )


def parse_config(output: str) -> Iterator[tuple[str, str]]:
    """Read the `Name = value` lines of `scontrol show config`."""
    for line in output.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            yield name.strip(), value.strip()


def parse_partitions(output: str) -> Iterator[Partition]:
    r"""Read the lines of `sinfo -o '%P|%a|%l|%D|%c|%m|%G'`.

    >>> found = next(parse_partitions("gpu*|up|1-00:00:00|4|64+|515000|gpu:h100:4(S:0-1)\n"))
    >>> found.name, found.default, found.minutes, found.gpu_type, found.gpus
    ('gpu', True, 1440, 'h100', 4)
    """
    for line in output.splitlines():
        name, state, limit, nodes, cpus, memory, gres = line.split("|", 6)
        gpu = _GPU.search(gres)
        yield Partition(
            name=name.rstrip("*"),
            default=name.endswith("*"),
            up=state == "up",
            minutes=_limit(limit),
            nodes=_number(nodes),
            cpus=_number(cpus),
            memory_mb=_number(memory),
            gpu_type=(gpu["type"] or "") if gpu else "",
            gpus=int(gpu["count"]) if gpu else 0,
        )


def parse_accounts(output: str) -> Iterator[Account]:
    """Read the lines of `sacctmgr -P show assoc format=Account,QOS,MaxSubmitJobs`."""
    for line in output.splitlines():
        account, qos, most = line.split("|", 2)
        if account:
            names = tuple(name for name in qos.split(",") if name)
            yield Account(account, names, int(most) if most.isdigit() else None)


def _number(text: str) -> int:
    """Read `64`, or the `64+` of nodes that differ."""
    return int(text.rstrip("+") or 0)


def _limit(text: str) -> int | None:
    found = _TIME.fullmatch(text)
    if found is None:  # infinite, n/a
        return None
    days, hours, minutes, seconds = (int(found[part] or 0) for part in "dhms")
    return (days * 24 + hours) * 60 + minutes + (1 if seconds else 0)
