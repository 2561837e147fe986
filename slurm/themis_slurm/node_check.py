"""The checks that only make sense where tasks run; `doctor.examine_node` starts this as a job.

    python -m themis_slurm.node_check BUNDLE OPTIONS DIGEST

It prepares the process as a task does, and prints one line of JSON: the findings, and what the
login node compares with itself.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import themis
from themis.errors import EnvironmentNotReadyError, SpecValidationError
from themis.providers.models import cache_directory
from themis.providers.registry import needs_model_files
from themis_bundles import Bundle, BundleError, verify
from themis_slurm.checks import (
    clock_findings,
    gpu_findings,
    is_writable,
    library_findings,
    model_findings,
    providers_of,
    space_findings,
    write_findings,
)
from themis_slurm.findings import Finding, dump
from themis_slurm.network import OFFLINE, switch_hubs_off
from themis_slurm.node_folders import node_folders
from themis_slurm.options import TaskOptions
from themis_slurm.preflight import LEAST_BYTES, network_findings, results_folder
from themis_slurm.scheduler import job_end_time

# Compiled kernels of one model take some hundred MiB.
SCRATCH_BYTES = 256 << 20
SCRATCH_FILES = 1000


def check(bundle_path: Path, options: Path, digest: str) -> Iterator[Finding]:
    """Look at everything that a task of this bundle needs from its node.

    Args:
        bundle_path: The bundle's directory.
        options: The options file of its tasks.
        digest: The bundle's digest as the login node sees it.
    """
    yield Finding("ok", "node", f"{node_name()}, Python {sys.version.split()[0]}")
    try:
        told = TaskOptions.load(options)
        bundle = Bundle.open(bundle_path, results=Path(told.results))
    except (SpecValidationError, BundleError) as error:
        fix = "the bundle and its results must be on a file system that nodes see"
        yield Finding("error", "shared file system", str(error), fix)
        return
    yield from _bundle(bundle, digest)
    yield from gpu_findings(told.gpus, os.environ)
    yield from _folders(told)
    if any(needs_model_files(provider) for provider in providers_of(bundle)):
        yield from _digest_cache(cache_directory())
    yield from write_findings(Path(told.dispatch))
    yield from space_findings(results_folder(bundle), LEAST_BYTES, len(bundle.shards))
    yield from clock_findings(
        Path(told.dispatch), machine=node_name(), margin_s=float(told.margin_s)
    )
    yield from library_findings(providers_of(bundle))
    yield from model_findings(bundle, told.model_paths, elsewhere=False)
    if job_end_time(os.environ) is None:
        message = "a job cannot learn its end time; its walltime is counted from its start"
        yield Finding("warning", "time limit", message, "nothing, unless srun starts late")
    yield from _hub(told, providers_of(bundle))


def node_name() -> str:
    """Give Slurm's name of this node, or the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _bundle(bundle: Bundle, digest: str) -> Iterator[Finding]:
    fix = "copy the bundle again, and verify it"
    if bundle.digest != digest:
        message = f"this node sees another bundle ({bundle.digest[:12]}, not {digest[:12]})"
        yield Finding("error", "bundle", message, fix)
        return
    problems = [p for p in verify(bundle, quick=True).problems if p.kind != "note"]
    for problem in problems:
        yield Finding("error", "bundle", str(problem), fix)
    if not problems:
        yield Finding("ok", "shared file system", "the node sees the bundle of the login node")


def _folders(told: TaskOptions) -> Iterator[Finding]:
    """Make a task's own directories, write to them as engines do, and take them away again."""
    environment = dict(os.environ)
    try:
        with node_folders(environment, told.scratch, told.caches):
            caches = {Path(environment[name]) for name in _FOLDERS if name in environment}
            refused = [found for folder in sorted(caches) for found in _cache(folder)]
            yield from refused
            if not refused:
                scratch = Path(environment["TMPDIR"])
                found = space_findings(scratch, SCRATCH_BYTES, SCRATCH_FILES)
                yield from (Finding(f.level, "caches", f.message, f.fix) for f in found)
    except (EnvironmentNotReadyError, OSError) as error:
        fix = "see `caches` and `scratch` of the profile"
        yield Finding("error", "caches", str(error), fix)


_FOLDERS = ("TMPDIR", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def _cache(folder: Path) -> Iterator[Finding]:
    fix = "unset the variable that names it, or see `caches` of the profile"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield Finding("error", "caches", f"{folder}: {error.strerror}", fix)
        return
    for finding in write_findings(folder):
        if finding.level == "error":
            yield Finding("error", "caches", finding.message, fix)


def _digest_cache(folder: Path) -> Iterator[Finding]:
    """Look whether digests of models can be kept; without them each task reads all weights."""
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    if not is_writable(existing):
        message = f"{folder} cannot be written: each task computes its model's digest again"
        yield Finding("warning", "caches", message, "set THEMIS_CACHE to a directory that can be")


def _hub(told: TaskOptions, providers: tuple[str, ...]) -> Iterator[Finding]:
    """Switch hubs and network off as a task does; last, since nothing is reached afterwards."""
    for name in OFFLINE:
        if os.environ.get(name, "1").lower() in {"0", "false", "no", "off"}:
            message = (
                f"{name}={os.environ[name]} is set on the node; tasks set it to 1 all the same"
            )
            yield Finding("warning", "hub access", message, "take it out of the setup lines")
    switch_hubs_off(os.environ)
    yield from network_findings(providers, forbidden=told.forbid_network)


def main() -> None:
    """Check, and print what was found."""
    bundle, options, digest = sys.argv[1:]
    answer = {
        "findings": dump(check(Path(bundle), Path(options), digest)),
        "node": node_name(),
        "themis": themis.__version__,
        "clock": time.time(),
    }
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
