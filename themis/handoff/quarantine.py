"""Set refused results aside, with the reasons, where a person can look at them."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from themis.errors import ImportRefusedError
from themis_bundles import Bundle, Problem, canonical_json

REASONS = "problems.jsonl"
"""The file that says what is wrong, one problem in each line."""


def set_aside(bundle: Bundle, path: Path, problems: Sequence[Problem], quarantine: Path) -> Path:
    """Copy the result files that problems were found in, and write the reasons beside them.

    The bundle itself stays as it is: its damaged records are refused again by every reader.

    Args:
        bundle: The bundle, or a copy of it.
        path: What the user calls it.
        problems: What was found.
        quarantine: The directory; each bundle gets a folder of its own in it.

    Returns:
        The folder.

    Raises:
        ImportRefusedError: A problem lies in the bundle's own items, so nothing of it is proved.
    """
    unproved = [problem for problem in problems if not problem.path.startswith("results/")]
    if unproved:
        raise ImportRefusedError(
            f"{path}: the bundle itself is damaged, so no result of it can be proved:\n  "
            + "\n  ".join(map(str, unproved[:20]))
        )
    folder = quarantine / bundle.digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted({problem.path for problem in problems}):
        source = bundle.results_dir / name.removeprefix("results/")
        if source.is_file() and not source.is_symlink():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target, follow_symlinks=False)
    reasons = b"".join(canonical_json(problem.to_dict()) + b"\n" for problem in problems)
    (folder / REASONS).write_bytes(reasons)
    return folder
