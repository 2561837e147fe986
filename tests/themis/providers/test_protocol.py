"""Requests that an engine cannot answer are refused by name."""

from dataclasses import replace

import pytest

from themis.errors import EnvironmentNotReadyError
from themis.providers import (
    Capabilities,
    EngineInitError,
    EngineSettings,
    Message,
    Request,
    RequestRejected,
    Sampling,
    create_engine,
)
from themis.providers.protocol import check_request

CAPABILITIES = Capabilities(
    max_model_len=None,
    max_logprobs=5,
    json_format=False,
    extras=frozenset({"min_p"}),
    seeded=True,
)


def asking(params: Sampling) -> Request:
    return Request(0, (Message("user", "Hello"),), params, seed=1)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (Sampling(8, extras={"minp": 0.1}), "minp; known here: min_p"),
        (Sampling(8, logprobs=6), "more than the 5"),
        (Sampling(8, response_format="json"), "JSON"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_by_name(params: Sampling, words: str) -> None:
    with pytest.raises(RequestRejected, match=words) as caught:
        check_request(asking(params), CAPABILITIES)

    assert caught.value.failure.kind == "model"
    assert not caught.value.failure.retryable


def test_likelihoods_are_refused_by_an_engine_that_has_none() -> None:
    request = replace(asking(Sampling(8)), continuations=("yes", "no"))

    with pytest.raises(RequestRejected, match="cannot score given continuations"):
        check_request(request, CAPABILITIES)
    check_request(request, replace(CAPABILITIES, loglikelihoods=True))


def test_what_an_engine_can_do_is_let_through() -> None:
    check_request(asking(Sampling(8, extras={"min_p": 0.1}, logprobs=5)), CAPABILITIES)


def test_an_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(EngineInitError, match="demo, hf, "):
        create_engine(EngineSettings(provider="hff", model_id="x"))


@pytest.mark.parametrize(("provider", "extra"), [("hf", "hf"), ("vllm", "vllm")])
def test_a_missing_library_names_the_extra_to_install(
    provider: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(EnvironmentNotReadyError, match=rf"themis-hpc\[{extra}\]"):
        create_engine(EngineSettings(provider=provider, model_id="x"))


@pytest.mark.engine
@pytest.mark.parametrize("provider", ["hf", "vllm"])
def test_a_misspelt_option_lists_the_known_ones(provider: str) -> None:
    pytest.importorskip("torch" if provider == "hf" else "vllm")
    settings = EngineSettings(provider, "x", options={"max_modle_len": 512})

    with pytest.raises(EngineInitError, match=r"max_modle_len.*max_model_len"):
        create_engine(settings)


def test_options_of_another_engine_are_left_out() -> None:
    engine = create_engine(
        EngineSettings("demo", "echo", options={"vllm": {"dtype": "half"}, "latency_ms": 0})
    )

    assert engine.inflight == 0


def test_options_under_an_engines_name_go_first() -> None:
    with pytest.raises(EngineInitError, match="latency_ms"):
        create_engine(
            EngineSettings("demo", "echo", options={"demo": {"latency_ms": -1}, "latency_ms": 0})
        )
