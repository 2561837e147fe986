"""Compressed files made of independent zstd frames, and the safe way to read them.

Every frame carries its content size and a checksum, and holds whole lines. So a file can be
read from any frame, in parallel, and after a crash: whatever follows the last whole frame is
a torn tail. The walker finds the end of each frame from its block headers (RFC 8878) before
anything is inflated, because python-zstandard's streaming readers return short data for a
truncated file without an error, and its one-shot reader ignores an output limit when the
frame declares a size.
"""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import zstandard

from themis_bundles.errors import FrameDamagedError

FRAME_LINES = 512
"""How many lines a writer puts into a frame at most."""

FRAME_BYTES = 2**20
"""How many bytes a writer puts into a frame, unless a single line is longer."""

MAX_WINDOW = 8 * 2**20
"""The largest window a reader accepts: what RFC 8878 recommends decoders to support."""

MAX_RATIO = 10_000
"""How many times its own size a frame of more than 1 MiB may inflate to."""

_MAGIC = b"\x28\xb5\x2f\xfd"
_BLOCK_LIMIT = 128 * 1024
_SEEK_MAGIC = 0x184D2A5E
_SEEK_FOOTER = 0x8F92EAB1
_READ = 2**18
_local = threading.local()
_HEAD_LIMIT = 18


class Head(NamedTuple):
    """What a frame's first bytes declare."""

    length: int
    """The length of the frame header in bytes; for a skippable frame, the whole frame's."""

    content: int | None
    """The inflated size, or None when the frame does not say."""

    window: int
    """How much memory the decoder needs, in bytes."""

    checksum: bool
    """Whether the frame ends with a checksum of its content."""

    dictionary: bool
    """Whether the frame needs a dictionary."""

    skippable: bool
    """Whether this is a skippable frame, such as a seek table."""


class Frame(NamedTuple):
    """One whole frame as it lies in a file."""

    number: int
    """Its place among the frames of the file, from 0."""

    offset: int
    """Where it begins, in bytes."""

    head: Head
    """What it declares."""

    blob: bytes
    """Its bytes, still compressed."""


class Tail(NamedTuple):
    """What follows the last whole frame of a file."""

    offset: int
    """Where it begins, in bytes."""

    torn: bool
    """True for the beginning of a frame or zeros, as a crash leaves them; False for junk."""

    reason: str
    """What was found, in words."""


def compressor(level: int) -> zstandard.ZstdCompressor:
    """Return a compressor whose frames carry their size and a checksum."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)


def decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor; making one costs more than reading a small frame."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def seek_table(frames: Sequence[tuple[int, int]]) -> bytes:
    """Return the seekable-format table of frames, as a skippable frame.

    Args:
        frames: The compressed and inflated size of each frame, in order.
    """
    entries = b"".join(struct.pack("<II", *sizes) for sizes in frames)
    footer = struct.pack("<IBI", len(frames), 0, _SEEK_FOOTER)
    return struct.pack("<II", _SEEK_MAGIC, len(entries) + len(footer)) + entries + footer


def parse_head(data: bytes | bytearray) -> Head | None:
    """Read a frame header from the first 18 bytes of a frame, or fewer at the end of a file.

    Returns:
        The header, or None when more bytes are needed.

    Raises:
        FrameDamagedError: When the bytes do not begin a zstd frame.
    """
    if not _begins_frame(data):
        raise FrameDamagedError("frame-magic", "no zstd frame begins here")
    if len(data) < 5:  # noqa: PLR2004
        return None
    if data[:4] != _MAGIC:
        if len(data) < 8:  # noqa: PLR2004
            return None
        size = int.from_bytes(data[4:8], "little")
        return Head(8 + size, 0, 0, checksum=True, dictionary=False, skippable=True)
    flags = data[4]
    single, checksum = bool(flags & 0x20), bool(flags & 0x04)
    if flags & 0x08:
        raise FrameDamagedError("frame-header", "a reserved bit of the frame header is set")
    dictionary = (0, 1, 2, 4)[flags & 3]
    size = (int(single), 2, 4, 8)[flags >> 6]
    at = 5 + (not single)
    length = at + dictionary + size
    if len(data) < length:
        return None
    content = int.from_bytes(data[length - size : length], "little") if size else None
    if content is not None and size == 2:  # noqa: PLR2004
        content += 256
    if single:
        window = content or 0
    else:
        base = 1 << (10 + (data[5] >> 3))
        window = base + (base >> 3) * (data[5] & 7)
    return Head(length, content, window, checksum, bool(dictionary), skippable=False)


class FrameReader:
    """Walks the frames of a file from its first byte, holding one frame at a time.

    Iterate to get every whole frame; afterwards `tail` says what follows the last of them,
    or None when the file ended with a frame. Nothing is inflated.

    Args:
        read: Gives at most the asked number of bytes, none at the end of the file.
        max_raw: The largest content that a frame may have, in bytes.
    """

    def __init__(self, read: Callable[[int], bytes], max_raw: int) -> None:
        self.tail: Tail | None = None
        self._read = read
        # zstd's own bound on the growth of incompressible content, and some for headers.
        self._max_blob = max_raw + (max_raw >> 7) + 1024
        self._buffer = bytearray()

    def __iter__(self) -> Iterator[Frame]:
        index = offset = 0
        while True:
            self._fill(_HEAD_LIMIT)
            if not self._buffer:
                return
            try:
                head = parse_head(self._buffer[:_HEAD_LIMIT])
                size = self._size(head) if head else None
            except FrameDamagedError as error:
                self.tail = self._junk(offset, error.reason)
                return
            if head is None or size is None:
                self.tail = Tail(offset, torn=True, reason="the file ends inside a frame")
                return
            blob = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield Frame(index, offset, head, blob)
            index, offset = index + 1, offset + size

    def _fill(self, count: int) -> bool:
        while len(self._buffer) < count:
            chunk = self._read(max(_READ, count - len(self._buffer)))
            if not chunk:
                return False
            self._buffer += chunk
        return True

    def _size(self, head: Head) -> int | None:
        """Return the size of the frame at the start of the buffer, None at the file's end."""
        at, last = head.length, head.skippable
        if head.skippable and at > self._max_blob:
            raise FrameDamagedError("frame-limit", f"a skippable frame of {at} bytes")
        while not last:
            if at > self._max_blob:
                raise FrameDamagedError("frame-limit", f"a frame of more than {at} bytes")
            if not self._fill(at + 3):
                return None
            block = int.from_bytes(self._buffer[at : at + 3], "little")
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            if kind == 3 or size > _BLOCK_LIMIT:  # noqa: PLR2004
                raise FrameDamagedError("frame-block", "a block header is damaged")
            at += 3 + (1 if kind == 1 else size)
        if head.checksum and not head.skippable:
            at += 4
        return at if self._fill(at) else None

    def _junk(self, offset: int, reason: str) -> Tail:
        """Tell zeros, which a power loss leaves in a file, from anything else."""
        while not any(self._buffer):
            self._buffer.clear()
            if not self._fill(1):
                return Tail(offset, torn=True, reason="the file ends with zeros")
        return Tail(offset, torn=False, reason=reason)


def refusal(blob: bytes, raw: int) -> str | None:
    """Say why readers would refuse a frame that was just made, or None when they would not.

    Only a frame that holds one line of more than 1 MiB can be refused.
    """
    head = parse_head(blob[:_HEAD_LIMIT])
    if head is None or head.window > MAX_WINDOW:
        return f"a line of {raw} bytes is too long for one frame"
    if raw > max(FRAME_BYTES, MAX_RATIO * len(blob)):
        return (
            f"a line of {raw} bytes repeats itself so much that readers would take it for a "
            f"decompression bomb (more than {MAX_RATIO} times its compressed size)"
        )
    return None


def inflate(
    frame: Frame, max_raw: int, line_limit: int, max_ratio: int | None = None
) -> list[bytes]:
    """Return the lines of a frame, without their line ends.

    Args:
        frame: The frame, as the walker found it.
        max_raw: The largest content that it may declare, checked before inflating.
        line_limit: The longest line, in bytes.
        max_ratio: How many times its own size it may inflate to, where the reader is stricter
            than the format.

    Raises:
        FrameDamagedError: When the frame breaks a limit, fails its checksum or does not hold
            whole lines.
    """
    data = inflate_whole(frame, max_raw, max_ratio)
    lines = data.split(b"\n")
    lines.pop()
    if len(data) > line_limit and any(len(line) > line_limit for line in lines):
        raise FrameDamagedError("line-limit", f"a line is longer than {line_limit} bytes")
    return lines


def inflate_whole(frame: Frame, max_raw: int, max_ratio: int | None = None) -> bytes:
    """Return the content of a frame, which ends with a whole line.

    Args:
        frame: The frame, as the walker found it.
        max_raw: The largest content that it may declare, checked before inflating.
        max_ratio: How many times its own size it may inflate to, where the reader is stricter
            than the format.

    Raises:
        FrameDamagedError: When the frame breaks a limit, fails its checksum or does not hold
            whole lines.
    """
    head = frame.head
    if head.content is None or not head.checksum or head.dictionary:
        raise FrameDamagedError("frame-header", "content size or checksum missing, or a dictionary")
    if head.content > max_raw:
        raise FrameDamagedError(
            "frame-limit", f"the frame declares {head.content} bytes, the limit is {max_raw}"
        )
    if head.window > MAX_WINDOW:
        raise FrameDamagedError(
            "frame-limit", f"the frame needs a window of {head.window} bytes, above {MAX_WINDOW}"
        )
    allowed = max(FRAME_BYTES, MAX_RATIO * len(frame.blob))
    if max_ratio is not None:
        allowed = min(allowed, max_ratio * len(frame.blob))
    if head.content > allowed:
        raise FrameDamagedError(
            "frame-limit",
            f"{len(frame.blob)} bytes inflate to {head.content}, more than "
            f"{max_ratio or MAX_RATIO} times",
        )
    try:
        data = decompressor().decompress(frame.blob, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameDamagedError("frame-checksum", f"cannot be inflated: {error}") from None
    if len(data) != head.content or not data.endswith(b"\n"):
        raise FrameDamagedError("frame-lines", "the frame does not end with a whole line")
    return data


def _begins_frame(data: bytes | bytearray) -> bool:
    start = bytes(data[:4])
    if _MAGIC.startswith(start):
        return True
    # Skippable frames: 0x184D2A50 to 0x184D2A5F, little endian.
    return start[0] & 0xF0 == 0x50 and b"\x2a\x4d\x18".startswith(start[1:])  # noqa: PLR2004
