"""The BagIt 1.0 wrapping (RFC 8493) of a bundle: plain text that other tools can check.

`sha256sum -c manifest-sha256.txt` and `bagit.py --validate` prove the payload of a bundle
without Themis. The reader here is stricter than both: it refuses unlisted files, links,
`fetch.txt`, and names outside `[A-Za-z0-9._/-]`.
"""

import re
from collections.abc import Mapping

from themis_bundles.canonical import sha256_hex
from themis_bundles.errors import BundleError

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
PAYLOAD_MANIFEST = "manifest-sha256.txt"
TAG_MANIFEST = "tagmanifest-sha256.txt"
TAG_FILES = ("bag-info.txt", "bagit.txt", PAYLOAD_MANIFEST)
"""The tag files that the tag manifest lists, in its order."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._/-]{1,200})")


class BagError(BundleError):
    """A tag file of a bag is not what it should be."""


def checksum_lines(digests: Mapping[str, str]) -> bytes:
    """Return the lines of a checksum file, sorted by path."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode()


def parse_checksum_lines(data: bytes) -> dict[str, str]:
    """Return the digest of each path that a checksum file lists.

    Raises:
        BagError: When a line is malformed, unsafe, repeated or out of order.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise BagError("not plain ASCII") from None
    if text and not text.endswith("\n"):
        raise BagError("the last line has no end")
    digests: dict[str, str] = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):
        match = _LINE.fullmatch(line)
        if match is None or not is_plain(match[2]):
            raise BagError(f"line {number}: not a digest and a plain path")
        if match[2] in digests:
            raise BagError(f"line {number}: {match[2]} appears twice")
        digests[match[2]] = match[1]
    if list(digests) != sorted(digests):
        raise BagError("the lines are not sorted by path")
    return digests


def is_plain(path: str) -> bool:
    """Tell whether a path stays inside its folder and has no hidden part.

    >>> [is_plain(path) for path in ("data/a.zst", "/etc/passwd", "data/../a", "a/.b")]
    [True, False, False, False]
    """
    return not any(part.startswith(".") or not part for part in path.split("/"))


def bag_info(*, date: str, identifier: str, files: int, octets: int) -> bytes:
    """Return the bytes of `bag-info.txt`.

    Args:
        date: The day of the plan, so that the same plan gives the same bytes.
        identifier: The digest that identifies the content.
        files: How many payload files there are.
        octets: The length of all payload files.
    """
    return (
        f"Bagging-Date: {date}\n"
        f"External-Identifier: sha256:{identifier}\n"
        f"Payload-Oxum: {octets}.{files}\n"
    ).encode()


def tag_files(payload: Mapping[str, str], info: bytes) -> dict[str, bytes]:
    """Return the four tag files of a bag.

    Args:
        payload: The digest of each payload file, by its path from the bag's folder.
        info: The bytes of `bag-info.txt`.
    """
    files = {
        "bag-info.txt": info,
        "bagit.txt": DECLARATION,
        PAYLOAD_MANIFEST: checksum_lines(payload),
    }
    files[TAG_MANIFEST] = checksum_lines({name: sha256_hex(data) for name, data in files.items()})
    return files
