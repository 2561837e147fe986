"""Keeping a task away from the network: hub libraries switched off, and no way out at all.

Every task switches the hub libraries off. A profile with `forbid_network = true` asks for more:
the task gives itself a network of its own, in which there is nothing but the loopback device
(a Linux network namespace), and proves it. Where the kernel refuses that, Python's own sockets
are guarded instead, which holds for this process and for Python code alone: a library that opens
sockets in C, and the programs that a task starts, are not held back. The log says which of the
two it was.
"""

import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What every task sets, whatever its environment says."""

Denial = Literal["namespace", "guard"]

# From <linux/sched.h>, <linux/sockios.h> and <linux/if.h>; os.unshare needs Python 3.12.
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
# Addresses kept for documentation (RFC 5737, RFC 3849). Connecting a datagram socket sends
# nothing; it asks the kernel for a way there.
_OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class NetworkForbiddenError(OSError):
    """The guard kept Python code from the network."""


def switch_hubs_off(environment: MutableMapping[str, str]) -> None:
    """Set the switches of the libraries that would ask a hub."""
    environment.update(OFFLINE)


def hub_problem(modules: Mapping[str, ModuleType]) -> str | None:
    """Say why a hub library is not switched off although its variables are set.

    It reads them once, when it is imported; something may have done that before the task.

    Args:
        modules: The imported modules, as `sys.modules`.
    """
    constants = modules.get("huggingface_hub.constants")
    if constants is None or getattr(constants, "HF_HUB_OFFLINE", True):
        return None
    return "huggingface_hub was imported before the task began, with its access to the hub on"


def deny_network() -> Denial:
    """Cut this process, and what it starts from now on, off every network but its own loopback.

    Must be called before threads start that are to be cut off, and after the last question to
    Slurm.

    Returns:
        `namespace` when the kernel does it; `guard` when only Python's sockets are guarded.
    """
    if _own_namespace():
        _raise_loopback()
        return "namespace"
    sys.addaudithook(_Guard())
    return "guard"


def way_out() -> str | None:
    """Prove that there is no way out; give the address that there is a way to, if any."""
    for family, address in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
        except OSError:
            continue
        return address
    return None


def _own_namespace() -> bool:
    """Move this thread into a network namespace of its own, as root or as a user who may."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    # A user namespace may own one; the kernel refuses it to a process with threads.
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True


def _raise_loopback() -> None:
    """Switch the loopback device on, which engines talk to their own processes through."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


class _Guard:
    """An audit hook (PEP 578) that refuses to talk to other machines."""

    def __init__(self) -> None:
        self._here = {"localhost", "", socket.gethostname()}

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            host = arguments[1][0] if isinstance(arguments[1], tuple) else None
        elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
            host = arguments[0]
        else:
            return
        if host is not None and not self._is_here(host):
            raise NetworkForbiddenError(f"the profile forbids the network ({event} to {host!r})")

    def _is_here(self, host: str | bytes) -> bool:
        name = host.decode(errors="replace") if isinstance(host, bytes) else host
        if name in self._here:
            return True
        try:
            return ipaddress.ip_address(name.partition("%")[0]).is_loopback
        except ValueError:
            return False
