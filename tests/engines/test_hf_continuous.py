"""Continuous batching: the answers of static batches, in another order."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from themis.providers import (
    Completion,
    Engine,
    EngineDead,
    EngineSettings,
    Request,
    RequestRejected,
    create_engine,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

Ask = Callable[..., Request]
Complete = Callable[..., dict[int, Completion]]
OPTIONS = {"continuous_batching": True, "batch_rows": 16, "batch_tokens": 1024}


def load(tiny_chat: Path, **options: Any) -> Engine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = EngineSettings("hf", "tiny", model_path=tiny_chat, options=OPTIONS | options)
        return create_engine(settings)


@pytest.fixture(scope="module")
def continuous(hf_engine: Engine, tiny_chat: Path) -> Iterator[Engine]:
    engine = load(tiny_chat)
    yield engine
    engine.close()


def said(completions: dict[int, Completion]) -> dict[int, tuple[Any, ...]]:
    return {
        number: (
            each.text, each.finish_reason, each.stop_reason, each.prompt_tokens,
            each.completion_tokens, each.prompt_sha256, each.error,
        )
        for number, each in completions.items()
    }  # fmt: skip


def test_greedy_answers_are_those_of_static_batches(
    hf_engine: Engine, continuous: Engine, qa: list[tuple[str, str]], ask: Ask, complete: Complete
) -> None:
    requests = [ask(number, question) for number, (question, _) in enumerate(qa)]

    found = said(complete(continuous, requests))

    assert found == said(complete(hf_engine, requests))
    assert sum(found[number][0] == answer for number, (_, answer) in enumerate(qa)) == len(qa)
    assert continuous.inflight == 0


@pytest.mark.parametrize(
    "params",
    [{"max_tokens": 3}, {"extras": {"ignore_eos": True}}, {"extras": {"stop_token_ids": [16]}}],
    ids=["length", "ignore_eos", "stop_token"],
)
def test_rows_end_as_in_static_batches(
    hf_engine: Engine,
    continuous: Engine,
    qa: list[tuple[str, str]],
    ask: Ask,
    complete: Complete,
    params: dict[str, Any],
) -> None:
    requests = [ask(number, question, **params) for number, (question, _) in enumerate(qa[:20])]

    assert said(complete(continuous, requests)) == said(complete(hf_engine, requests))


def test_short_answers_come_back_before_long_ones(
    continuous: Engine, qa: list[tuple[str, str]], ask: Ask
) -> None:
    endless = {"extras": {"ignore_eos": True}, "max_tokens": 300}
    continuous.submit(ask(0, qa[0][0], **endless))
    continuous.submit(ask(1, qa[1][0], max_tokens=2))

    first = continuous.poll()
    while len(first) < 1:
        first = continuous.poll()

    assert [each.id for each in first] == [1]
    assert continuous.inflight == 1
    assert continuous.cancel() == [0]
    assert continuous.poll() == []


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"temperature": 0.7}, r"temperature=0\.7 \(all rows share one seed\)"),
        ({"stop": ("x",)}, "stop_sequences"),
        ({"logprobs": 0}, "logprobs"),
        ({"extras": {"min_p": 0.1, "min_tokens": 2}}, "the parameters min_p, min_tokens"),
    ],
)
def test_what_it_cannot_do_is_refused_but_not_for_good(
    continuous: Engine, ask: Ask, params: dict[str, Any], named: str
) -> None:
    with pytest.raises(RequestRejected, match=f"cannot do {named}: run these items") as refusal:
        continuous.submit(ask(0, "What is 2 + 2?", **params))

    assert refusal.value.failure.kind == "infra"
    assert not refusal.value.failure.retryable
    assert continuous.inflight == 0


def test_continuations_are_refused(continuous: Engine, ask: Ask) -> None:
    with pytest.raises(RequestRejected, match="continuations to score"):
        continuous.submit(replace(ask(0, "What is 2 + 2?"), continuations=("4",)))


def test_a_request_that_the_cache_cannot_hold_is_refused(tiny_chat: Path, ask: Ask) -> None:
    engine = load(tiny_chat, batch_tokens=64)

    with pytest.raises(RequestRejected, match=r"needs .* tokens of cache.* allows 64"):
        engine.submit(ask(0, "What is 2 + 2?", max_tokens=100))
    engine.close()


def test_a_cancelled_request_can_be_sent_again(
    continuous: Engine, qa: list[tuple[str, str]], ask: Ask, complete: Complete
) -> None:
    requests = [ask(number, question) for number, (question, _) in enumerate(qa[:30])]
    for request in requests:
        continuous.submit(request)

    assert sorted(continuous.cancel()) == list(range(30))
    again = complete(continuous, requests)

    assert [again[number].text for number in range(30)] == [answer for _, answer in qa[:30]]


def test_a_failed_step_ends_the_engine_and_no_request_is_answered_wrongly(
    tiny_chat: Path, qa: list[tuple[str, str]], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = load(tiny_chat)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine._model, "forward", broken)
    engine.submit(ask(0, qa[0][0]))
    end = time.monotonic() + 60
    found: list[Completion] = []
    while not found and time.monotonic() < end:
        found = engine.poll()

    (failed,) = found
    assert failed.error is not None
    assert (failed.error.kind, failed.error.retryable) == ("infra", True)
    assert "the device is gone" in failed.error.message
    while engine._continuous._manager.is_running():
        assert time.monotonic() < end
    with pytest.raises(EngineDead):
        engine.submit(ask(0, qa[0][0]))
    engine.close()


def test_the_provenance_says_so(hf_engine: Engine, continuous: Engine) -> None:
    assert hf_engine.describe()["continuous_batching"] is None
    assert continuous.describe()["continuous_batching"] == {
        "page_size": 32, "max_batch_tokens": 2048,
    }  # fmt: skip
    assert not continuous.capabilities().loglikelihoods
