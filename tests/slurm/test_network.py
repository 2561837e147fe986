"""A task that may not use the network cannot, and proves it."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from themis_slurm.network import OFFLINE, hub_problem, switch_hubs_off

# Ways out of a process, each tried by itself; connecting a datagram socket sends nothing.
TRIES = """
import json, socket, subprocess, sys
from themis_slurm import network

def attempt(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "done"

def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))

def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 5).close()

# A program that knows nothing of Python's hooks; bash connects a datagram socket.
child = ["bash", "-c", "exec 3<>/dev/udp/192.0.2.1/9"]
"""
REPORT = """
print(json.dumps({
    "denial": denial,
    "way_out": network.way_out(),
    "name": attempt(lambda: socket.getaddrinfo("example.org", 443)),
    "address": attempt(lambda: udp("192.0.2.1")),
    "loopback": attempt(loopback),
    "localhost": attempt(lambda: socket.getaddrinfo("localhost", 80)),
    "child": subprocess.run(child, capture_output=True).returncode,
}))
"""


def tried(denial: str, *prefix: str) -> dict[str, object]:
    """Cut a new process off the network, and say what it can still do."""
    code = f"{TRIES}\n{denial}\n{REPORT}"
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture
def namespaces(require: Callable[[object, str], None]) -> None:
    """A kernel that gives processes a network of their own."""
    command = ["unshare", "--net", "true"] if os.getuid() == 0 else ["unshare", "-Urn", "true"]
    done = subprocess.run(command, capture_output=True, check=False)
    require(done.returncode == 0, "this kernel gives no network namespaces")


def shut(found: dict[str, object]) -> bool:
    return (
        found["way_out"] is None
        and found["name"] != "done"
        and found["address"] != "done"
        and found["loopback"] == found["localhost"] == "done"
    )


@pytest.mark.usefixtures("namespaces")
def test_a_process_with_a_network_of_its_own_reaches_itself_alone() -> None:
    found = tried("denial = network.deny_network()")

    assert found["denial"] == "namespace"
    assert shut(found)
    assert found["child"] != 0


@pytest.mark.usefixtures("namespaces")
def test_a_user_without_rights_gets_a_network_of_its_own_too(
    require: Callable[[object, str], None],
) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if os.getuid() == 0:
        done = subprocess.run(
            [*nobody, "unshare", "-Urn", "true"], capture_output=True, check=False
        )
        require(done.returncode == 0, "this kernel gives users no network namespaces")
    found = tried("denial = network.deny_network()", *(nobody if os.getuid() == 0 else ()))

    assert found["denial"] == "namespace"
    assert shut(found)


def test_where_the_kernel_refuses_pythons_sockets_are_guarded() -> None:
    found = tried("network._own_namespace = lambda: False\ndenial = network.deny_network()")

    assert found["denial"] == "guard"
    assert found["name"] == found["address"] == "NetworkForbiddenError"
    assert shut(found)


def test_hub_switches_are_set_whatever_the_environment_says() -> None:
    environment = {"HF_HUB_OFFLINE": "0", "PATH": "/bin"}

    switch_hubs_off(environment)

    assert environment == {**OFFLINE, "PATH": "/bin"}


def test_a_hub_library_that_was_imported_too_early_is_noticed() -> None:
    def imported(**values: object) -> dict[str, types.ModuleType]:
        constants = types.ModuleType("huggingface_hub.constants")
        vars(constants).update(values)
        return {"huggingface_hub.constants": constants}

    assert "imported before" in str(hub_problem(imported(HF_HUB_OFFLINE=False)))
    assert hub_problem(imported(HF_HUB_OFFLINE=True)) is None
    assert hub_problem({}) is None


def test_the_switches_hold_for_the_library_itself() -> None:
    pytest.importorskip("huggingface_hub")
    code = (
        "import os, sys; from themis_slurm.network import *;"
        "switch_hubs_off(os.environ); import huggingface_hub.constants as c;"
        "print(c.HF_HUB_OFFLINE, hub_problem(sys.modules))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}

    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout

    assert said == "True None\n"
