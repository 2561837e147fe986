"""Keep to what a service allows: so many requests and tokens a minute, and pauses it asks for.

A bucket fills evenly and holds what one second brings, so no minute sees more than the limit
and one bucket. What costs more than the bucket holds waits until it is full, and then the
bucket is overdrawn.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

SECONDS_A_MINUTE = 60


class Bucket:
    """A level that rises by `per_minute / 60` each second.

    Args:
        per_minute: The limit.
        clock: Gives seconds; never goes back.
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / SECONDS_A_MINUTE
        self._size = max(1.0, self._rate)
        self._level = self._size
        self._clock = clock
        self._at = clock()

    def wait(self, cost: float) -> float:
        """Return how many seconds it takes until `cost` can be taken; 0 when it can be now.

        >>> now = [0.0]
        >>> bucket = Bucket(60, clock=lambda: now[0])
        >>> bucket.take(1)
        >>> bucket.wait(1)
        1.0
        """
        self._rise()
        return max(0.0, (min(cost, self._size) - self._level) / self._rate)

    def take(self, cost: float) -> None:
        """Take `cost`; a negative one gives back."""
        self._rise()
        self._level = min(self._size, self._level - cost)

    def _rise(self) -> None:
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now


class RateLimits:
    """Lets requests through as limits and pauses allow, in the order they ask.

    Args:
        requests_per_minute: The most requests; None is no limit.
        tokens_per_minute: The most tokens of prompts and answers; None is no limit.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = None if requests_per_minute is None else Bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute)
        self._resume = 0.0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    async def admit(self, tokens: int) -> None:
        """Wait until a request of so many tokens may be sent, and count it."""
        async with self._turn:
            while seconds := self._wait(tokens):
                # What comes back unused is at once there for others.
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), seconds)
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)

    def correct(self, expected: int, used: int) -> None:
        """Count the tokens that a request used instead of what was expected of it."""
        if self._tokens is not None and used:
            self._tokens.take(used - expected)
            self._changed.set()

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long: the service said so."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    def _wait(self, tokens: int) -> float:
        waits = [max(0.0, self._resume - time.monotonic())]
        if self._requests is not None:
            waits.append(self._requests.wait(1))
        if self._tokens is not None:
            waits.append(self._tokens.wait(tokens))
        return max(waits)
