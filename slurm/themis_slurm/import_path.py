"""Letting a process on another machine import the code that started it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_PACKAGES = ("themis", "themis_bundles", "themis_slurm")


def importable(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment whose PYTHONPATH finds the packages that run here.

    Installed packages need nothing. A checkout that is on `sys.path` for another reason does,
    and relative entries would mean something else in another directory.
    """
    given = environment.get("PYTHONPATH", "")
    entries = [str(Path(entry).absolute()) for entry in given.split(os.pathsep) if entry]
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is None or module.__file__ is None:
            continue
        home = Path(module.__file__).parent.parent
        if home.name != "site-packages" and str(home) not in entries:
            entries.append(str(home))
    return {**environment, "PYTHONPATH": os.pathsep.join(entries)} if entries else {**environment}
