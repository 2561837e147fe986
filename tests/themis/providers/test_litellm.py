"""LiteLLM is one more backend of the same scheduler; no key reaches a file or a message."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis.errors import ErrorCode, InferenceError
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
    create_engine,
)
from themis_bundles import Bundle, chosen

# LiteLLM and its parts deprecate each other, and leave connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::UserWarning",
    "ignore::ResourceWarning",
    "ignore::RuntimeWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

KEY = "sk-litellm-secret-0123456789"


@pytest.fixture(autouse=True)
def _available(require: Callable[[object, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    require(importlib.util.find_spec("litellm"), "needs LiteLLM")
    monkeypatch.setenv("MY_KEY", KEY)


@pytest.fixture
def options(service: Any) -> dict[str, Any]:
    return {
        "model": "openai/m",
        "api_base": service.url,
        "api_key_env": "MY_KEY",
        "backoff_seconds": 0.01,
        "timeout_seconds": 20.0,
    }


@pytest.fixture
def engine(options: dict[str, Any]) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**more: Any) -> Engine:
        made.append(create_engine(EngineSettings("litellm", "m", options={**options, **more})))
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(number: int, **params: Any) -> Request:
    sampling = Sampling(**{"max_tokens": 8, **params})
    return Request(number, (Message("user", f"q{number}"),), sampling, seed=number)


def run(engine: Engine, *requests: Request) -> dict[int, Completion]:
    for request in requests:
        engine.submit(request)
    done: dict[int, Completion] = {}
    while engine.inflight:
        done |= {completion.id: completion for completion in engine.poll()}
    return done


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_has_its_text_and_usage(
    engine: Callable[..., Engine], service: Any, *, stream: bool
) -> None:
    done = run(engine(stream=stream), ask(0, temperature=0.5, stop=("END",)))[0]

    assert (done.text, done.finish_reason) == ("q0!", "stop")
    assert (done.prompt_tokens, done.completion_tokens) == (7, 3)
    assert ("time_to_first_token_ms" in done.measured) is stream
    (body,) = service.bodies
    assert (body["model"], body["max_tokens"], body["seed"]) == ("m", 8, 0)
    assert (body["temperature"], body["stop"]) == (0.5, ["END"])


def test_retries_are_those_of_the_options_and_not_litellms(
    engine: Callable[..., Engine], service: Any
) -> None:
    service.reply = lambda call: call.send_json({"error": {"message": "busy"}}, status=503)

    done = run(engine(max_retries=2), ask(0))[0]

    assert service.count == 3
    assert done.error is not None
    assert (done.error.kind, done.error.retryable) == ("infra", True)


def test_a_limit_is_waited_for(engine: Callable[..., Engine], service: Any) -> None:
    def limited(call: Any) -> None:
        if call.number == 1:
            call.send_json(
                {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.5"}
            )
        else:
            call.answer("ok")

    service.reply = limited

    assert run(engine(), ask(0))[0].text == "ok"
    assert service.times[1] - service.times[0] >= 0.5


def test_a_bad_request_fails_alone(engine: Callable[..., Engine], service: Any) -> None:
    def refuse(call: Any) -> None:
        if call.question == "q1":
            call.send_json({"error": {"message": "too long"}}, status=400)
        else:
            call.answer("ok")

    service.reply = refuse

    done = run(engine(), ask(0), ask(1))

    assert done[0].text == "ok"
    assert done[1].error is not None
    assert done[1].error.kind == "model"


def test_a_refused_key_ends_the_attempt_and_is_in_no_message(
    engine: Callable[..., Engine], service: Any
) -> None:
    service.reply = lambda call: call.send_json(
        {"error": {"message": f"no such key: {call.headers['Authorization']}"}}, status=401
    )

    with pytest.raises(InferenceError) as caught:
        run(engine(), ask(0))

    assert caught.value.code is ErrorCode.PROVIDER_AUTH
    assert KEY not in str(caught.value)
    assert "***" in str(caught.value)


def test_what_it_cannot_do_is_refused(engine: Callable[..., Engine], options: Any) -> None:
    made = engine()
    begun = Request(0, (Message("user", "a"), Message("assistant", "b")), Sampling(8), seed=0)

    with pytest.raises(RequestRejected, match="begun answer"):
        made.submit(begun)
    with pytest.raises(RequestRejected, match="regex"):
        made.submit(ask(0, extras={"regex": "x"}))
    with pytest.raises(EngineInitError, match="conversations only"):
        create_engine(
            EngineSettings("litellm", "m", extras={"prompt_format": "plain"}, options=options)
        )


def test_a_worker_answers_and_leaves_no_key(
    service: Any,
    options: dict[str, Any],
    write_generation_bundle: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(20)], provider="litellm", model_id="m")

    outcome = work_shard(path, 0, WorkOptions(engine_options=options))

    texts = [e.record.record["text"] for e in chosen(Bundle.open(path), 0) if e.record]
    assert (outcome.state, texts) == ("complete", [f"q{n}!" for n in range(20)])
    assert f"Bearer {KEY}" in service.authorizations
    import zstandard

    for file in tmp_path.rglob("*.zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(
            file.read_bytes(), read_across_frames=True
        )
        assert KEY.encode() not in reader.read(), file
