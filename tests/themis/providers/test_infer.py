"""A user's own engine goes through the same scheduler as every other."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from themis.errors import ErrorCode, InferenceError, RetryableProviderError
from themis.evaluation.registry import EngineCapabilities, PluginRegistry
from themis.generation.engines import other_engine
from themis.generation.worker import WorkOptions, work_shard
from themis.providers import (
    Completion,
    Engine,
    EngineInitError,
    EngineSettings,
    Message,
    Request,
    RequestRejected,
    Sampling,
)
from themis_bundles import Bundle, chosen

OPTIONS = {"backoff_seconds": 0.01}


def ask(number: int, **params: Any) -> Request:
    sampling = Sampling(**{"max_tokens": 8, **params})
    return Request(number, (Message("user", f"q{number}"),), sampling, seed=number, sample=3)


@pytest.fixture
def engine() -> Iterator[Callable[..., Engine]]:
    """Register something as an engine, and start it."""
    started: list[Engine] = []

    def start(
        factory: Any, *, capabilities: EngineCapabilities | None = None, **options: Any
    ) -> Engine:
        registry = PluginRegistry()
        registry.register_inference_engine(
            "mine", factory, version="1.2", capabilities=capabilities
        )
        settings = EngineSettings("mine", "m", options={**OPTIONS, **options})
        made = other_engine(settings, registry)
        assert made is not None
        started.append(made)
        return made

    yield start
    for each in started:
        each.close()


def run(engine: Engine, count: int = 1, **params: Any) -> dict[int, Completion]:
    for number in range(count):
        engine.submit(ask(number, **params))
    done: dict[int, Completion] = {}
    while engine.inflight:
        done |= {completion.id: completion for completion in engine.poll()}
    return done


def plain(request: Request) -> str:
    return f"{request.messages[-1].content} plain"


async def coroutine(request: Request) -> str:
    await asyncio.sleep(0)
    return f"{request.messages[-1].content} coroutine"


class Object:
    """An engine with the arguments and the result of the specification."""

    def infer(self, trial: Any, context: Any, runtime: Any) -> Any:
        text = f"{trial.messages[-1].content} {trial.model_id} {context['sample']} {runtime['x']}"
        usage = SimpleNamespace(prompt_tokens=5, completion_tokens=2)
        return SimpleNamespace(
            inference=SimpleNamespace(
                raw_text=text,
                finish_reason="length",
                token_usage=usage,
                provider_request_id="r-1",
            )
        )


def built(settings: EngineSettings) -> Callable[[Request], str]:
    return lambda request: f"{request.messages[-1].content} of {settings.model_id}"


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (plain, "q0 plain"),
        (coroutine, "q0 coroutine"),
        (Object, "q0 m 3 7"),
        (Object(), "q0 m 3 7"),
        (built, "q0 of m"),
    ],
    ids=["function", "coroutine", "class", "object", "of settings"],
)
def test_what_answers_one_request_is_an_engine(
    engine: Callable[..., Engine], factory: Any, text: str
) -> None:
    made = engine(factory, x=7)

    assert run(made)[0].text == text
    assert (made.describe()["engine"], made.describe()["version"]) == ("mine", "1.2")


def test_usage_and_finish_come_from_the_record(engine: Callable[..., Engine]) -> None:
    done = run(engine(Object, x=7))[0]

    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("length", 5, 2)
    assert done.measured == {"provider_request_id": "r-1"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_as_many_calls_run_at_once_as_the_option_says(
    engine: Callable[..., Engine], *, asynchronous: bool
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def enter(step: int) -> None:
        nonlocal running, most
        with lock:
            running += step
            most = max(most, running)

    def blocking(_request: Request) -> str:
        enter(1)
        time.sleep(0.3)
        enter(-1)
        return "ok"

    async def waiting(_request: Request) -> str:
        enter(1)
        await asyncio.sleep(0.3)
        enter(-1)
        return "ok"

    made = engine(waiting if asynchronous else blocking, max_in_flight=40)

    run(made, 40)

    assert (made.window, most) == (40, 40)


class TestErrors:
    """Each error has its class, and none of them stops the others."""

    @pytest.mark.parametrize(
        ("error", "kind", "calls"),
        [
            (RetryableProviderError("busy"), "infra", 3),
            (InferenceError("limit", code=ErrorCode.PROVIDER_RATE_LIMIT), "infra", 3),
            (InferenceError("too long", code=ErrorCode.SCHEMA_MISMATCH), "model", 1),
            (ValueError("a bug"), "infra", 1),
        ],
        ids=str,
    )
    def test_an_error_is_tried_again_only_where_that_may_help(
        self, engine: Callable[..., Engine], error: Exception, kind: str, calls: int
    ) -> None:
        called = 0

        def failing(_request: Request) -> str:
            nonlocal called
            called += 1
            raise error

        done = run(engine(failing, max_retries=2))[0]

        assert done.error is not None
        assert (done.error.kind, called) == (kind, calls)

    def test_a_refused_key_ends_the_attempt(self, engine: Callable[..., Engine]) -> None:
        def failing(_request: Request) -> str:
            raise InferenceError("no such key", code=ErrorCode.PROVIDER_AUTH)

        made = engine(failing)
        made.submit(ask(0))

        with pytest.raises(InferenceError, match="no such key"):
            made.poll()

    def test_a_result_without_a_text_is_a_failure(self, engine: Callable[..., Engine]) -> None:
        done = run(engine(lambda _request: 7))[0]

        assert done.error is not None
        assert done.error.code is ErrorCode.PARSE_ERROR


class TestCapabilities:
    """What was declared is checked before any call."""

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"logprobs": 0}, "no logprobs"),
            ({"response_format": "json"}, "response_format"),
            ({"max_tokens": 5000}, "max_tokens=5000"),
            ({"extras": {"min_p": 0.1}}, "min_p"),
        ],
        ids=str,
    )
    def test_more_than_was_declared_is_refused_uncalled(
        self, engine: Callable[..., Engine], params: dict[str, Any], words: str
    ) -> None:
        made = engine(
            lambda _request: pytest.fail("called"),
            capabilities=EngineCapabilities(max_context_tokens=4096),
        )

        with pytest.raises(RequestRejected, match=words):
            made.submit(ask(0, **params))


class TestByName:
    """`module:object` is found in any process."""

    def test_a_worker_imports_it(
        self,
        write_generation_bundle: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "house_engines.py").write_text(
            "def shout(request):\n    return request.messages[-1].content.upper()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        path = write_generation_bundle(["a", "b"], provider="house_engines:shout", model_id="m")

        outcome = work_shard(path, 0, WorkOptions())

        texts = [e.record.record["text"] for e in chosen(Bundle.open(path), 0) if e.record]
        assert (outcome.state, texts) == ("complete", ["A", "B"])

    def test_what_cannot_be_imported_is_named(self) -> None:
        with pytest.raises(EngineInitError, match="no_such_module:engine"):
            other_engine(EngineSettings("no_such_module:engine", "m"), None)

    def test_what_is_no_engine_is_refused(self) -> None:
        with pytest.raises(EngineInitError, match="no function"):
            other_engine(EngineSettings("math:pi", "m"), None)
