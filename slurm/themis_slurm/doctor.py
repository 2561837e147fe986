"""Preflight: what would go wrong after hours in the queue, found in seconds before it.

`examine` looks from the login node; `examine_node` runs the same kind of checks as a short job
on a compute node, where GPUs, models and the shared file system really have to be. Neither
changes anything but probe files that it removes.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import themis
from themis.errors import EnvironmentNotReadyError
from themis_bundles import BundleError, verify
from themis_slurm import scheduler
from themis_slurm.checks import (
    LIBRARIES,
    clock_finding,
    clock_findings,
    model_findings,
    providers_of,
    skew_of,
    space_findings,
    write_findings,
)
from themis_slurm.errors import SchedulerError
from themis_slurm.findings import Finding, Level
from themis_slurm.import_path import importable
from themis_slurm.launch import local_environment, python_command, setup_lines
from themis_slurm.local_pool import assign_gpus
from themis_slurm.one_job import run_on_node
from themis_slurm.options import write_options
from themis_slurm.preflight import RESULTS_PER_ITEM_BYTE, results_folder
from themis_slurm.profile import ClusterProfile
from themis_slurm.resources import flags, resource_options
from themis_slurm.sbatch_array import passed_environment
from themis_slurm.workspace import Workspace, open_for_profile

LEAST_FREE_BYTES = 1 << 30
# Two dispatch files and three result files, and as many again for retries.
FILES_PER_SHARD = 10
NODE_CHECK_MINUTES = 5
# A job that has answered may take so long to end.
ANSWER_S = 5.0
OLDEST_PYTHON = (3, 11)
_LOCAL_FILE_SYSTEMS = frozenset({"tmpfs", "overlay", "ext4", "ext3", "xfs", "btrfs", "zfs", "9p"})
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_SHARED = "shared file system"

# Must run on any Python, however old, to say how old it is.
_PROBE = """
import json, sys
facts = {"python": list(sys.version_info[:3]), "missing": []}
try:
    import themis
    import themis_slurm.task
    from themis_slurm.checks import is_installed
    facts["themis"] = themis.__version__
    facts["missing"] = [name for name in sys.argv[1:] if not is_installed(name)]
except BaseException as error:
    facts["error"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(facts))
"""


def examine(profile: ClusterProfile, bundle: Path | None = None) -> tuple[Finding, ...]:
    """Look at everything that can be seen from here.

    Args:
        profile: The cluster profile.
        bundle: A bundle to be dispatched with it; None checks the cluster alone.
    """
    findings: list[Finding] = []
    findings.extend(_slurm(profile) if profile.kind == "slurm" else _machine(profile))
    workspace: Workspace | None = None
    if bundle is not None:
        try:
            workspace = open_for_profile(bundle, profile)
        except BundleError as error:
            fix = "copy the bundle again, or export it again"
            findings.append(Finding("error", "bundle", str(error), fix))
    findings.extend(_python(profile, workspace))
    if workspace is not None:
        findings.extend(_bundle(profile, workspace))
    return tuple(findings)


def examine_node(profile: ClusterProfile, bundle: Path) -> tuple[Finding, ...]:
    """Run the checks of a task's surroundings as a job, with the profile's resources.

    Waits for the job, at most as long as the queue makes it wait.

    Args:
        profile: The cluster profile, of kind `slurm`.
        bundle: The bundle to be dispatched.
    """
    workspace = open_for_profile(bundle, profile)
    try:
        options = write_options(workspace, profile)
    except OSError as error:
        message = f"{workspace.dispatch} cannot be written: {error.strerror}"
        return (Finding("error", "disk", message, "free some, or set `results` of the profile"),)
    place = (str(workspace.bundle.path), str(options), workspace.bundle.digest)
    check = shlex.join(["-m", "themis_slurm.node_check", *place])
    done = run_on_node(workspace, profile, check, name="themis-doctor", minutes=NODE_CHECK_MINUTES)
    after = time.time()
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return (
            *(Finding(**row) for row in answer["findings"]),
            *_compared(profile, answer, after),
        )
    except (IndexError, ValueError, TypeError, KeyError):
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        fix = "see the setup lines and `python` of the profile"
        return (Finding("error", "Python", f"the node check ended without an answer: {said}", fix),)


def _compared(profile: ClusterProfile, answer: dict[str, Any], after: float) -> Iterator[Finding]:
    """Compare what a node said of itself with this machine."""
    node = str(answer["node"])
    # The node told its time last; its answer took moments, its job may have waited for hours.
    skew = skew_of(float(answer["clock"]), after - ANSWER_S, after)
    yield clock_finding(skew, "this machine", node, profile.signal_margin_s)
    yield from _versions_differ(answer["themis"], f"on {node}")


def settled(here: Iterable[Finding], there: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put the findings of the login node and of a compute node together.

    What the login node could only suspect, a node that sees the same files has answered.
    """
    of_node = tuple(there)
    seen = any(finding.check == _SHARED and finding.level == "ok" for finding in of_node)
    kept = (f for f in here if not (seen and f.check == _SHARED and f.level == "warning"))
    return (*kept, *of_node)


# --- the cluster --------------------------------------------------------------------------


def _slurm(profile: ClusterProfile) -> Iterator[Finding]:
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if missing:
        fix = 'use a login node, or a profile with kind = "local"'
        yield Finding("error", "Slurm", f"not on the PATH: {', '.join(missing)}", fix)
        return
    try:
        size = scheduler.max_array_size()
    except SchedulerError as error:
        fix = "use a login node (or set SLURM_CONF), or ask again when the controller is back"
        yield Finding("error", "Slurm", str(error), fix)
        return
    version = scheduler.ask(["sbatch", "--version"]).strip()
    yield Finding("ok", "Slurm", f"{version}, arrays of up to {size} elements")
    if scheduler.accounting(["1"], since=0) is None:
        fix = "nothing; only the words for what went wrong with a shard are fewer"
        yield Finding("notice", "accounting", "sacct does not work on this cluster", fix)
    yield _would_start(profile)


def _would_start(profile: ClusterProfile) -> Finding:
    """Ask Slurm whether it would take such a job."""
    command = [
        "sbatch",
        "--test-only",
        *flags(resource_options(profile)),
        f"--time={profile.walltime}",
    ]
    done = subprocess.run([*command, "--wrap", "true"], capture_output=True, text=True, check=False)
    said = " ".join((done.stderr or done.stdout).split())
    if done.returncode:
        fix = "change partition, account, qos, gpus, gpu_type or walltime of the profile"
        return Finding("error", "resources", said, fix)
    return Finding("ok", "resources", said)


def _machine(profile: ClusterProfile) -> Iterator[Finding]:
    try:
        assign_gpus(profile.slots, profile.gpus_per_slot)
    except EnvironmentNotReadyError as error:
        yield Finding("error", "GPUs", str(error), "change slots, gpus_per_slot or the variable")
    else:
        each = f", {profile.gpus_per_slot} GPUs each" if profile.gpus_per_slot else ""
        yield Finding("ok", "this machine", f"{profile.slots} slots{each}")


def _python(profile: ClusterProfile, workspace: Workspace | None) -> Iterator[Finding]:
    """Start the profile's Python as a task would, setup lines included."""
    container = profile.container
    if container is not None and (workspace is None or container.runtime == "enroot"):
        yield Finding("notice", "Python", "it is in a container: the node check looks into it")
        return
    python = (
        python_command(workspace, profile)
        if workspace is not None
        else profile.python or f"{shlex.quote(sys.executable)} -P"
    )
    providers = () if workspace is None else providers_of(workspace.bundle)
    libraries = [name for provider in providers for name in LIBRARIES.get(provider, ())]
    probe = f"{python} -c {shlex.quote(_PROBE)} {shlex.join(libraries)}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(("set -e", *setup_lines(profile), probe))],
        env=importable(
            local_environment(passed_environment(os.environ, profile.environment), profile)
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    # Modules and containers may exist on compute nodes only; the node check knows.
    level: Level = "warning" if profile.setup or container is not None else "error"
    fix = "install Themis in that environment, or correct `python` and `setup` of the profile"
    try:
        facts = json.loads(done.stdout.splitlines()[-1])
        version = tuple(facts["python"])
    except (IndexError, ValueError, TypeError, KeyError):
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-1:])
        yield Finding(level, "Python", f"`{python}` does not run here: {said}", fix)
        return
    yield from _judge_python(python, version, facts, level, fix)


def _judge_python(
    python: str, version: tuple[int, ...], facts: dict[str, Any], level: Level, fix: str
) -> Iterator[Finding]:
    spelled = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        message = f"`{python}` is Python {spelled}; Themis needs {oldest} or newer"
        yield Finding(level, "Python", message, fix)
        return
    if "error" in facts:
        message = f"`{python}` (Python {spelled}) does not import Themis here: {facts['error']}"
        yield Finding(level, "Python", message, fix)
        return
    yield Finding("ok", "Python", f"{spelled} imports Themis")
    yield from _versions_differ(facts["themis"], "of the profile's Python")
    if facts["missing"]:
        message = f"the engines need {', '.join(facts['missing'])}, which is not installed here"
        extra = "install the engine's extra, such as themis-hpc[hf], in that environment"
        yield Finding(level, "engine", message, extra)


def _versions_differ(theirs: object, where: str) -> Iterator[Finding]:
    ours = themis.__version__
    if theirs != ours:
        message = f"the Themis {where} is {theirs}, the one here {ours}"
        yield Finding("warning", "Python", message, "install the same version in both places")


# --- the bundle and where it goes ---------------------------------------------------------


def _bundle(profile: ClusterProfile, workspace: Workspace) -> Iterator[Finding]:
    bundle = workspace.bundle
    census = verify(bundle, quick=True)
    problems = [problem for problem in census.problems if problem.kind != "note"]
    for problem in problems:
        yield Finding("error", "bundle", str(problem), "see `themis verify`; copy the bundle again")
    if not problems:
        shards = len(bundle.shards)
        yield Finding("ok", "bundle", f"{census.items} items in {shards} shards, as planned")
    yield from model_findings(bundle, profile.models, elsewhere=profile.kind == "slurm")
    yield from _place(profile, workspace)


def _place(profile: ClusterProfile, workspace: Workspace) -> Iterator[Finding]:
    bundle = workspace.bundle
    if "%" in str(workspace.dispatch):
        yield Finding(
            "error", "path", f"{workspace.dispatch} holds a %, which Slurm replaces", "rename it"
        )
    existing = results_folder(bundle)
    yield from write_findings(existing)
    need = max(LEAST_FREE_BYTES, RESULTS_PER_ITEM_BYTE * bundle.manifest.totals.bytes)
    yield from space_findings(existing, need, FILES_PER_SHARD * len(bundle.shards))
    yield from clock_findings(existing, machine="this machine", margin_s=profile.signal_margin_s)
    kind = file_system_of(existing, Path("/proc/mounts").read_text())
    if profile.kind == "slurm" and kind in _LOCAL_FILE_SYSTEMS:
        message = f"{existing} is on {kind}, which other machines usually do not see"
        fix = "put the bundle on the cluster's shared file system, or run the node check"
        yield Finding("warning", _SHARED, message, fix)


def file_system_of(path: Path, mounts: str) -> str:
    r"""Give the type of the file system that holds a path.

    >>> file_system_of(Path("/scratch/me"), "a / ext4 rw 0 0\nb /scratch lustre rw 0 0\n")
    'lustre'

    Args:
        path: An absolute path.
        mounts: The text of /proc/mounts.
    """
    found = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        found[Path(place.replace("\\040", " "))] = kind
    resolved = path.resolve()
    return next((found[place] for place in (resolved, *resolved.parents) if place in found), "")
