"""Naming a process so that its number cannot be mistaken for a later one's."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from themis_bundles.model import Frozen


class ProcessName(Frozen):
    """A process of one machine."""

    host: str
    """The machine's host name."""

    pid: int
    """The process id, which the machine gives out again later."""

    started: int
    """When it started, in clock ticks since the machine did; with `pid` this is unique."""

    machine: str
    """The machine's boot and the container's process table: what `pid` is a number of."""

    @property
    def is_local(self) -> bool:
        """Whether this process could be seen from here."""
        return self.machine == _machine()


def this_process() -> ProcessName:
    """Name the calling process."""
    pid = os.getpid()
    return ProcessName(
        host=socket.gethostname(), pid=pid, started=_start_ticks(pid) or 0, machine=_machine()
    )


def is_alive(process: ProcessName) -> bool:
    """Whether a process still runs; one that cannot be seen from here counts as alive."""
    return not process.is_local or _start_ticks(process.pid) == process.started


def _machine() -> str:
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{boot} {namespace}".strip() or socket.gethostname()


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when there is no such process, or only its zombie."""
    with suppress(OSError):
        # The second field is a name in parentheses that may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in {"Z", "X"} else int(fields[19])
    return None
