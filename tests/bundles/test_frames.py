"""Frames are found and inflated safely, whatever lies in the file."""

import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from themis_bundles.errors import FrameDamagedError
from themis_bundles.frames import (
    FRAME_BYTES,
    Frame,
    FrameReader,
    compressor,
    inflate,
    parse_head,
    seek_table,
)

LIMIT = 2**24
Require = Callable[[object, str], None]


def walk(data: bytes, max_raw: int = LIMIT) -> tuple[list[Frame], FrameReader]:
    reader = FrameReader(io.BytesIO(data).read, max_raw)
    return list(reader), reader


def lines_of(frame: Frame, max_raw: int = LIMIT, line_limit: int = LIMIT) -> list[bytes]:
    return inflate(frame, max_raw, line_limit)


def frame_of(*lines: bytes, level: int = 3) -> bytes:
    return compressor(level).compress(b"".join(line + b"\n" for line in lines))


CONTENTS = {
    "one byte": b"x",
    "text": b"some words " * 30,
    "runs": b"a" * 300_000,
    "many blocks": bytes(range(256)).replace(b"\n", b"-") * 3000,
    "noise": bytes((i * i * 31 + i // 7) % 251 or 1 for i in range(200_000)).replace(b"\n", b"-"),
}


@pytest.mark.parametrize("level", [-5, 1, 3, 9, 19])
@pytest.mark.parametrize("name", CONTENTS)
def test_the_walker_finds_the_end_of_every_kind_of_block(name: str, level: int) -> None:
    blob = frame_of(CONTENTS[name], level=level)

    frames, reader = walk(blob + blob)

    assert [len(frame.blob) for frame in frames] == [len(blob), len(blob)]
    assert reader.tail is None
    assert lines_of(frames[1]) == [CONTENTS[name]]


def test_the_head_agrees_with_the_library() -> None:
    for level in (1, 3, 12, 19):
        for size in (1, 200, 300, 70_000, 3_000_000):
            blob = compressor(level).compress(b"ab" * size)
            theirs = zstandard.get_frame_parameters(blob)

            ours = parse_head(blob[:18])

            assert ours is not None
            assert (ours.content, ours.checksum) == (theirs.content_size, theirs.has_checksum)
            assert ours.window == theirs.window_size


def test_a_file_cut_anywhere_gives_its_whole_frames_and_a_torn_tail() -> None:
    parts = [frame_of(b"alpha" * 9), frame_of(b"beta"), frame_of(b"gamma" * 20)]
    data = b"".join(parts)
    ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]

    for cut in range(len(data)):
        frames, reader = walk(data[:cut])

        assert len(frames) == sum(end <= cut for end in ends)
        if cut in (0, *ends):
            assert reader.tail is None
        else:
            assert reader.tail is not None
            assert reader.tail.torn
            assert reader.tail.offset == max((end for end in ends if end <= cut), default=0)


def test_no_flipped_bit_is_read_as_something_else() -> None:
    data = frame_of(b"alpha" * 9) + frame_of(b"beta", b"gamma")
    good = [lines_of(frame) for frame in walk(data)[0]]

    for place in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        frames, reader = walk(bytes(damaged))
        found = []
        refused = reader.tail is not None
        for frame in frames:
            try:
                found.append(lines_of(frame))
            except FrameDamagedError:
                refused = True

        assert all(lines in good for lines in found)
        # The frame header has one unused bit, and another tells where the window is given.
        assert refused or found == good


@pytest.mark.parametrize("zeros", [1, 3, 4, 500, 300_000])
def test_zeros_at_the_end_are_a_torn_tail(zeros: int) -> None:
    frames, reader = walk(frame_of(b"x") + bytes(zeros))

    assert len(frames) == 1
    assert reader.tail is not None
    assert reader.tail.torn


@pytest.mark.parametrize("junk", [b"j", b"junk", bytes(9) + b"1", b"\x28\xb5\x2f\xfe123"])
def test_anything_else_at_the_end_is_junk(junk: bytes) -> None:
    frames, reader = walk(frame_of(b"x") + junk)

    assert len(frames) == 1
    assert reader.tail is not None
    assert not reader.tail.torn


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    bomb = frame_of(b"0" * 2**26)

    frames, _ = walk(bomb)

    assert len(bomb) < 10_000
    with pytest.raises(FrameDamagedError, match="declares 67108865 bytes"):
        lines_of(frames[0])
    with pytest.raises(FrameDamagedError, match="more than 10000 times"):
        lines_of(frames[0], max_raw=2**27)


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    blob = bytearray(frame_of(b"x" * 300))
    flags = blob[4]
    assert flags >> 6 == 1
    blob[5:7] = struct.pack("<H", 100)

    frames, _ = walk(bytes(blob))

    with pytest.raises(FrameDamagedError, match="cannot be inflated"):
        lines_of(frames[0])


def test_a_frame_may_claim_a_terabyte_without_harm() -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0100]) + struct.pack("<Q", 2**40)
    blob = head + (1).to_bytes(3, "little") + bytes(4)

    frames, _ = walk(blob)

    with pytest.raises(FrameDamagedError, match="declares 1099511627776 bytes"):
        lines_of(frames[0])


def test_a_huge_window_is_refused() -> None:
    blob = b"\x28\xb5\x2f\xfd" + bytes([0b1000_0100, 0xA0]) + struct.pack("<I", 2)
    blob += ((2 << 3) | 1).to_bytes(3, "little") + b"x\n" + bytes(4)

    frames, _ = walk(blob)

    with pytest.raises(FrameDamagedError, match="window of 1073741824 bytes"):
        lines_of(frames[0])


@pytest.mark.parametrize(
    "options", [{"write_checksum": False}, {"write_checksum": True, "write_content_size": False}]
)
def test_a_frame_without_checksum_or_size_is_refused(options: dict[str, Any]) -> None:
    frames, _ = walk(zstandard.ZstdCompressor(**options).compress(b"x\n"))

    with pytest.raises(FrameDamagedError, match="content size or checksum missing"):
        lines_of(frames[0])


@pytest.mark.parametrize("content", [b"", b"no end", b"one\ntwo"])
def test_a_frame_that_does_not_end_with_a_line_is_refused(content: bytes) -> None:
    frames, _ = walk(compressor(3).compress(content))

    with pytest.raises(FrameDamagedError, match="whole line"):
        lines_of(frames[0])


def test_a_line_beyond_the_limit_is_refused() -> None:
    frames, _ = walk(frame_of(b"x" * 1025))

    with pytest.raises(FrameDamagedError, match="longer than 1024 bytes"):
        lines_of(frames[0], line_limit=1024)


def test_endless_blocks_end_at_the_limit() -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0100]) + struct.pack("<Q", 10)
    block = (128 * 1024 << 3).to_bytes(3, "little") + bytes(128 * 1024)
    taken = 0

    def read(count: int) -> bytes:
        nonlocal taken
        taken += count
        return (block * 2)[: max(count, len(block))] if taken > len(head) + count else head

    reader = FrameReader(read, FRAME_BYTES)

    assert list(reader) == []
    assert taken < 4 * FRAME_BYTES


def test_a_seek_table_is_skipped_by_other_readers(tmp_path: Path, require: Require) -> None:
    require(shutil.which("zstd"), "zstd is not installed")
    blob = frame_of(b"a") + frame_of(b"b")
    path = tmp_path / "x.zst"
    path.write_bytes(blob + seek_table([(len(blob) // 2, 2), (len(blob) // 2, 2)]))

    subprocess.run(["zstd", "-tq", path], check=True)
    out = subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout

    assert out == b"a\nb\n"
