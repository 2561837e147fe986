"""The order of items in a bundle, and where its shards are cut.

A worker answers the items of a shard together. Long answers that start last leave a GPU nearly
idle while they end, so the longest can go first; and engines keep the prompts that they have
seen, so prompts that begin alike can be kept together. Items are reordered within a bounded
window only, so memory is bounded, and ties keep the order of the plan, so the same open work
gives the same bytes.

The number of an item is its place in the bundle. So another order gives other item digests and
another plan digest; which trial an item answers, and with which seed, stays the same, and so
does everything that is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from themis.errors import SpecValidationError
from themis_bundles import BundleWriter

Order = Literal["plan", "longest", "prefix"]

WINDOW_BYTES = 2**25
"""How many bytes of items may wait to be put in order."""


@dataclass(frozen=True)
class Arrangement:
    """How items are ordered, and how shards are cut by time."""

    order: Order = "plan"
    """`plan`; `longest` first inside each shard; or prompts with the same `prefix` together."""

    shard_minutes: float | None = None
    """The most minutes of a shard, if every answer is as long as it may be; None to cut shards
    by the number of items."""

    tokens_per_second: float | None = None
    """What one engine generates; needed with `shard_minutes`."""

    def __post_init__(self) -> None:
        if (self.shard_minutes is None) != (self.tokens_per_second is None):
            raise SpecValidationError(
                "shards are cut by time with --shard-minutes and --tokens-per-second together"
            )

    @property
    def shard_seconds(self) -> float | None:
        """The most seconds of a shard."""
        return None if self.shard_minutes is None else 60 * self.shard_minutes

    @property
    def seconds_per_item(self) -> Callable[[int, int], float] | None:
        """Expected seconds of an item, from its prompt and new tokens."""
        rate = self.tokens_per_second
        return None if rate is None else lambda prompt, new: (new or prompt) / rate


class Waiting(NamedTuple):
    """An item that waits for its place."""

    line: bytes
    """Its canonical JSON, without its number."""

    prefix: bytes
    """Its prompt, canonically."""

    prompt_tokens: int
    max_new_tokens: int


class Arranger:
    """Hands items to a writer in the order that was asked for.

    Args:
        writer: The writer; its shards are cut as the arrangement says.
        arrangement: The order and the cuts.
        shard_items: The most items of a shard, when it is not cut by time.
        write: Takes an item's line and token counts; by default the writer's `add_canonical`.
    """

    def __init__(
        self,
        writer: BundleWriter,
        arrangement: Arrangement,
        shard_items: int,
        write: Callable[[bytes, int, int], object] | None = None,
    ) -> None:
        self._writer = writer
        self._write = writer.add_canonical if write is None else write
        self._order = arrangement.order
        self._arrangement = arrangement
        self._shard_items = shard_items
        self._waiting: list[Waiting] = []
        self._bytes = 0
        self._seconds = 0.0

    def add(self, line: bytes, prefix: bytes, prompt_tokens: int, max_new_tokens: int) -> None:
        """Take an item of the writer's current group.

        Args:
            line: Its canonical JSON, without its number.
            prefix: Its prompt, canonically; equal beginnings are kept together.
            prompt_tokens: The expected length of its prompt.
            max_new_tokens: The most tokens that its answer may have.

        Raises:
            CanonicalError: The item is too long.
            BundleWriteError: The file system refuses.
        """
        if self._order == "plan":
            self._write(line, prompt_tokens, max_new_tokens)
            return
        item = Waiting(line, prefix, prompt_tokens, max_new_tokens)
        seconds = self._time_of(item)
        if self._waiting and self._is_full(item, seconds):
            self.flush()
        self._waiting.append(item)
        self._bytes += len(line)
        self._seconds += seconds

    def flush(self) -> None:
        """Hand over what waits; needed before a group ends, and at the end."""
        longest = self._order == "longest"
        self._waiting.sort(key=_length if longest else _prefix, reverse=longest)
        for item in self._waiting:
            self._write(item.line, item.prompt_tokens, item.max_new_tokens)
        if longest and self._waiting:
            # The sum of a shard is the same in any order, but rounding may differ by a bit.
            self._writer.end_shard()
        self._waiting.clear()
        self._bytes, self._seconds = 0, 0.0

    def _is_full(self, item: Waiting, seconds: float) -> bool:
        if self._bytes + len(item.line) > WINDOW_BYTES:
            return True
        if self._order == "prefix":
            return False
        limit = self._arrangement.shard_seconds
        if limit is None:
            return len(self._waiting) >= self._shard_items
        return self._seconds + seconds > limit

    def _time_of(self, item: Waiting) -> float:
        expected = self._arrangement.seconds_per_item
        return 0.0 if expected is None else expected(item.prompt_tokens, item.max_new_tokens)


def _length(item: Waiting) -> int:
    return item.prompt_tokens + item.max_new_tokens


def _prefix(item: Waiting) -> bytes:
    return item.prefix
