"""Preflight: what would go wrong after hours in the queue, found in seconds before it.

`examine` looks from the login node; `examine_node` runs the same kind of checks as a short job
on a compute node, where GPUs, models and the shared file system really have to be. Neither
changes anything but a probe file that it removes.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from themis.errors import EnvironmentNotReadyError
from themis.providers.models import check_model_directory, resolve_model
from themis_bundles import Bundle, BundleError, verify
from themis_slurm import scheduler
from themis_slurm.errors import SchedulerError
from themis_slurm.import_path import importable
from themis_slurm.launch import python_command, setup_lines, srun_flags
from themis_slurm.local_pool import assign_gpus
from themis_slurm.options import write_options
from themis_slurm.profile import ClusterProfile, Container
from themis_slurm.resources import flags, resource_options
from themis_slurm.sbatch_array import passed_environment
from themis_slurm.workspace import Workspace, open_for_profile

Level = Literal["ok", "warning", "error"]

# Engines without model files.
WITHOUT_FILES = frozenset({"demo"})
# Result records are of the size of their items; three times that leaves room for retries.
RESULTS_PER_ITEM_BYTE = 3
LEAST_FREE_BYTES = 1 << 30
# Two dispatch files and three result files, and as many again for retries.
FILES_PER_SHARD = 10
NODE_CHECK_MINUTES = 5
_LOCAL_FILE_SYSTEMS = frozenset({"tmpfs", "overlay", "ext4", "ext3", "xfs", "btrfs", "zfs", "9p"})
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `warning` (it may be meant so), or `error` (shards would fail).
        check: What was looked at, in a word or two.
        message: What was found.
        fix: What to do about it; empty when nothing.
    """

    level: Level
    check: str
    message: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """Give the facts as JSON."""
        return asdict(self)


def examine(profile: ClusterProfile, bundle: Path | None = None) -> tuple[Finding, ...]:
    """Look at everything that can be seen from here.

    Args:
        profile: The cluster profile.
        bundle: A bundle to be dispatched with it; None checks the cluster alone.
    """
    findings: list[Finding] = []
    findings.extend(_slurm(profile) if profile.kind == "slurm" else _machine(profile))
    findings.extend(_python(profile))
    if bundle is not None:
        findings.extend(_bundle(profile, bundle))
    return tuple(findings)


def examine_node(profile: ClusterProfile, bundle: Path) -> tuple[Finding, ...]:
    """Run the checks of a task's surroundings as a job, with the profile's resources.

    Waits for the job, at most as long as the queue makes it wait.

    Args:
        profile: The cluster profile, of kind `slurm`.
        bundle: The bundle to be dispatched.
    """
    workspace = open_for_profile(bundle, profile)
    options = write_options(workspace, profile)
    python = python_command(workspace, profile)
    check = shlex.join(["-m", "themis_slurm.node_check", str(workspace.bundle.path), str(options)])
    script = "\n".join((*setup_lines(profile), f"exec {python} {check}"))
    command = [
        "srun",
        *srun_flags(workspace, profile),
        *flags(resource_options(profile)),
        "--job-name=themis-doctor",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, f"--time={NODE_CHECK_MINUTES}", "bash", "-c", script],
        env=importable(passed_environment(os.environ, profile.environment)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return tuple(Finding(**row) for row in json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        said = (done.stderr or done.stdout).strip()
        fix = "see the setup lines and `python` of the profile"
        return (Finding("error", "node check", f"it ended without an answer: {said}", fix),)


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
        yield Finding("warning", "accounting", "sacct does not work on this cluster", fix)
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


def _python(profile: ClusterProfile) -> Iterator[Finding]:
    """Start the profile's Python as a task would, setup lines included."""
    if profile.container is not None:
        yield _image(profile.container)
        return
    python = profile.python or shlex.quote(sys.executable)
    probe = "import themis_slurm.task, sys; print(sys.version.split()[0])"
    script = "\n".join(("set -e", *setup_lines(profile), f"{python} -c {shlex.quote(probe)}"))
    done = subprocess.run(
        ["bash", "-c", script],
        env=importable(passed_environment(os.environ, profile.environment)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        yield Finding("ok", "Python", f"{done.stdout.split()[-1]} imports Themis")
        return
    said = (done.stderr or done.stdout).strip().splitlines()[-1:]
    yield Finding(
        # Modules may exist on compute nodes only; the node check knows.
        "warning" if profile.setup else "error",
        "Python",
        f"`{python}` does not import Themis here: {' '.join(said)}",
        "install Themis in that environment, or correct `python` and `setup` of the profile",
    )


def _image(container: Container) -> Finding:
    """Look at the image; whether Python starts in it, only a node can tell."""
    if "/" in container.image and ":" not in container.image and not Path(container.image).exists():
        fix = "correct `container.image` of the profile"
        return Finding("error", "container", f"there is no {container.image}", fix)
    return Finding("ok", "container", f"{container.image}; --node starts Python in it")


# --- the bundle and where it goes ---------------------------------------------------------


def _bundle(profile: ClusterProfile, path: Path) -> Iterator[Finding]:
    try:
        workspace = open_for_profile(path, profile)
        census = verify(workspace.bundle, quick=True)
    except BundleError as error:
        yield Finding("error", "bundle", str(error), "copy the bundle again, or export it again")
        return
    bundle = workspace.bundle
    problems = [problem for problem in census.problems if problem.kind != "note"]
    for problem in problems:
        yield Finding("error", "bundle", str(problem), "see `themis verify`")
    if not problems:
        shards = len(bundle.shards)
        yield Finding("ok", "bundle", f"{census.items} items in {shards} shards, as planned")
    yield from model_findings(bundle, profile.models, elsewhere=profile.kind == "slurm")
    yield from _place(profile, workspace)


def model_findings(
    bundle: Bundle, model_paths: Mapping[str, str], *, elsewhere: bool
) -> Iterator[Finding]:
    """Look at the directory of every model that a bundle needs.

    The files' digests are cached where tasks look them up too, so the first look at a large
    model takes minutes, and saves them on the nodes.

    Args:
        bundle: The bundle.
        model_paths: Model id to directory.
        elsewhere: Whether a directory that is missing here may exist where tasks run.
    """
    if bundle.manifest.stage != "generation":
        return
    wanted = {g.model_id for g in bundle.manifest.groups if g.provider not in WITHOUT_FILES}
    for model in sorted(wanted):
        try:
            found = check_model_directory(resolve_model(model, model_paths=model_paths))
        except EnvironmentNotReadyError as error:
            level: Level = "warning" if elsewhere and model in model_paths else "error"
            yield Finding(level, "model", str(error), "name its directory under [models]")
            continue
        for problem in found.problems:
            yield Finding("error", "model", f"{found.path}: {problem}", "copy the model again")
        if not found.problems:
            yield Finding("ok", "model", f"{model}: {found.path}, digest {found.digest[:12]}")


def _place(profile: ClusterProfile, workspace: Workspace) -> Iterator[Finding]:
    results, bundle = workspace.bundle.results_dir, workspace.bundle
    if "%" in str(workspace.dispatch):
        yield Finding(
            "error", "path", f"{workspace.dispatch} holds a %, which Slurm replaces", "rename it"
        )
    existing = next(folder for folder in (results, *results.parents) if folder.is_dir())
    yield from write_findings(existing)
    usage = os.statvfs(existing)
    free = usage.f_bavail * usage.f_frsize
    need = max(LEAST_FREE_BYTES, RESULTS_PER_ITEM_BYTE * bundle.manifest.totals.bytes)
    if free < need:
        message = f"{free >> 20:,} MiB free at {existing}; results may need {need >> 20:,} MiB"
        yield Finding("error", "disk", message, "free some, or set `results` of the profile")
    else:
        yield Finding("ok", "disk", f"{free >> 30:,} GiB free at {existing}")
    files = FILES_PER_SHARD * len(bundle.shards)
    if 0 < usage.f_favail < files:
        message = f"{usage.f_favail:,} files may still be made at {existing}; {files:,} are needed"
        yield Finding("error", "inodes", message, "use larger shards, or another file system")
    kind = file_system_of(existing, Path("/proc/mounts").read_text())
    if profile.kind == "slurm" and kind in _LOCAL_FILE_SYSTEMS:
        message = f"{existing} is on {kind}, which other machines usually do not see"
        fix = "put the bundle on the cluster's shared file system, or run the node check"
        yield Finding("warning", "shared file system", message, fix)


def write_findings(folder: Path) -> Iterator[Finding]:
    """Create, link and remove a file, as publishing a result does."""
    probe = folder / f".themis-probe-{secrets.token_hex(8)}"
    linked = probe.with_suffix(".linked")
    try:
        probe.write_bytes(b"probe")
        linked.hardlink_to(probe)
    except OSError as error:
        if not probe.exists():
            fix = "give yourself the right to write there, or set `results` of the profile"
            yield Finding("error", "results", f"{folder}: {error.strerror}", fix)
        else:
            message = f"{folder} has no hard links ({error.strerror}); results use a slower way"
            yield Finding("warning", "results", message)
    else:
        yield Finding("ok", "results", f"{folder} can be written")
    finally:
        linked.unlink(missing_ok=True)
        probe.unlink(missing_ok=True)


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


def worst(findings: Iterable[Finding]) -> Level:
    """Give the worst level among findings."""
    levels: tuple[Level, ...] = ("ok", "warning", "error")
    return max((finding.level for finding in findings), key=levels.index, default="ok")


def dump(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Give findings as JSON."""
    return [finding.to_dict() for finding in findings]
