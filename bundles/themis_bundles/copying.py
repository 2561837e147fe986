"""Copy a bundle and its results to a private folder, so that what was proved is what is used.

Whoever can write to a bundle could change a file after it was proved and before it is read
again. A copy that nobody else can write has no such moment. It is faithful: whatever readers
refuse in the bundle they refuse in the copy, because links stay links (to nowhere), pipes and
devices become pipes, and files that no reader opens keep their names and lose their content.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from themis_bundles.files import create, open_inside, write_errors

_READ = ("data", "data/items", "signatures")
_DEEPEST = 4
"""Folders below the results: `.signed`, a set, and its signatures."""

_CHUNK = 2**20


class _Found(NamedTuple):
    """Something in the folder of a bundle."""

    root: Path
    """The folder that `inside` is relative to: the bundle's, or that of its results."""

    inside: str
    target: str
    """Where it goes, relative to the copy."""

    mode: int
    size: int
    read: bool
    """Whether readers look into it."""


def size_of(bundle: Path, results: Path | None = None) -> int:
    """Return how many bytes of a bundle and its results readers look at.

    Args:
        bundle: The bundle's folder.
        results: Where its results are, when not inside it.
    """
    return sum(found.size for found in _walk(bundle, results) if found.read)


def copy_bundle(bundle: Path, target: Path, *, results: Path | None = None) -> None:
    """Copy a bundle with its results; the results lie inside the copy.

    Args:
        bundle: The bundle's folder.
        target: The folder of the copy; must exist and be empty.
        results: Where the results are, when not inside the bundle.

    Raises:
        BundleWriteError: When the file system refuses, for one because the disk is full.
        OSError: When a file cannot be read.
    """
    for found in _walk(bundle, results):
        place = target / found.target
        with write_errors(place):
            if stat.S_ISDIR(found.mode):
                place.mkdir()
            elif stat.S_ISLNK(found.mode):
                place.symlink_to("/nonexistent")
            elif not stat.S_ISREG(found.mode):
                os.mkfifo(place)
            elif not found.read:
                os.close(create(place))
        if found.read and stat.S_ISREG(found.mode):
            _copy_file(found, place)


def _copy_file(found: _Found, place: Path) -> None:
    """Copy a file up to the length that it has now; workers may be adding to it."""
    source = open_inside(found.root, found.inside)
    try:
        left = os.fstat(source).st_size
        with write_errors(place), place.open("xb", buffering=0) as copy:
            while left and (chunk := os.read(source, min(left, _CHUNK))):
                copy.write(chunk)
                left -= len(chunk)
    finally:
        os.close(source)


def _walk(bundle: Path, results: Path | None) -> Iterator[_Found]:
    """Give everything that the copy holds, folders before what lies in them."""
    for found in _entries(bundle, "", ""):
        if found.target != "results":
            yield found
            if found.target in _READ and stat.S_ISDIR(found.mode):
                yield from _below(found)
    root = bundle / "results" if results is None else results
    # Whoever names the folder of the results vouches for it, also when it is a link.
    if root.is_dir():
        yield _Found(root, "", "results", stat.S_IFDIR, 0, read=False)
        yield from _tree(root, "", "results/", _DEEPEST)


def _below(folder: _Found) -> Iterator[_Found]:
    for found in _entries(folder.root, f"{folder.inside}/", f"{folder.target}/"):
        yield found
        if found.target in _READ and stat.S_ISDIR(found.mode):
            yield from _below(found)


def _tree(root: Path, inside: str, target: str, depth: int) -> Iterator[_Found]:
    for found in _entries(root, inside, target):
        yield found
        if depth and stat.S_ISDIR(found.mode):
            yield from _tree(root, f"{found.inside}/", f"{found.target}/", depth - 1)


def _entries(root: Path, inside: str, target: str) -> Iterator[_Found]:
    with os.scandir(root / inside) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name, seen = entry.name, entry.stat(follow_symlinks=False)
        # Beside the payload readers look at the tag files only; hidden files are temporary.
        wanted = name.endswith(".txt") if not target else not name.startswith(".")
        read = wanted and stat.S_ISREG(seen.st_mode)
        size = seen.st_size if read else 0
        yield _Found(root, f"{inside}{name}", f"{target}{name}", seen.st_mode, size, read=read)
