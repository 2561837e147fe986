"""Which code was submitted: the commit or the release, and every package beside it.

It is that of the environment that submits, where by default the tasks run too. A profile with
its own `python` or a container brings other packages; what really ran is in the provenance of
every attempt.
"""

import functools
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import themis_slurm
from themis_bundles import sha256_hex
from themis_bundles.files import make_folder, publish_once
from themis_bundles.model import Frozen

DISTRIBUTION = "themis-hpc"


class CodeVersion(Frozen):
    """The code of a submission."""

    version: str
    """The release of Themis."""

    commit: str | None
    """The commit of the checkout, or of the repository that it was installed from."""

    dirty: bool | None
    """Whether the checkout differed from that commit; None when nobody can tell."""

    python: str
    """The version of Python."""

    packages: str
    """The SHA-256 of the list of installed packages, which is kept under `dispatch/code/`."""


@functools.cache
def code_version() -> CodeVersion:
    """Look at the code that runs now; once for a process."""
    commit, dirty = _checkout() or (_installed_from(), None)
    return CodeVersion(
        version=importlib.metadata.version(DISTRIBUTION),
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        packages=sha256_hex(package_list().encode()),
    )


@functools.cache
def package_list() -> str:
    """Give the installed packages, sorted, one `name==version` a line."""
    found = {
        (each.name.lower().replace("_", "-"), each.version)
        for each in importlib.metadata.distributions()
        if each.name
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found))


def keep_package_list(folder: Path) -> None:
    """Write the list of packages under its digest, if it is not there."""
    make_folder(folder)
    publish_once(folder / f"{code_version().packages}.txt", package_list().encode())


def _checkout() -> tuple[str, bool] | None:
    """Give the commit of the checkout that this package runs from; None when it is installed."""
    home = Path(themis_slurm.__file__).parent
    if "site-packages" in home.parts:
        return None
    commit = _git(home, "rev-parse", "HEAD")
    changes = _git(home, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else (commit, bool(changes))


def _git(home: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(home), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _installed_from() -> str | None:
    """Give the commit that pip installed from, which PEP 610 has it write down."""
    text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return commit if isinstance(commit, str) else None
