"""A scripted engine: it does to each request what the request's text says."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from themis.errors import ErrorCode
from themis.providers import (
    Capabilities,
    Completion,
    EngineDead,
    Request,
    RequestFailure,
    RequestRejected,
)


class ScriptedEngine:
    """Answers `<text>!`, newest first; words in a request's last message make trouble.

    `reject` is refused, `poison` kills the engine, `flaky` fails once for each engine, `broken`
    always, `slow` takes 50 ms.
    """

    def __init__(self, window: int = 8) -> None:
        self.window = window
        self.widest = 0
        self.submitted: list[int] = []
        self.closed = False
        self._queue: list[Request] = []
        self._failed: set[int] = set()

    @property
    def inflight(self) -> int:
        return len(self._queue)

    def capabilities(self) -> Capabilities:
        return Capabilities(None, 0, json_format=False, extras=frozenset(), seeded=True)

    def describe(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def submit(self, request: Request) -> None:
        text = request.messages[-1].content
        if "reject" in text:
            raise RequestRejected(
                RequestFailure("model", ErrorCode.SCHEMA_MISMATCH, "too long", retryable=False)
            )
        self.submitted.append(request.id)
        self._queue.append(request)
        self.widest = max(self.widest, len(self._queue))

    def poll(self) -> list[Completion]:
        if any("poison" in request.messages[-1].content for request in self._queue):
            raise EngineDead("poisoned")
        request = self._queue.pop()
        text = request.messages[-1].content
        if "slow" in text:
            time.sleep(0.05)
        if "broken" in text or ("flaky" in text and request.id not in self._failed):
            self._failed.add(request.id)
            failure = RequestFailure(
                "infra", ErrorCode.PROVIDER_UNAVAILABLE, "lost", retryable=True
            )
            return [Completion(request.id, error=failure)]
        return [Completion(request.id, f"{text}!", "stop", completion_tokens=1)]

    def cancel(self) -> list[int]:
        dropped = [request.id for request in self._queue]
        self._queue.clear()
        return dropped

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedEngine]:
    """Every scripted engine that workers built, in order; workers build no others."""
    built: list[ScriptedEngine] = []

    def build(_settings: object) -> ScriptedEngine:
        built.append(ScriptedEngine())
        return built[-1]

    monkeypatch.setattr("themis.generation.worker.create_engine", build)
    return built


@pytest.fixture
def scripted() -> Callable[..., ScriptedEngine]:
    """Make a scripted engine."""
    return ScriptedEngine


@pytest.fixture
def answering(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[int], str]], None]:
    """Let workers build engines that answer each item with a text made from its number."""

    def use(text_of: Callable[[int], str]) -> None:
        class Answering(ScriptedEngine):
            def poll(self) -> list[Completion]:
                request = self._queue.pop()
                return [Completion(request.id, text_of(request.id), "stop")]

        monkeypatch.setattr("themis.generation.worker.create_engine", lambda _: Answering())

    return use
