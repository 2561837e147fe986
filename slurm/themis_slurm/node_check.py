"""The checks that only make sense where tasks run; `doctor.examine_node` starts this as a job.

    python -m themis_slurm.node_check BUNDLE OPTIONS

Prints findings as one line of JSON.
"""

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from themis.errors import SpecValidationError
from themis_bundles import Bundle, BundleError
from themis_slurm.doctor import Finding, dump, model_findings, write_findings
from themis_slurm.options import TaskOptions
from themis_slurm.scheduler import job_end_time
from themis_slurm.task import NodeUnfitError, check_node

# What each engine imports.
_LIBRARIES = {"hf": ("torch", "transformers"), "vllm": ("vllm",)}


def check(bundle_path: Path, options: Path) -> Iterator[Finding]:
    """Look at everything that a task of this bundle needs from its node."""
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    yield Finding("ok", "node", f"{node}, Python {sys.version.split()[0]}")
    try:
        told = TaskOptions.load(options)
        bundle = Bundle.open(bundle_path, results=Path(told.results))
    except (SpecValidationError, BundleError) as error:
        fix = "the bundle and its results must be on a file system that nodes see"
        yield Finding("error", "shared file system", str(error), fix)
        return
    try:
        check_node(told, os.environ)
    except NodeUnfitError as error:
        yield Finding("error", "GPUs", str(error), "see gpus and gpu_type of the profile")
    else:
        yield Finding("ok", "GPUs", f"{told.gpus} asked for and visible")
    yield from write_findings(Path(told.dispatch))
    yield from model_findings(bundle, told.model_paths, elsewhere=False)
    for provider in sorted({group.provider for group in bundle.manifest.groups}):
        missing = [m for m in _LIBRARIES.get(provider, ()) if importlib.util.find_spec(m) is None]
        if missing:
            fix = f"pip install 'themis-hpc[{provider}]' in the environment of the nodes"
            yield Finding("error", "engine", f"{provider} needs {', '.join(missing)}", fix)
        else:
            yield Finding("ok", "engine", f"{provider}: its libraries are installed")
    if job_end_time(os.environ) is None:
        message = "a job cannot learn its end time; its walltime is counted from its start"
        yield Finding("warning", "time limit", message, "nothing, unless srun starts late")


def main() -> None:
    """Check, and print the findings."""
    findings = check(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(json.dumps(dump(findings)) + "\n")


if __name__ == "__main__":
    main()
