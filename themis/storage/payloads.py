"""Payloads: compressed, small ones in the database, large ones in files.

The first byte says how the rest is kept: `0` as it is, `1` zstd, `2` the SHA-256 of a file.
A file is named by the digest of what it holds, written under a temporary name, synced and
renamed, and checked whenever it is read.
"""

import hashlib
import os
import secrets
from pathlib import Path

import zstandard

from themis.errors import ErrorCode, StorageError

PLAIN, ZSTD, FILE = b"\x00", b"\x01", b"\x02"

SMALLEST_TO_COMPRESS = 64
LARGEST_IN_DATABASE = 64 * 1024


class Payloads:
    """The codec of a store's payloads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._compressor = zstandard.ZstdCompressor(level=3)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, data: bytes) -> bytes:
        """Return what the database keeps for `data`; a large payload goes to a file first."""
        packed = self.pack(data)
        if len(packed) <= LARGEST_IN_DATABASE:
            return packed
        return self.keep(packed, hashlib.sha256(data).digest())

    def pack(self, data: bytes) -> bytes:
        """Return `data` compressed, as `keep` takes it; nothing is written."""
        if len(data) < SMALLEST_TO_COMPRESS:
            return PLAIN + data
        compressed = self._compressor.compress(data)
        smaller = len(compressed) < len(data) or len(compressed) >= LARGEST_IN_DATABASE
        return ZSTD + compressed if smaller else PLAIN + data

    def keep(self, packed: bytes, digest: bytes) -> bytes:
        """Return what the database keeps for packed data; a large one goes to a file first.

        Args:
            packed: What `pack` gave.
            digest: SHA-256 of what `pack` was given.
        """
        if len(packed) <= LARGEST_IN_DATABASE:
            return packed
        self._write_file(digest, packed[1:])
        return FILE + digest

    def decode(self, stored: bytes) -> bytes:
        """Return the payload that `encode` was given.

        Raises:
            StorageError: Its file is missing or does not hold what its name says.
        """
        kind, body = stored[:1], stored[1:]
        if kind == PLAIN:
            return body
        if kind == ZSTD:
            return self._decompressor.decompress(body)
        return self._read_file(body)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._directory / name[:2] / f"{name}.zst"

    def _write_file(self, digest: bytes, compressed: bytes) -> None:
        path = self._path(digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as file:
            file.write(compressed)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def _read_file(self, digest: bytes) -> bytes:
        path = self._path(digest)
        try:
            data = self._decompressor.decompress(path.read_bytes())
        except (OSError, zstandard.ZstdError) as error:
            raise StorageError(f"{path}: cannot be read ({error})") from error
        if hashlib.sha256(data).digest() != digest:
            raise StorageError(
                f"{path}: its content does not match its name", code=ErrorCode.STORAGE_READ
            )
        return data
