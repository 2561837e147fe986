"""Ways to damage or forge a bundle, its results, signatures and packs.

The hypothesis suite and the atheris target draw from the same list: each mutation takes a
`Chooser` that makes its choices, so both can drive it, shrink it and repeat it.
"""

import hashlib
import os
import random
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
import zstandard

from themis_bundles import Bundle, BundleInvalidError, bag, sha256_hex
from themis_bundles.bagcheck import payload_digests
from themis_bundles.frames import compressor, seek_table

T = TypeVar("T")

PLACEHOLDER = b'"\\u0000here\\u0000"'

HOSTILE: tuple[bytes, ...] = (
    *(b"null", b"true", b"0", b"-1", b"-0", b"1.0", b"1.5", b'""', b"[]", b"{}", b"[[]]"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e22", b"5e-324"),
    *(b"%d" % 2**53, b"%d" % 2**63, b"%d" % 2**70, b"1" + b"0" * 5000, b"0" * 20 + b"1"),
    *(rb'"\ud800"', rb'"\udc00\ud800"', b'"\xed\xa0\x80"', rb'"\u0000"', b'"\x00"', b'"\xff"'),
    *(b'{"a":1,"a":2}', b'{"":{"":{}}}', b'\xef\xbb\xbf"bom"', b' "space"', b"'single'"),
    *(b'"../../../../etc/passwd"', b'"/etc/passwd"', b'"items/../../x"', b'"C:\\\\x"'),
    b'"' + b"0" * 64 + b'"',
    b'"' + b"x" * 100_000 + b'"',
    b"[" * 70 + b"]" * 70,
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
)
"""Values in JSON, or almost, that readers have tripped over."""


class Chooser(Protocol):
    """What makes the choices: hypothesis, atheris, or chance."""

    def number(self, low: int, high: int) -> int:
        """Return a number between two, both included."""

    def junk(self, most: int) -> bytes:
        """Return at least one byte, and at most so many."""


class Chance:
    """Chooses by chance, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def number(self, low: int, high: int) -> int:
        return self._draw.randint(low, high)

    def junk(self, most: int) -> bytes:
        return self._draw.randbytes(self._draw.randint(1, most))


Mutation = Callable[[Path, Chooser], list[str]]
"""Changes a bundle; returns the files it touched, none when there was nothing to change."""


def pick(choose: Chooser, options: Sequence[T]) -> T:
    """Choose one of some things.

    Raises:
        IndexError: When there are none.
    """
    if not options:
        raise IndexError("there is nothing to choose from")
    return options[choose.number(0, len(options) - 1)]


def files_of(folder: Path, *patterns: str) -> list[str]:
    """Return the plain files of a bundle that match, in order."""
    found = {
        str(path.relative_to(folder))
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file() and not path.is_symlink()
    }
    return sorted(found)


# Bytes -------------------------------------------------------------------------------------


def edited(data: bytes, choose: Chooser) -> bytes:
    """Return bytes that were flipped, cut, dropped, repeated, moved, inserted or made zero."""
    a, b = sorted((choose.number(0, len(data)), choose.number(0, len(data))))
    bit = min(a, max(len(data) - 1, 0))
    kinds: list[Callable[[], bytes]] = [
        lambda: data[:bit] + bytes([data[bit] ^ (1 << choose.number(0, 7))]) + data[bit + 1 :],
        lambda: data[:a],
        lambda: data[:a] + data[b:],
        lambda: data[:b] + data[a:b] + data[b:],
        lambda: data[:a] + data[b:] + data[a:b],
        lambda: data[:a] + choose.junk(30) + data[a:],
        lambda: data[:a] + bytes(b - a) + data[b:],
        lambda: b"\xef\xbb\xbf" + data,
    ]
    return pick(choose, kinds if data else kinds[1:])()


def edit_bytes(folder: Path, choose: Chooser) -> list[str]:
    """Edit any file."""
    name = pick(choose, files_of(folder, "**/*"))
    path = folder / name
    path.write_bytes(edited(path.read_bytes(), choose))
    return [name]


# JSON --------------------------------------------------------------------------------------


def spoiled(data: bytes, choose: Chooser) -> bytes:
    """Return a JSON text in which a hostile value stands for one value, anywhere."""
    value = orjson.loads(data)
    holder = [value]
    parent: Any = holder
    key: Any = 0
    while True:
        inner = parent[key]
        keys: list[Any] = list(inner) if isinstance(inner, dict) else []
        if isinstance(inner, list):
            keys = list(range(len(inner)))
        if not keys or choose.number(0, 3) == 0:
            break
        parent, key = inner, pick(choose, keys)
    parent[key] = "\0here\0"
    hostile = pick(choose, HOSTILE)
    return orjson.dumps(holder[0], option=orjson.OPT_SORT_KEYS).replace(PLACEHOLDER, hostile)


def spoil_json(folder: Path, choose: Chooser) -> list[str]:
    """Put a hostile value into a manifest, receipt or `done.json`."""
    name = pick(choose, files_of(folder, "data/manifest.json", "results/*/*.json"))
    try:
        data = spoiled((folder / name).read_bytes(), choose)
    except ValueError:
        return []
    (folder / name).write_bytes(data + b"\n")
    return [name]


def move_paths(folder: Path, choose: Chooser) -> list[str]:
    """Let the manifest name a file elsewhere, and seal it."""
    path = folder / "data/manifest.json"
    if not _plain(folder):
        return []
    outside = pick(choose, ["../../x", "/etc/passwd", "items/./00000.jsonl.zst", "items//x", ""])
    try:
        manifest = orjson.loads(path.read_bytes())
        entry = pick(choose, [manifest["components"], *manifest["groups"][0]["shards"]])
        entry["path"] = outside
    except (ValueError, KeyError, TypeError, IndexError):
        return []
    path.write_bytes(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS) + b"\n")
    return ["data/manifest.json"]


# Lines and frames --------------------------------------------------------------------------


def lines_of(path: Path) -> list[list[bytes]]:
    """Return the lines of every frame of a file that is still sound."""
    data = path.read_bytes()
    found = []
    while data[:4] == zstandard.FRAME_HEADER:
        one = zstandard.ZstdDecompressor().decompressobj()
        found.append(one.decompress(data).splitlines())
        data = one.unused_data
    return found


def framed(frames: Sequence[Sequence[bytes]], *, table: bool) -> bytes:
    """Return frames of lines, with a seek table when it is a payload file."""
    contents = [b"".join(line + b"\n" for line in lines) for lines in frames]
    blobs = [compressor(3).compress(content) for content in contents]
    sizes = [(len(blob), len(content)) for blob, content in zip(blobs, contents, strict=True)]
    return b"".join(blobs) + (seek_table(sizes) if table else b"")


def change_lines(folder: Path, choose: Chooser) -> list[str]:
    """Swap, repeat, drop, spoil, or take over lines, and frame them anew."""
    names = files_of(folder, "data/**/*.zst", "results/*/*.zst")
    name, other = pick(choose, names), pick(choose, names)
    try:
        frames = lines_of(folder / name)
        foreign = [line for lines in lines_of(folder / other) for line in lines]
        flat = [(f, n) for f, lines in enumerate(frames) for n in range(len(lines))]
        (f, n), (g, m) = pick(choose, flat), pick(choose, flat)
        line = frames[f][n]
        kinds: list[Callable[[], object]] = [
            lambda: frames[f].__setitem__(n, frames[g][m]),
            lambda: (frames[f].__setitem__(n, frames[g][m]), frames[g].__setitem__(m, line)),
            lambda: frames[f].insert(n, line),
            lambda: frames[f].pop(n),
            lambda: frames[f].__setitem__(n, spoiled(line, choose)),
            lambda: frames[f].__setitem__(n, edited(line, choose).replace(b"\n", b" ")),
            lambda: frames[f].insert(n, pick(choose, foreign)),
            lambda: frames[f].__setitem__(n, pick(choose, HOSTILE)),
            lambda: frames[f].__setitem__(n, _mixed(line, pick(choose, foreign), choose)),
            frames.reverse,
        ]
        pick(choose, kinds)()
    except (ValueError, IndexError, KeyError, TypeError, zstandard.ZstdError):
        return []
    (folder / name).write_bytes(framed(frames, table=name.startswith("data/")))
    return [name]


def _mixed(line: bytes, other: bytes, choose: Chooser) -> bytes:
    """Return a line with one field of another one."""
    one, two = orjson.loads(line), orjson.loads(other)
    key = pick(choose, sorted(one.keys() & two.keys()))
    return orjson.dumps({**one, key: two[key]}, option=orjson.OPT_SORT_KEYS)


def _huge_window(_: Chooser) -> bytes:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1000_0100, 0xA0]) + struct.pack("<I", 2)
    return head + ((2 << 3) | 1).to_bytes(3, "little") + b"x\n" + bytes(4)


def _terabyte(_: Chooser) -> bytes:
    head = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0100]) + struct.pack("<Q", 2**40)
    return head + (1).to_bytes(3, "little") + bytes(4)


FRAMES: tuple[Callable[[Chooser], bytes], ...] = (
    _huge_window,
    _terabyte,
    lambda _: compressor(3).compress(bytes(2**24)),
    lambda _: compressor(3).compress(b"") * 2000,
    lambda _: compressor(3).compress(b"\n" * 2**16),
    lambda _: zstandard.ZstdCompressor().compress(b"{}\n"),
    lambda choose: compressor(3).compress(choose.junk(40)),
    lambda choose: struct.pack("<II", 0x184D2A50, 2 ** choose.number(0, 31)),
    lambda _: seek_table([(1, 1)]),
)


def add_frames(folder: Path, choose: Chooser) -> list[str]:
    """Put a hostile frame before or behind the frames of a file."""
    name = pick(choose, files_of(folder, "data/**/*.zst", "results/*/*.zst"))
    data, frame = (folder / name).read_bytes(), pick(choose, FRAMES)(choose)
    (folder / name).write_bytes(frame + data if choose.number(0, 1) else data + frame)
    return [name]


# Names -------------------------------------------------------------------------------------


def change_names(folder: Path, choose: Chooser) -> list[str]:
    """Remove, swap, copy, link, or replace files, or add some."""
    names = files_of(folder, "**/*")
    name, other = pick(choose, names), pick(choose, names)
    path = folder / name
    if not path.is_file() or not (folder / other).is_file():
        return []

    def linked(target: str) -> None:
        path.unlink()
        path.symlink_to(target)

    def replaced(make: Callable[[], None]) -> None:
        path.unlink()
        make()

    def swapped() -> None:
        one, two = path.read_bytes(), (folder / other).read_bytes()
        path.write_bytes(two)
        (folder / other).write_bytes(one)

    kinds: list[Callable[[], object]] = [
        path.unlink,
        swapped,
        lambda: shutil.copy(folder / other, path) if other != name else None,
        lambda: linked(path.name),
        lambda: linked("/dev/zero"),
        lambda: linked("/etc/passwd"),
        lambda: linked(os.path.relpath(folder / other, path.parent)),
        lambda: replaced(path.mkdir),
        lambda: replaced(lambda: os.mkfifo(path)),
        lambda: path.rename(path.with_name(path.name.upper())),
        lambda: path.with_name(f"{path.stem}\u0301{path.suffix}").write_bytes(b"x"),
    ]
    pick(choose, kinds)()
    return [name, other]


def drop_results(folder: Path, choose: Chooser) -> list[str]:
    """Remove the receipts of a shard, or everything about it; that is no damage."""
    shards = sorted(path.name for path in folder.glob("results/*") if path.is_dir())
    if not shards:
        return []
    name = f"results/{pick(choose, shards)}"
    shutil.rmtree(folder / name)
    return [name]


# Seals -------------------------------------------------------------------------------------


def _plain(folder: Path) -> bool:
    """Tell whether all is a file or a folder; reading a pipe or a device would never end."""
    paths = list(folder.rglob("*"))
    return all(not p.is_symlink() and (p.is_file() or p.is_dir()) for p in paths)


def seal(folder: Path) -> bool:
    """Compute every digest of the payload anew, as an attacker would; tell whether it worked."""
    path = folder / "data/manifest.json"
    try:
        if not _plain(folder):
            return False
        manifest = orjson.loads(path.read_bytes())
        entries = [s for group in manifest["groups"] for s in group["shards"]]
        for entry in (manifest["components"], *entries):
            data = (folder / "data" / entry["path"]).read_bytes()
            entry.update(sha256=sha256_hex(data), bytes=len(data))
        for entry in entries:
            lines = [line for part in lines_of(folder / "data" / entry["path"]) for line in part]
            ids = b"".join(hashlib.sha256(line).digest() for line in lines)
            (folder / f"data/items/{entry['index']:05d}.ids").write_bytes(ids)
            entry.update(items_digest=sha256_hex(ids))
        manifest["totals"]["bytes"] = sum(entry["bytes"] for entry in entries)
        path.write_bytes(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS) + b"\n")
        bundle = Bundle.open(folder)
        payload = payload_digests(bundle)
        octets = sum((folder / name).stat().st_size for name in payload)
        info = bag.bag_info(
            date=bundle.manifest.date, identifier=bundle.digest, files=len(payload), octets=octets
        )
        for name, data in bag.tag_files(payload, info).items():
            (folder / name).write_bytes(data)
    except (ValueError, KeyError, TypeError, OSError, zstandard.ZstdError, BundleInvalidError):
        return False
    return True


MUTATIONS: dict[str, Mutation] = {
    "bytes": edit_bytes,
    "json": spoil_json,
    "paths": move_paths,
    "lines": change_lines,
    "frames": add_frames,
    "names": change_names,
    "drop": drop_results,
}


# Packs -------------------------------------------------------------------------------------


def changed_pack(data: bytes, choose: Chooser) -> bytes:
    """Return a pack with edited bytes, an edited tar header, list or order of members."""
    kinds = [edited, _other_header, _other_list, _other_order]
    return pick(choose, kinds)(data, choose)


def _members(data: bytes) -> list[tuple[int, int]]:
    """Return where each member of a tar file begins and ends."""
    found, at = [], 0
    while data[at : at + 1].strip(b"\0"):
        size = int(data[at + 124 : at + 135], 8)
        end = at + 512 + -(-size // 512) * 512
        found.append((at, end))
        at = end
    return found


def _other_header(data: bytes, choose: Chooser) -> bytes:
    at, _ = pick(choose, _members(data))
    block = bytearray(data[at : at + 512])
    hostile = pick(choose, [b"../x", b"/etc/x", b"data/\xcc\x81", b"BAGIT.TXT", b"x" * 100])
    kinds: list[Callable[[], object]] = [
        lambda: block.__setitem__(slice(0, 100), hostile.ljust(100, b"\0")),
        lambda: block.__setitem__(slice(156, 157), pick(choose, [b"1", b"2", b"3", b"5", b"x"])),
        lambda: block.__setitem__(slice(157, 257), b"/etc/passwd".ljust(100, b"\0")),
        lambda: block.__setitem__(slice(124, 135), b"%011o" % choose.number(0, 8**11 - 1)),
        lambda: block.__setitem__(slice(345, 500), b"..".ljust(155, b"\0")),
    ]
    pick(choose, kinds)()
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + 512 :]


def _other_list(data: bytes, choose: Chooser) -> bytes:
    at, end = pick(choose, _members(data))
    size = int(data[at + 124 : at + 135], 8)
    try:
        text = spoiled(data[at + 512 : at + 512 + size], choose) + b"\n"
    except ValueError:
        return data
    block = bytearray(data[at : at + 512])
    block[124:135] = b"%011o" % len(text)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + text + bytes(-len(text) % 512) + data[end:]


def _other_order(data: bytes, choose: Chooser) -> bytes:
    places = _members(data)
    members = [data[at:end] for at, end in places]
    one, two = choose.number(0, len(members) - 1), choose.number(0, len(members) - 1)
    kinds: list[Callable[[], object]] = [
        lambda: members.insert(one, members.pop(two)),
        lambda: members.insert(one, members[two]),
        lambda: members.pop(one),
    ]
    pick(choose, kinds)()
    return b"".join(members) + data[places[-1][1] :]
