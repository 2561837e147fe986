"""The way back: a BagIt bag of its own around the results of some shards.

    bagit.txt  bag-info.txt  manifest-sha256.txt  tagmanifest-sha256.txt
    signatures/tagmanifest-sha256.txt.<key>.sig     optional
    data/manifest.json                              that of the bundle: what was asked
    data/results/<shard>/…                          what came of it

So `sha256sum -c`, `bagit.py --validate` and `ssh-keygen -Y verify` prove results as they prove
a bundle, and a signature over `tagmanifest-sha256.txt` pins every record that came back. The
same results give the same bytes.
"""

from collections.abc import Iterable, Iterator, Mapping

from themis_bundles import bag
from themis_bundles.canonical import sha256_hex

PREFIX = "data/"
MANIFEST = "data/manifest.json"
RESULTS = "data/results/"


def bag_problems(texts: Mapping[str, bytes], payload: Mapping[str, str]) -> Iterator[str]:
    """Say where the tag files of a bag contradict each other or the payload.

    Args:
        texts: The bytes of each of the four tag files, by name.
        payload: The digest of each payload file, by its path from the bag's folder.
    """
    try:
        tags = bag.parse_checksum_lines(texts[bag.TAG_MANIFEST])
        listed = bag.parse_checksum_lines(texts[bag.PAYLOAD_MANIFEST])
    except bag.BagError as error:
        yield f"{bag.TAG_MANIFEST} and {bag.PAYLOAD_MANIFEST}: bag: {error}"
        return
    if tuple(tags) != bag.TAG_FILES:
        yield f"{bag.TAG_MANIFEST}: bag: it must list {', '.join(bag.TAG_FILES)}"
    for name, digest in tags.items():
        if name in texts and sha256_hex(texts[name]) != digest:
            yield f"{name}: digest: not what {bag.TAG_MANIFEST} says"
    for path in sorted(payload.keys() | listed.keys()):
        if payload.get(path) != listed.get(path):
            yield f"{path}: digest: not what {bag.PAYLOAD_MANIFEST} says"
    if texts["bagit.txt"] != bag.DECLARATION:
        yield "bagit.txt: bag: it does not declare a bag of this format"


def tag_files(
    payload: Iterable[tuple[str, int, str]], *, date: str, identity: str
) -> dict[str, bytes]:
    """Return the four tag files, in the order of a pack.

    Args:
        payload: The path from the bag's folder, length and digest of each payload file.
        date: The day of the plan.
        identity: The bundle whose results these are.
    """
    entries = tuple(payload)
    octets = sum(size for _, size, _ in entries)
    info = bag.bag_info(date=date, identifier=identity, files=len(entries), octets=octets)
    return bag.tag_files({path: digest for path, _, digest in entries}, info)
