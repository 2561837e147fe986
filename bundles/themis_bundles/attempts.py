"""The files of attempts: how they are named, found and read.

Every attempt at a shard writes its own file, so two workers never share one. Reading walks
the whole frames, drops a torn tail, and goes on after a damaged frame: what a crash or a bad
disk left intact is never lost.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from themis_bundles.canonical import parse_canonical
from themis_bundles.errors import CanonicalError, FrameDamagedError
from themis_bundles.files import opened_inside
from themis_bundles.frames import FRAME_BYTES, Frame, FrameReader, Tail, inflate
from themis_bundles.problems import Problem
from themis_bundles.reader import Bundle
from themis_bundles.receipts import Footer, Header

SUFFIX = ".jsonl.zst"
DONE = "done.json"

MAX_PROBLEMS = 1000
"""How many problems of one file are listed; of a file with more, the rest is not read."""

_NAME = re.compile(r"(?!done\Z)[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")


class AttemptFrame(NamedTuple):
    """One intact frame of records."""

    number: int
    """Its place among the frames of the file, from 0."""

    offset: int
    """Where it begins, in bytes."""

    size: int
    """Its compressed length, in bytes."""

    lines: list[bytes]
    """Its lines, without their ends."""


def new_attempt_id() -> str:
    """Return a name for a new attempt that no other attempt has.

    Under Slurm `<array>_<index>.r<restart>.<random>`, elsewhere `local-<pid>.<random>`.
    """
    random = secrets.token_hex(4)
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    if job is None:
        return f"local-{os.getpid()}.{random}"
    index = os.environ.get("SLURM_ARRAY_TASK_ID", "0")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{job}_{index}.r{restart}.{random}"


def is_attempt_id(name: str) -> bool:
    """Tell whether a name may be an attempt's: plain ASCII, not hidden, not `done`."""
    return _NAME.fullmatch(name) is not None


def shard_folder(bundle: Bundle, shard_index: int) -> Path:
    """Return where the results of a shard lie."""
    return bundle.results_dir / f"{shard_index:05d}"


def attempts_of(bundle: Bundle, shard_index: int) -> tuple[str, ...]:
    """Return the attempts at a shard that have a result file, by name."""
    names = list_folder(shard_folder(bundle, shard_index))
    stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
    return tuple(stem for stem in stems if is_attempt_id(stem))


def list_folder(folder: Path) -> list[str]:
    """Return the names in a folder in order; none when it does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(entry.name for entry in folder.iterdir())
    return []


class AttemptReader:
    """Reads one result file; iterate to get its intact frames of records.

    A file that answers another bundle or shard gives no frames: its records are only counted,
    in `foreign`.

    Args:
        bundle: The bundle.
        shard_index: The shard.
        attempt: The attempt.
        marks: Lengths at which the digest of the file so far is wanted.
        salvage: Also give the frames of a file whose header is damaged; what their records
            answer must then be proved by their item digests alone.

    Attributes:
        name: The file, relative to the bundle, for messages.
        header: The header, once it was read; None when it is missing or damaged.
        footer: The footer, when the attempt ended in order.
        tail: What follows the last whole frame.
        bytes: The length of the whole frames.
        records: How many record lines were given.
        foreign: How many lines belong to another bundle or shard.
        problems: What is wrong, in the order of the file.
        given_up: Whether the rest of the file is not read, because too much is wrong with it.
        digests: The digest of the file at each of the `marks` that is a frame's end.
    """

    def __init__(
        self,
        bundle: Bundle,
        shard_index: int,
        attempt: str,
        marks: frozenset[int] = frozenset(),
        *,
        salvage: bool = False,
    ) -> None:
        self.attempt = attempt
        self.name = f"results/{shard_index:05d}/{attempt}{SUFFIX}"
        self.header: Header | None = None
        self.footer: Footer | None = None
        self.tail: Tail | None = None
        self.bytes = 0
        self.records = 0
        self.foreign = 0
        self.problems: list[Problem] = []
        self.given_up = False
        self.digests: dict[int, str] = {}
        self._bundle = bundle
        self._shard = shard_index
        self._marks = marks
        self._salvage = salvage
        self._zeroed: int | None = None
        self._hash = hashlib.sha256()
        limit = bundle.manifest.line_limit
        self._limit, self._max_raw = limit, max(FRAME_BYTES, limit + 1)

    @property
    def sha256(self) -> str:
        """The digest of the whole frames that were read so far."""
        return self._hash.hexdigest()

    @property
    def path(self) -> str:
        """The file, relative to the results folder."""
        return self.name.removeprefix("results/")

    def __iter__(self) -> Iterator[AttemptFrame]:
        try:
            with opened_inside(self._bundle.results_dir, self.path) as fd:
                reader = FrameReader(lambda count: os.read(fd, count), self._max_raw)
                for frame in reader:
                    found = None if self.given_up else self._frame(frame)
                    if found is not None:
                        self.records += len(found.lines)
                        yield found
                    self._hash.update(frame.blob)
                    self.bytes += len(frame.blob)
                    if self.bytes in self._marks:
                        self.digests[self.bytes] = self.sha256
                self.tail = reader.tail
        except OSError as error:
            self._problem(None, None, "unreadable", error.strerror or str(error))
            return
        self._judge_tail()

    def give_up(self, reason: str) -> None:
        """Read no more of the file than its digest; a small file must not cost hours."""
        if not self.given_up:
            self.given_up = True
            self._zeroed = None
            message = f"{reason}; the rest of the file is not read"
            self.problems.append(Problem(self.name, None, None, "flood", message))

    def reread(self, offset: int, size: int) -> list[bytes]:
        """Return the lines of a frame that was given before.

        Raises:
            FrameDamagedError: When the file changed meanwhile.
        """
        with opened_inside(self._bundle.results_dir, self.path) as fd:
            os.lseek(fd, offset, os.SEEK_SET)
            reader = FrameReader(lambda count: os.read(fd, min(count, size)), self._max_raw)
            frame = next(iter(reader), None)
        if frame is None or len(frame.blob) != size:
            raise FrameDamagedError("changed", "the file changed while it was read")
        return self._inflate(frame)

    def _inflate(self, frame: Frame) -> list[bytes]:
        return inflate(frame, self._max_raw, self._limit, self._bundle.max_ratio)

    def _frame(self, frame: Frame) -> AttemptFrame | None:
        """Take a frame in; return it when it holds records."""
        self._zeroed = None
        if self.footer is not None:
            self._problem(frame.number, None, "after-footer", "frames follow the footer")
            return None
        try:
            lines = self._inflate(frame)
        except FrameDamagedError as error:
            # A power loss can leave a file its length and its last pages zeros.
            self._zeroed = frame.offset if frame.blob.endswith(bytes(4)) else None
            self._problem(frame.number, None, error.rule, error.reason)
            return None
        if frame.number == 0:
            self._read_header(lines)
            return None
        if self.foreign or (self.header is None and not self._salvage):
            self.foreign += len(lines)
            return None
        if len(lines) == 1 and lines[0].startswith(b'{"footer":'):
            self._read_footer(frame, lines[0])
            return None
        return AttemptFrame(frame.number, frame.offset, len(frame.blob), lines)

    def _read_header(self, lines: list[bytes]) -> None:
        try:
            header = Header.model_validate(_only("header", lines))
        except (CanonicalError, ValidationError) as error:
            self._problem(0, 1, "header", first_reason(error))
            return
        self.header = header
        expected: Mapping[str, object] = {
            "bundle": self._bundle.digest,
            "plan": self._bundle.manifest.plan_digest,
            "shard": self._shard,
            "attempt": self.attempt,
        }
        for field, wanted in expected.items():
            found = getattr(header, field)
            if found != wanted:
                self.foreign = 1
                message = f"the header says {field} {found}, not {wanted}"
                self.problems.append(Problem(self.name, 0, 1, "foreign", message, "foreign"))
                return

    def _read_footer(self, frame: Frame, line: bytes) -> None:
        try:
            footer = Footer.model_validate(_only("footer", [line]))
        except (CanonicalError, ValidationError) as error:
            self._problem(frame.number, 1, "footer", first_reason(error))
            return
        self.footer = footer
        found = (self.records, self.bytes, self.sha256)
        if found != (footer.records, footer.bytes, footer.sha256):
            self._problem(
                frame.number,
                1,
                "footer",
                f"it closes {footer.records} records in {footer.bytes} bytes; there are "
                f"{found[0]} in {found[1]}, or other ones",
            )

    def _judge_tail(self) -> None:
        tail = self.tail
        if self._zeroed is not None and (tail is None or tail.torn):
            self.problems.pop()
            tail = Tail(self._zeroed, torn=True, reason="the last frame ends with zeros")
        if tail is None:
            if self.header is None and not self.problems:
                message = "the file ends before its header; the attempt was killed at its start"
                self.problems.append(Problem(self.name, 0, None, "torn-tail", message, "note"))
            return
        if tail.torn and self.footer is None:
            message = f"dropped from byte {tail.offset}: {tail.reason}, as a crash leaves it"
            self.problems.append(Problem(self.name, None, None, "torn-tail", message, "note"))
        else:
            self._problem(None, None, "junk", f"from byte {tail.offset}: {tail.reason}")

    def _problem(self, frame: int | None, line: int | None, rule: str, message: str) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            # Whatever is intact is salvaged, however much is not; nobody lists the rest.
            if not self._salvage:
                self.give_up(f"{MAX_PROBLEMS} problems")
            return
        self.problems.append(Problem(self.name, frame, line, rule, message))


def _only(key: str, lines: list[bytes]) -> object:
    """Return the value of a frame that holds one object with one key, and nothing else."""
    value = parse_canonical(lines[0])
    if len(lines) != 1 or type(value) is not dict or list(value) != [key]:
        raise CanonicalError(f"the frame is not a {key} line alone")
    return value[key]


def first_reason(error: Exception) -> str:
    """Return what a parser or a model said first, as one line."""
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    return str(error)
