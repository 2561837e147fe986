"""A real Slurm on one Debian machine: four nodes, accounting, and GPUs that do not exist.

It is for tests and for trying Themis out: `up` starts munge, MariaDB, slurmdbd, slurmctld
and one slurmd per node, all of them private to one state directory, and prints the
`SLURM_CONF` to export; `down` ends exactly those processes; `node` crashes, stops or
starts one node. Nothing outside the state directory is written, no process is found by
name alone, and no port is assumed to be free.

The daemons run as the user who calls `up`, who must be root: slurmd refuses to start jobs
otherwise, and the fake GPUs are device nodes. Only the standard library is used, so that
the system's `python3` can run this before anything is installed.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NODES = ("c1", "c2", "c3", "c4")
GPUS_PER_NODE = 2
FIRST_PORT = 26817
# Ports above this are handed out to clients by the kernel and by srun.
LAST_PORT = 32000
# A munge socket's address is `<state>/run/munge.socket.2`, and the kernel allows 107 bytes.
LONGEST_STATE_PATH = 80

# What Debian calls the package that holds each program.
PACKAGES = {
    "munged": "munge",
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "mariadb": "mariadb-client",
}


class ClusterError(Exception):
    """The cluster cannot be started or reached; the message says what to do."""


@dataclass(frozen=True)
class Options:
    """What may differ between one cluster and another."""

    accounting: bool = True
    max_array_size: int = 1001
    requeue: bool = True


@dataclass(frozen=True)
class Ports:
    """One port for each daemon that listens."""

    slurmctld: int
    slurmdbd: int
    mariadb: int
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Cluster:
    """The files and processes of one cluster, all below `state`."""

    state: Path

    @property
    def name(self) -> str:
        """The cluster's name in Slurm; it tells the processes of two clusters apart."""
        return f"dev{zlib.crc32(bytes(self.state)):08x}"

    @property
    def conf(self) -> Path:
        """The slurm.conf; every client and daemon finds the rest through it."""
        return self.state / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The caller's environment with this cluster's configuration in it."""
        # A daemon that inherits a job's variables would hand them to every job.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        sbin = "/usr/local/sbin:/usr/sbin:/sbin"
        return kept | {"SLURM_CONF": str(self.conf), "PATH": f"{kept.get('PATH', '')}:{sbin}"}

    def pid_file(self, daemon: str) -> Path:
        """Where `daemon` wrote its process id."""
        return self.state / "run" / f"{daemon}.pid"

    def log(self, daemon: str) -> Path:
        """Where `daemon` writes its log."""
        return self.state / "log" / f"{daemon}.log"

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end with this cluster's environment."""
        return subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def must(self, *command: str) -> str:
        """Run a program that has to succeed, and give its output.

        Raises:
            ClusterError: It did not; the message holds what it said.
        """
        done = self.call(*command)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ClusterError(f"{' '.join(command)} failed ({done.returncode}): {said}")
        return done.stdout


# --- processes, by pid only ---------------------------------------------------------------


def _read(path: Path) -> str:
    """The text of a file of /proc, or nothing when the process has gone."""
    try:
        return path.read_bytes().replace(b"\0", b"\n").decode(errors="replace")
    except OSError:
        return ""


def running(cluster: Cluster, daemon: str) -> int | None:
    """Give the process id of one of this cluster's daemons, or None when it does not run.

    The pid file alone proves nothing after a reboot or a long time, so the process must
    also name this cluster's state directory in its arguments or environment.
    """
    try:
        pid = int(cluster.pid_file(daemon).read_text())
    except (OSError, ValueError):
        return None
    proc = Path("/proc") / str(pid)
    ours = str(cluster.state)
    if ours not in _read(proc / "cmdline") and f"SLURM_CONF={ours}/" not in _read(proc / "environ"):
        return None
    return None if " Z " in _read(proc / "stat") else pid


def _job_processes(cluster: Cluster, node: str | None = None) -> Iterator[int]:
    """Every step daemon and job process of this cluster, on one node or on all."""
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        if "slurmstepd" in _read(proc / "cmdline"):
            # A step daemon has no environment to tell by, but it holds its slurmd's log open.
            logs = [cluster.log(f"slurmd-{n}") for n in ([node] if node else NODES)]
            if any(_holds_open(proc, log) for log in logs):
                yield int(proc.name)
            continue
        environment = _read(proc / "environ").split("\n")
        if f"SLURM_CLUSTER_NAME={cluster.name}" in environment and (
            node is None or f"SLURMD_NODENAME={node}" in environment
        ):
            yield int(proc.name)


def _kill_jobs(cluster: Cluster, node: str | None = None) -> int:
    """Kill every process of every job, on one node or on all, and count them."""
    victims = list(_job_processes(cluster, node))
    for victim in victims:
        _kill(victim, signal.SIGKILL)
    return len(victims)


def _holds_open(proc: Path, file: Path) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in (proc / "fd").iterdir():
            with contextlib.suppress(OSError):
                if descriptor.readlink() == file:
                    return True
    return False


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _end(cluster: Cluster, daemon: str, patience_s: float = 10.0) -> None:
    """Ask a daemon to stop, and insist when it does not."""
    pid = running(cluster, daemon)
    if pid is None:
        return
    _kill(pid, signal.SIGTERM)
    if not _until(lambda: running(cluster, daemon) is None, patience_s):
        _kill(pid, signal.SIGKILL)
        _until(lambda: running(cluster, daemon) is None, patience_s)
    cluster.pid_file(daemon).unlink(missing_ok=True)


def _until(condition: Callable[[], bool], patience_s: float) -> bool:
    """Wait until something holds; False when it did not in time."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


# --- what the machine offers --------------------------------------------------------------


def missing_packages(cluster: Cluster, options: Options) -> list[str]:
    """The Debian packages that `up` needs and this machine lacks."""
    wanted = PACKAGES | (ACCOUNTING_PACKAGES if options.accounting else {})
    path = cluster.environment["PATH"]
    missing = {
        package for program, package in wanted.items() if not shutil.which(program, path=path)
    }
    if options.accounting and not any(Path("/usr/lib").glob("**/accounting_storage_mysql.so")):
        missing.add("slurm-wlm-mysql-plugin")
    return sorted(missing)


def _install(cluster: Cluster, packages: list[str]) -> None:
    # Runlevel 1 keeps the packages from starting their own daemons where there is no systemd.
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
    subprocess.run((*quiet, "apt-get", "update", "-q"), check=True, stdout=sys.stderr)
    install = (*quiet, "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages)
    subprocess.run(install, check=True, stdout=sys.stderr, env=cluster.environment)


def _slurm_version(cluster: Cluster) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", cluster.must("slurmctld", "-V"))
    if found is None:
        raise ClusterError("slurmctld -V gave no version")
    return int(found[1]), int(found[2])


def _free_ports() -> Ports:
    """Pick ports that nobody listens on, looking upwards from Slurm's own numbers."""
    wanted = 3 + len(NODES)
    found: list[int] = []
    for port in range(FIRST_PORT, LAST_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("", port))
                found.append(port)
        if len(found) == wanted:
            return Ports(found[0], found[1], found[2], tuple(found[3:]))
    raise ClusterError(f"no {wanted} free ports between {FIRST_PORT} and {LAST_PORT}")


# --- configuration ------------------------------------------------------------------------


def _slurm_conf(cluster: Cluster, options: Options, ports: Ports) -> str:
    state, host = cluster.state, socket.gethostname().split(".")[0]
    tells_jobs_of_preemption = (
        "SlurmctldParameters=preempt_send_user_signal"
        if _slurm_version(cluster) < (23, 2)
        else "PreemptParameters=send_user_signal"
    )
    accounting = (
        f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.slurmdbd}
AccountingStoragePass={state}/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment"""
        if options.accounting
        else "AccountingStorageType=accounting_storage/none"
    )
    node_ports = ",".join(map(str, ports.nodes))
    return f"""# Written by {Path(__file__).name}; lost at the next start.
ClusterName={cluster.name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.slurmctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may start again once its credential has expired: 120 s in production.
AuthInfo=socket={state}/run/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={state}/spool/slurmctld
SlurmdSpoolDir={state}/spool/%n
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd-%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd-%n.log
# No cgroups, so that a plain container will do.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2
JobAcctGatherParams=OverMemoryKill
TaskProlog={state}/task_prolog
# Four processors on each node, whatever this machine has.
SlurmdParameters=config_overrides
# Short timers, so that tests are quick; production values are much larger.
SlurmctldTimeout=20
SlurmdTimeout=15
KillWait=5
OverTimeLimit=0
MinJobAge=30
UnkillableStepTimeout=20
MessageTimeout=10
BatchStartTimeout=20
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,default_queue_depth=200
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
MaxArraySize={options.max_array_size}
MaxJobCount=5000
JobRequeue={int(options.requeue)}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{tells_jobs_of_preemption}
{accounting}
PriorityType=priority/basic
GresTypes=gpu
NodeName={NODES[0]},{",".join(NODES[1:])} NodeHostname={host} NodeAddr=127.0.0.1 \
Port={node_ports} CPUs=4 RealMemory=4000 Gres=gpu:fake:{GPUS_PER_NODE} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP \
PriorityTier=5 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=1 State=UP PriorityTier=5 PreemptMode=OFF
"""


def _gres_conf(cluster: Cluster) -> str:
    # Without a character or block device behind it slurmd refuses a GPU, and jobs then get
    # the count but no *_VISIBLE_DEVICES.
    last = GPUS_PER_NODE - 1
    return (
        "AutoDetect=off\n"
        f"NodeName={','.join(NODES)} Name=gpu Type=fake File={cluster.state}/dev/gpu[0-{last}]\n"
    )


def _slurmdbd_conf(cluster: Cluster, ports: Ports) -> str:
    return f"""AuthType=auth/munge
AuthInfo=socket={cluster.state}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.slurmdbd}
SlurmUser=root
LogFile={cluster.state}/log/slurmdbd.log
PidFile={cluster.state}/run/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports.mariadb}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
CommitDelay=1
"""


def _mariadb_conf(cluster: Cluster, ports: Ports) -> str:
    return f"""[mysqld]
datadir={cluster.state}/spool/mariadb
socket={cluster.state}/run/mariadb.sock
pid-file={cluster.state}/run/mariadb.pid
log-error={cluster.state}/log/mariadb.log
port={ports.mariadb}
bind-address=127.0.0.1
user=root
skip-name-resolve
innodb_buffer_pool_size=64M
innodb_log_file_size=32M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
performance_schema=OFF
[client]
socket={cluster.state}/run/mariadb.sock
user=root
"""


# The task prolog's standard output becomes the task's environment.
TASK_PROLOG = """#!/bin/sh
scratch="{state}/scratch/$SLURMD_NODENAME/$SLURM_JOB_ID.$SLURM_PROCID"
mkdir -p "$scratch" && echo "export TMPDIR=$scratch"
"""


def _write_configuration(cluster: Cluster, options: Options, ports: Ports) -> None:
    state = cluster.state
    for folder in ("run", "log", "dev", "spool/slurmctld", *(f"spool/{node}" for node in NODES)):
        (state / folder).mkdir(parents=True, exist_ok=True)
    for index in range(GPUS_PER_NODE):
        device = state / "dev" / f"gpu{index}"
        if not device.is_char_device():
            device.unlink(missing_ok=True)
            os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))  # another /dev/null
    cluster.conf.write_text(_slurm_conf(cluster, options, ports))
    (state / "gres.conf").write_text(_gres_conf(cluster))
    if _slurm_version(cluster) >= (23, 11):
        (state / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    prolog = state / "task_prolog"
    prolog.write_text(TASK_PROLOG.format(state=state))
    prolog.chmod(0o755)
    if options.accounting:
        secret = state / "slurmdbd.conf"
        secret.touch(mode=0o600)
        secret.write_text(_slurmdbd_conf(cluster, ports))
        (state / "mariadb.cnf").write_text(_mariadb_conf(cluster, ports))
    key = state / "munge.key"
    if not key.exists():
        key.touch(mode=0o400)
        key.write_bytes(secrets.token_bytes(1024))


# --- the daemons, in the order they need each other ---------------------------------------


def _start_munge(cluster: Cluster) -> None:
    if running(cluster, "munged"):
        return
    state = cluster.state
    command = [
        "munged",
        "--force",  # it minds that root and a world-readable /tmp are involved
        f"--socket={state}/run/munge.socket",
        f"--key-file={state}/munge.key",
        f"--pid-file={cluster.pid_file('munged')}",
        f"--log-file={cluster.log('munged')}",
        f"--seed-file={state}/spool/munged.seed",
    ]
    if "--origin" in cluster.call("munged", "--help").stdout:
        command.append("--origin=127.0.0.1")  # the host name need not resolve
    cluster.must(*command)


def _start_mariadb(cluster: Cluster) -> None:
    if running(cluster, "mariadb"):
        return
    state = cluster.state
    defaults = f"--defaults-file={state}/mariadb.cnf"
    if not (state / "spool" / "mariadb" / "mysql").exists():
        root = "--auth-root-authentication-method=socket"
        cluster.must("mariadb-install-db", defaults, root, "--skip-test-db")
    with cluster.log("mariadb.out").open("ab") as out:
        subprocess.Popen(
            ["mariadbd", defaults],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    statements = (
        "create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm'; "
        "grant all on slurm_acct.* to 'slurm'@'127.0.0.1'; "
        "create database if not exists slurm_acct;"
    )
    if not _until(lambda: not cluster.call("mariadb", defaults, "-e", statements).returncode, 60):
        raise ClusterError(f"MariaDB did not start; see {cluster.log('mariadb')}")


def _start_slurmdbd(cluster: Cluster) -> None:
    if not running(cluster, "slurmdbd"):
        cluster.must("slurmdbd")
    if not _until(lambda: not cluster.call("sacctmgr", "-n", "list", "cluster").returncode, 60):
        raise ClusterError(f"slurmdbd did not start; see {cluster.log('slurmdbd')}")
    known = cluster.must("sacctmgr", "-n", "-P", "list", "cluster", "format=cluster").split()
    if cluster.name not in known:
        cluster.must("sacctmgr", "-i", "add", "cluster", cluster.name)
        cluster.must(
            "sacctmgr", "-i", "add", "account", "dev", "Description=dev", "Organization=dev"
        )
        cluster.must("sacctmgr", "-i", "add", "user", "root", "account=dev", "defaultaccount=dev")


def _start_node(cluster: Cluster, node: str) -> None:
    if not running(cluster, f"slurmd-{node}"):
        cluster.must("slurmd", "-N", node)


def _idle(cluster: Cluster) -> bool:
    """Whether every node answers; one that was drained or down is taken back first."""
    listed = cluster.call("sinfo", "-h", "-N", "-o", "%N %T").stdout.splitlines()
    states = dict(line.split() for line in listed)
    for node, state in states.items():
        if state.startswith(("down", "drain")):
            cluster.call("scontrol", "update", f"nodename={node}", "state=resume")
    return set(states) == set(NODES) and all(
        state in {"idle", "mixed", "allocated", "completing"} for state in states.values()
    )


# --- the three commands -------------------------------------------------------------------


def up(cluster: Cluster, options: Options, *, install: bool) -> None:
    """Start what does not run yet.

    Raises:
        ClusterError: The machine lacks something, or a daemon did not start.
    """
    if os.geteuid() != 0:
        raise ClusterError("the development cluster needs root: slurmd starts jobs as other users")
    if len(bytes(cluster.state)) > LONGEST_STATE_PATH:
        raise ClusterError(
            f"{cluster.state} is too long for a socket: use at most {LONGEST_STATE_PATH} bytes"
        )
    missing = missing_packages(cluster, options)
    if missing and install:
        _install(cluster, missing)
        missing = missing_packages(cluster, options)
    if missing:
        names = " ".join(missing)
        raise ClusterError(f"missing Debian packages: {names}\n(apt-get install, or up --install)")

    ports = _settle(cluster, options)
    _write_configuration(cluster, options, ports)
    _start_munge(cluster)
    if options.accounting:
        _start_mariadb(cluster)
        _start_slurmdbd(cluster)
    if not running(cluster, "slurmctld"):
        cluster.must("slurmctld")
    for node in NODES:
        _start_node(cluster, node)
    if not _until(lambda: _idle(cluster), 60):
        raise ClusterError(f"the nodes did not come up; see {cluster.state}/log")


def _settle(cluster: Cluster, options: Options) -> Ports:
    """Give the ports of the running cluster, or choose some when nothing of it runs."""
    remembered = cluster.state / "cluster.json"
    try:
        former = json.loads(remembered.read_text())
    except FileNotFoundError:
        former = None
    daemons = ("munged", "slurmctld", "slurmdbd", "mariadb", *(f"slurmd-{n}" for n in NODES))
    if former and any(running(cluster, daemon) for daemon in daemons):
        if former["options"] != asdict(options):
            raise ClusterError(
                f"a cluster with other options runs in {cluster.state}: {former['options']}; "
                "take it down first, or give another --state"
            )
        ports = former["ports"]
        return Ports(ports["slurmctld"], ports["slurmdbd"], ports["mariadb"], tuple(ports["nodes"]))
    cluster.state.mkdir(parents=True, exist_ok=True)
    chosen = _free_ports()
    remembered.write_text(json.dumps({"options": asdict(options), "ports": asdict(chosen)}))
    return chosen


def down(cluster: Cluster, *, remove: bool) -> None:
    """End every process of the cluster, its jobs included."""
    for node in NODES:
        _end(cluster, f"slurmd-{node}")
    _until(lambda: not _kill_jobs(cluster), 10)
    for daemon in ("slurmctld", "slurmdbd", "mariadb", "munged"):
        _end(cluster, daemon)
    # Once more, for a step that was being started when its slurmd was ended.
    _until(lambda: not _kill_jobs(cluster), 10)
    if remove and (cluster.state / "cluster.json").exists():
        shutil.rmtree(cluster.state)


def node(cluster: Cluster, action: str, name: str) -> None:
    """Change one node.

    `kill` is a crash: the node's daemon and everything that runs on it ends at once.
    `stop` ends the daemon only: Slurm loses the node while its jobs go on computing.
    `start` brings the daemon back.
    """
    pid = running(cluster, f"slurmd-{name}")
    if action == "start":
        _start_node(cluster, name)
    elif action == "stop":
        _end(cluster, f"slurmd-{name}")
    else:
        if pid is not None:
            _kill(pid, signal.SIGKILL)
        # Again, for what a process spawned while the list was read.
        _until(lambda: not _kill_jobs(cluster, name), 10)
        cluster.pid_file(f"slurmd-{name}").unlink(missing_ok=True)


def _default_state() -> str:
    return os.environ.get("THEMIS_DEVCLUSTER") or f"/tmp/themis-devcluster-{os.getuid()}"  # noqa: S108


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="devcluster", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start the cluster; what runs already stays")
    start.add_argument("--no-accounting", action="store_true", help="run without slurmdbd")
    start.add_argument("--max-array-size", type=int, default=1001, metavar="N")
    start.add_argument("--no-requeue", action="store_true", help="forbid requeues (JobRequeue=0)")
    start.add_argument("--install", action="store_true", help="apt-get install what is missing")
    stop = commands.add_parser("down", help="end every process of the cluster")
    stop.add_argument("--remove", action="store_true", help="delete the state directory too")
    change = commands.add_parser("node", help="crash, stop or start one node")
    change.add_argument("action", choices=("kill", "stop", "start"))
    change.add_argument("name", choices=NODES)
    for command in (start, stop, change):
        command.add_argument(
            "--state",
            default=_default_state(),
            help="the cluster's directory (default: $THEMIS_DEVCLUSTER or %(default)s)",
        )
    return parser


def main(arguments: list[str]) -> int:
    """Run one command; 0 when it did what it says, 1 with a message when not."""
    given = _parser().parse_args(arguments)
    cluster = Cluster(Path(given.state).resolve())
    try:
        if given.command == "up":
            options = Options(not given.no_accounting, given.max_array_size, not given.no_requeue)
            up(cluster, options, install=given.install)
            sys.stdout.write(f"export SLURM_CONF={cluster.conf}\n")
        elif given.command == "down":
            down(cluster, remove=given.remove)
        else:
            node(cluster, given.action, given.name)
    except ClusterError as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
