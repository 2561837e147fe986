"""Proved rows on their way to the store, in a temporary file.

An import proves everything before it stores anything, and a bundle can be larger than memory.
So what it is going to store waits here: bytes that nobody else can change, and that need no
second proof.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from themis.storage.projections import Event
from themis_bundles.files import write_errors


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard, which the spool holds."""

    shard: int
    result_digest: str
    """What the ledger knows these results by."""

    attempts: Mapping[int, tuple[str, Mapping[str, Any]]]
    """The attempts that the rows name by a number, each with its id and provenance."""

    records: int
    """How many items have a record."""

    blocks: int
    """How many blocks of the spool are this shard's."""


class Spool:
    """A temporary file of events.

    Args:
        path: The file; must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("x+b")
        self._sizes: list[int] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Event]).decode

    def add(self, events: list[Event]) -> None:
        """Append a block of events.

        Raises:
            BundleWriteError: When the file system refuses.
        """
        with write_errors(self._path):
            self._sizes.append(self._file.write(self._encode(events)))

    def read(self) -> Iterator[list[Event]]:
        """Give every block, in the order in which they were added."""
        with write_errors(self._path):
            self._file.seek(0)
        for size in self._sizes:
            yield self._decode(self._file.read(size))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
