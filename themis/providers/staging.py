"""Stage a model: copy what engines read of it to where nodes without a network find it.

A staged model is one flat directory and a manifest with the size and SHA-256 of every file. It
comes from a directory, from the hub's cache layout, or from the hub at a pinned commit; it
appears under its name only when it is whole and checked.

Pickled weights run code when they are loaded. They are left out where safetensors exist, and a
model that has nothing else is refused unless one insists.
"""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from themis.errors import EnvironmentNotReadyError, SpecValidationError, missing_extra
from themis.providers.models import MANIFEST, PICKLED, ModelDirectory, check_model_directory
from themis_bundles import canonical_json, sha256_hex

FORMAT = "themis-model"
VERSION = 1

PATTERNS = (
    *("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.md"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
"""What engines read, and what says under which terms."""

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_READ_SIZE = 4 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files to stage.

    Attributes:
        path: Their directory.
        source: Where they come from, for the manifest: a hub id or a directory's name.
        revision: The commit, if it is known.
    """

    path: Path
    source: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Staged:
    """A staged model.

    Attributes:
        model: Its directory, as checked.
        bytes: The size of its files.
        left_out: The files of the source that were not taken.
        existed: Whether it had been staged before.
    """

    model: ModelDirectory
    bytes: int
    left_out: tuple[str, ...]
    existed: bool = False


def stage_model(
    source: str,
    destination: Path,
    *,
    revision: str | None = None,
    link: bool = False,
    pickled: bool = False,
) -> Staged:
    """Copy a model to a new directory.

    Args:
        source: A directory, a directory of the hub's cache (`models--org--name`), or a hub id,
            which may name its commit (`org/name@commit`).
        destination: Where it goes; new, empty, or holding the same model already.
        revision: The commit of a hub id, or of a cache that holds several.
        link: Make hard links instead of copies, where both lie on one file system.
        pickled: Take pickled weights when there are no others.

    Raises:
        SpecValidationError: The source is not exact, or the destination is taken.
        EnvironmentNotReadyError: The source is not there, or not a whole model.
    """
    snapshot = find_snapshot(source, revision)
    files, left_out = _chosen(snapshot.path, pickled=pickled)
    former = _former(destination)
    if former is None and destination.is_dir() and any(destination.iterdir()):
        raise SpecValidationError(f"{destination} holds something else; name a new directory.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".staging-") as folder:
        place = Path(folder) / "model"
        place.mkdir()
        listed = {
            file.name: {"sha256": _take(file, place / file.name, link=link), "size": _size(file)}
            for file in files
        }
        if former is not None:
            return _unchanged(destination, former, listed, left_out)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "source": snapshot.source,
            "revision": snapshot.revision,
            "files": listed,
            "digest": sha256_hex(canonical_json({n: e["sha256"] for n, e in listed.items()})),
        }
        (place / MANIFEST).write_bytes(canonical_json(manifest) + b"\n")
        problems = [each for each in check_model_directory(place).problems if not pickled]
        if problems:
            raise EnvironmentNotReadyError(
                f"{source} is not a model that can be used: {'; '.join(problems)}.",
                details={"problems": problems},
            )
        place.chmod(DIRECTORY_MODE)
        (place / MANIFEST).chmod(FILE_MODE)
        if destination.is_dir():
            destination.rmdir()
        place.rename(destination)
    model = check_model_directory(destination)
    return Staged(model, sum(_size(destination / name) for name in listed), left_out)


def find_snapshot(source: str, revision: str | None) -> Snapshot:
    """Return the directory that a source means, downloading it if it is on the hub only.

    Raises:
        SpecValidationError: It is not exact: a hub id without a commit, or one of several.
        EnvironmentNotReadyError: It is not there, and cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "snapshots").is_dir():
            return _cached(path, revision)
        if revision is not None:
            raise SpecValidationError(f"{source} is a directory; a revision means nothing there.")
        return Snapshot(path, path.resolve().name)
    name, _, commit = source.partition("@")
    commit = commit or revision or ""
    if not _HUB_ID.fullmatch(name):
        raise EnvironmentNotReadyError(f"{source}: no such directory, and no id of the hub.")
    if not _COMMIT.fullmatch(commit):
        raise SpecValidationError(
            f"{name} needs its exact commit (40 hexadecimal digits), because branches move: "
            f"write {name}@COMMIT or give --revision."
        )
    return Snapshot(_fetched(name, commit), name, commit)


def _cached(path: Path, revision: str | None) -> Snapshot:
    """Return a snapshot of one model of the hub's cache layout."""
    name = path.name.removeprefix("models--").replace("--", "/")
    present = sorted(entry.name for entry in (path / "snapshots").iterdir() if entry.is_dir())
    wanted = revision
    if wanted is not None and (path / "refs" / wanted).is_file():
        wanted = (path / "refs" / wanted).read_text().strip()
    if wanted is None and len(present) == 1:
        wanted = present[0]
    if wanted not in present:
        raise SpecValidationError(
            f"{path} has the revisions {', '.join(present) or 'none'}; name one with --revision."
        )
    return Snapshot(path / "snapshots" / wanted, name, wanted)


def _fetched(name: str, commit: str) -> Path:
    """Return the snapshot of a hub model: from the cache, else from the hub."""
    try:
        import huggingface_hub
    except ImportError:
        raise missing_extra("huggingface_hub", "hf") from None
    patterns = [*PATTERNS, *(f"*{suffix}" for suffix in sorted(PICKLED))]
    try:
        for offline in (True, False):
            try:
                found = huggingface_hub.snapshot_download(
                    name, revision=commit, local_files_only=offline, allow_patterns=patterns
                )
                return Path(str(found))
            except FileNotFoundError:  # what the library says of an empty cache
                if not offline:
                    raise
    except Exception as error:  # the hub's client raises many kinds
        raise EnvironmentNotReadyError(
            f"{name} at {commit[:12]} is not in the cache, and the hub cannot be reached: "
            f"{type(error).__name__}: {error}"
        ) from error
    raise AssertionError("the loop returns or raises")  # pragma: no cover


def _chosen(path: Path, *, pickled: bool) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files to take, and the names of those to leave."""
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    taken = [file for file in files if file.is_file() and _wanted(file)]
    weights = [file for file in files if file.is_file() and file.suffix in PICKLED]
    if weights and not any(file.suffix == ".safetensors" for file in taken):
        if not pickled:
            raise EnvironmentNotReadyError(
                f"{path} has pickled weights only ({weights[0].name}), which run code when they "
                "are loaded. Convert them to safetensors, or insist with --keep-pickled."
            )
        taken += weights
    kept = {file.name for file in taken}
    return taken, tuple(file.name for file in files if file.name not in kept)


def _wanted(file: Path) -> bool:
    # The index of pickled weights is of no use without them.
    if file.name == MANIFEST or file.name.endswith(".bin.index.json"):
        return False
    return any(file.match(pattern) for pattern in PATTERNS)


def _take(file: Path, place: Path, *, link: bool) -> str:
    """Copy or link a file and return its digest.

    Raises:
        EnvironmentNotReadyError: It is not what its name in the hub's cache says.
    """
    real = file.resolve()
    sha256 = hashlib.sha256()
    # The cache names small files by git's digest, of which the size is a part.
    git = hashlib.sha1(b"blob %d\0" % _size(real), usedforsecurity=False)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(real.open("rb"))
        copy = None if link else stack.enter_context(place.open("wb"))
        while block := stream.read(_READ_SIZE):
            sha256.update(block)
            git.update(block)
            if copy is not None:
                copy.write(block)
    if link:
        _link(real, place)
    else:
        place.chmod(FILE_MODE)
    digest = sha256.hexdigest()
    named = {_SHA256: digest, _COMMIT: git.hexdigest()}
    for pattern, found in named.items():
        if real != file.absolute() and pattern.fullmatch(real.name) and real.name != found:
            raise EnvironmentNotReadyError(
                f"{file.name} is damaged in the cache: {real} has another digest than its name."
            )
    return digest


def _link(real: Path, place: Path) -> None:
    try:
        os.link(real, place)
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"There can be no hard link to {real}: {error.strerror}. Copy instead."
        ) from error


def _size(file: Path) -> int:
    return file.stat().st_size


def _former(destination: Path) -> dict[str, str] | None:
    """Return the digests in the manifest of a directory that was staged before."""
    try:
        body = json.loads((destination / MANIFEST).read_bytes())
        return {name: str(entry["sha256"]) for name, entry in body["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _unchanged(
    destination: Path,
    former: dict[str, str],
    listed: dict[str, dict[str, object]],
    left_out: tuple[str, ...],
) -> Staged:
    if former != {name: entry["sha256"] for name, entry in listed.items()}:
        raise SpecValidationError(f"{destination} holds another model; name a new directory.")
    model = check_model_directory(destination)
    if model.problems:
        raise EnvironmentNotReadyError(
            f"{destination} was staged before and is damaged: {'; '.join(model.problems)}. "
            "Remove it and stage again.",
            details={"problems": list(model.problems)},
        )
    return Staged(model, sum(_size(destination / name) for name in listed), left_out, existed=True)
