"""Disks that fail, that lose power, and that tell in which order they were used."""

import errno
import fcntl
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "mkdir", "write", "fsync", "link", "rename", "replace", "close")
FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def writable(fd: int) -> bool:
    """Whether a file may have lost a write that closing it would report."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def changes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call can change what is on the disk."""
    if name == "open":
        return bool(args[1] & os.O_CREAT)
    return name != "close" or writable(args[0])


class FaultyDisk:
    """Lets one call of one kind fail, and counts the calls.

    `short` lets every write take only a part of its bytes, as a system may. The error None is
    a short write too, of one call only; SIGKILL kills the process before the call.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.armed = False
        self.short = False
        self.fail_at: tuple[str, int] | None = None
        self.error: int | signal.Signals | None = errno.ENOSPC
        self.seen = dict.fromkeys(CALLS, 0)
        self._lock = threading.Lock()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self.armed or not changes(name, args):
                return real(*args, **options)
            with self._lock:
                self.seen[name] += 1
                hit = self.fail_at == (name, self.seen[name])
            if hit:
                return self._fail(name, real, args)
            if name == "write" and self.short:
                return real(args[0], bytes(args[1])[: max(1, len(args[1]) // 3)])
            return real(*args, **options)

        return call

    def _fail(self, name: str, real: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if isinstance(self.error, signal.Signals):
            os.kill(os.getpid(), self.error)
        if name == "write":
            # A full disk takes a part before it refuses.
            taken = real(args[0], bytes(args[1])[: (len(args[1]) + 1) // 2])
            if self.error is None:
                return taken
        elif name == "close":
            real(*args)
        assert self.error is not None
        raise OSError(self.error, os.strerror(self.error))

    @contextmanager
    def failing(self, name: str, number: int, error: int | signal.Signals | None) -> Iterator[None]:
        """Let one call fail."""
        self.fail_at, self.error = (name, number), error
        self.seen = dict.fromkeys(CALLS, 0)
        self.armed = True
        try:
            yield
        finally:
            self.armed = False

    def calls_of(self, run: Callable[[], object]) -> list[tuple[str, int]]:
        """Return every call that a run makes, by kind and number."""
        self.seen = dict.fromkeys(CALLS, 0)
        self.fail_at = None
        self.armed = True
        run()
        self.armed = False
        return [(name, n) for name, count in self.seen.items() for n in range(1, count + 1)]


class Order:
    """Notes in which order files are written, synced and named."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dirty: set[int] = set()
        self.synced: set[int] = set()
        self.at_names: list[tuple[str, set[int], set[int]]] = []
        real = {name: getattr(os, name) for name in ("write", "rename", "replace", "link")}

        def write(fd: int, data: bytes) -> int:
            self.dirty.add(os.fstat(fd).st_ino)
            self.synced.discard(os.fstat(fd).st_ino)
            return int(real["write"](fd, data))

        def fsync(fd: int) -> None:
            self.dirty.discard(os.fstat(fd).st_ino)
            self.synced.add(os.fstat(fd).st_ino)

        def named(name: str) -> Callable[..., None]:
            def call(source: Path, target: Path, **options: Any) -> None:
                self.at_names.append((Path(target).name, set(self.dirty), set(self.synced)))
                real[name](source, target, **options)
                self.synced.discard(Path(target).parent.stat().st_ino)

            return call

        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "fsync", fsync)
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, named(name))


Tree = dict[str, bytes | None]
"""Files with their content and folders with None, by path."""


@dataclass(frozen=True)
class Moment:
    """What a disk held at one call, in its caches and on its platters."""

    said: Any
    """What had been promised by then."""

    synced_content: dict[int, bytes]
    synced_names: dict[int, dict[str, int]]
    content: dict[int, bytes]
    names: dict[int, dict[str, int]]

    def tree(self, root: int, data: "DataLoss", *, all_names: Callable[[], bool]) -> Tree:
        """Return what a power loss leaves: of the names those that were synced, or all."""
        found: Tree = {}
        pending = [("", root)]
        while pending:
            path, folder = pending.pop()
            now = self.names.get(folder)
            chosen = now if now is not None and all_names() else self.synced_names.get(folder, {})
            for name, file in chosen.items():
                inner = f"{path}{name}"
                if file in self.names or file in self.synced_names:
                    found[inner] = None
                    pending.append((f"{inner}/", file))
                else:
                    synced = self.synced_content.get(file, b"")
                    found[inner] = data(synced, self.content.get(file, synced))
        return found


DataLoss = Callable[[bytes, bytes], bytes]


def _nothing(synced: bytes, _: bytes) -> bytes:
    return synced


def _half(synced: bytes, now: bytes) -> bytes:
    return now[: (len(synced) + len(now)) // 2]


def _zeros(synced: bytes, now: bytes) -> bytes:
    return synced.ljust(len(now), b"\0")


def _half_zeros(synced: bytes, now: bytes) -> bytes:
    return _half(synced, now).ljust(len(now), b"\0")


def _all(_: bytes, now: bytes) -> bytes:
    return now


LOSSES: tuple[DataLoss, ...] = (_nothing, _half, _zeros, _half_zeros, _all)
"""What is left of the bytes of a file that were not synced; all of them append."""


@dataclass
class LossyDisk:
    """Models a page cache below one folder: what was not synced may be lost with the power.

    The bytes of a file are safe when it was synced, and a name when its folder was. Whatever
    was not synced may still have reached the disk, in part, in any order.

    Attributes:
        root: The folder.
        said: Gives what the program has promised so far.
        moments: The disk before every call, and at the end.
    """

    root: Path
    said: Callable[[], Any]
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._known: dict[int, int] = {}
        self._synced_content: dict[int, bytes] = {}
        self._synced_names: dict[int, dict[str, int]] = {}

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Watch a block; what the folder holds before it is safe."""
        self._synced_content, self._synced_names = self._now()
        with monkeypatch.context() as patch:
            for name in (*CALLS, "unlink", "rmdir"):
                patch.setattr(os, name, self._wrap(name, getattr(os, name)))
            yield
            self._note()

    def trees(self, seed: int = 0) -> Iterator[tuple[Any, Tree]]:
        """Give every different thing that a power loss can leave, and what was promised."""
        draw = random.Random(seed)
        seen: set[Any] = set()

        def mixed(synced: bytes, now: bytes) -> bytes:
            return draw.choice(LOSSES)(synced, now)

        for moment in self.moments:
            for data in LOSSES:
                yield from self._once(seen, moment, data, lambda: False)
                yield from self._once(seen, moment, data, lambda: True)
            for _ in range(4):
                yield from self._once(seen, moment, mixed, lambda: draw.random() < 0.5)

    def _once(
        self, seen: set[Any], moment: Moment, data: DataLoss, names: Callable[[], bool]
    ) -> Iterator[tuple[Any, Tree]]:
        tree = moment.tree(self._known[self.root.stat().st_ino], data, all_names=names)
        key = (repr(moment.said), tuple(sorted(tree.items(), key=lambda entry: entry[0])))
        if key not in seen:
            seen.add(key)
            yield moment.said, tree

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with self._lock:
                if not changes(name, args) if name in CALLS else False:
                    return real(*args, **options)
                self._note()
                result = real(*args, **options)
                if name == "open":
                    # A number that the system uses again is another file.
                    self._known.pop(os.fstat(result).st_ino, None)
                elif name == "mkdir" and not options:
                    self._known.pop(Path(args[0]).stat().st_ino, None)
                elif name == "fsync":
                    self._sync(args[0])
                return result

        return call

    def _sync(self, fd: int) -> None:
        number = self._number(os.fstat(fd).st_ino)
        content, names = self._now()
        if number in names:
            self._synced_names[number] = names[number]
        elif number in content:
            self._synced_content[number] = content[number]

    def _note(self) -> None:
        content, names = self._now()
        self.moments.append(
            Moment(
                self.said(), dict(self._synced_content), dict(self._synced_names), content, names
            )
        )

    def _now(self) -> tuple[dict[int, bytes], dict[int, dict[str, int]]]:
        content: dict[int, bytes] = {}
        names: dict[int, dict[str, int]] = {}
        pending = [self.root]
        while pending:
            folder = pending.pop()
            inside = names.setdefault(self._number(folder.stat().st_ino), {})
            for entry in os.scandir(folder):
                number = inside[entry.name] = self._number(entry.inode())
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                else:
                    content[number] = Path(entry.path).read_bytes()
        return content, names

    def _number(self, inode: int) -> int:
        if inode not in self._known:
            self._known[inode] = next(self._numbers)
        return self._known[inode]


def lay_out(tree: Tree, folder: Path) -> None:
    """Write a tree into a new folder."""
    folder.mkdir()
    for path, data in sorted(tree.items()):
        if data is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(data)
