"""Prove the bag around a bundle: its tag files, and that exactly the listed payload is there.

The bundle's manifest and the bag's list must name the same files with the same digests. So a
file that only one of them knows is found, and so is a file that none of them knows.
"""

from collections.abc import Iterator, Mapping

from themis_bundles import bag
from themis_bundles.attempts import list_folder
from themis_bundles.canonical import sha256_hex
from themis_bundles.files import read_inside
from themis_bundles.problems import Problem
from themis_bundles.reader import Bundle

_LIMIT = 2**28
_BESIDE = {
    *bag.TAG_FILES,
    bag.TAG_MANIFEST,
    "data",
    "results",
    "signatures",
    "dispatch",
    "pack.json",
}
_FOLDERS = ("data", "data/items")


def bag_problems(bundle: Bundle) -> Iterator[Problem]:
    """Say what is wrong with the bag; the payload's bytes are read elsewhere."""
    content: dict[str, bytes] = {}
    for name in (*bag.TAG_FILES, bag.TAG_MANIFEST):
        try:
            content[name] = read_inside(bundle.path, name, _LIMIT)
        except OSError as error:
            yield _problem(name, "unreadable", error.strerror or str(error))
    payload = payload_digests(bundle)
    yield from _tag_problems(content)
    yield from _list_problems(content.get(bag.PAYLOAD_MANIFEST, b""), payload)
    yield from _name_problems(bundle, payload)
    octets = sum(_size(bundle, path) for path in payload)
    expected = {
        "bagit.txt": bag.DECLARATION,
        "bag-info.txt": bag.bag_info(
            date=bundle.manifest.date, identifier=bundle.digest, files=len(payload), octets=octets
        ),
    }
    for name, data in expected.items():
        if name in content and content[name] != data:
            yield _problem(name, "bag", "it does not describe this payload")


def payload_digests(bundle: Bundle) -> dict[str, str]:
    """Return the digest of every payload file, as the bundle's manifest gives it."""
    entry = bundle.manifest.components
    expected = {"data/manifest.json": bundle.digest, f"data/{entry.path}": entry.sha256}
    for group in bundle.manifest.groups:
        for shard in group.shards:
            expected[f"data/{shard.path}"] = shard.sha256
            expected[f"data/{shard.ids_path}"] = shard.items_digest
    return expected


def _tag_problems(content: Mapping[str, bytes]) -> Iterator[Problem]:
    if bag.TAG_MANIFEST not in content:
        return
    try:
        tags = bag.parse_checksum_lines(content[bag.TAG_MANIFEST])
    except bag.BagError as error:
        yield _problem(bag.TAG_MANIFEST, "bag", str(error))
        return
    if tuple(tags) != bag.TAG_FILES:
        yield _problem(bag.TAG_MANIFEST, "bag", f"it must list {', '.join(bag.TAG_FILES)}")
    for name, digest in tags.items():
        if name in content and sha256_hex(content[name]) != digest:
            yield _problem(name, "digest", f"not what {bag.TAG_MANIFEST} says")


def _list_problems(data: bytes, payload: Mapping[str, str]) -> Iterator[Problem]:
    try:
        listed = bag.parse_checksum_lines(data)
    except bag.BagError as error:
        yield _problem(bag.PAYLOAD_MANIFEST, "bag", str(error))
        return
    for path in sorted(payload.keys() | listed.keys()):
        if path not in listed:
            yield _problem(path, "bag", f"{bag.PAYLOAD_MANIFEST} does not list it")
        elif path not in payload:
            yield _problem(path, "bag", f"only {bag.PAYLOAD_MANIFEST} lists it")
        elif listed[path] != payload[path]:
            yield _problem(path, "bag", f"{bag.PAYLOAD_MANIFEST} and the manifest differ on it")


def _name_problems(bundle: Bundle, payload: Mapping[str, str]) -> Iterator[Problem]:
    for name in list_folder(bundle.path):
        if name not in _BESIDE:
            yield _problem(name, "unlisted", "nothing in a bundle has this name")
    for folder in _FOLDERS:
        if (bundle.path / folder).is_symlink():
            yield _problem(folder, "link", "a folder of the payload is a link")
            return
        for name in list_folder(bundle.path / folder):
            path = f"{folder}/{name}"
            if path not in payload and path not in _FOLDERS:
                yield _problem(path, "unlisted", "the manifest does not list it")


def _size(bundle: Bundle, relative: str) -> int:
    try:
        return (bundle.path / relative).lstat().st_size
    except OSError:
        return 0


def _problem(path: str, rule: str, message: str) -> Problem:
    return Problem(path, None, None, rule, message)
