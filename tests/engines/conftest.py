"""Real engines, each loaded once for all tests here."""

import gc
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis.providers import (
    Completion,
    Engine,
    EngineSettings,
    Message,
    Request,
    Sampling,
    create_engine,
)

Require = Callable[[object, str], None]

VLLM_OPTIONS = {
    "threads": 1,
    "max_num_seqs": 64,
    "max_model_len": 512,
    "kv_cache_memory_bytes": 64 << 20,
}
"""What makes vLLM start in seconds on two cores."""


def _installed(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _load(settings: EngineSettings) -> Engine:
    with warnings.catch_warnings():
        # The libraries deprecate each other's functions while they are imported.
        warnings.simplefilter("ignore")
        return create_engine(settings)


@pytest.fixture(scope="session")
def digest_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the digests of model files out of the user's cache."""
    former = os.environ.get("THEMIS_CACHE")
    os.environ["THEMIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if former is None:
        del os.environ["THEMIS_CACHE"]
    else:
        os.environ["THEMIS_CACHE"] = former


@pytest.fixture(scope="session")
def hf_engine(tiny_chat: Path, require: Require, digest_cache: None) -> Iterator[Engine]:
    """The tiny chat model with transformers."""
    require(_installed("torch") and _installed("transformers"), "needs the extra hf")
    engine = _load(EngineSettings("hf", "tiny", model_path=tiny_chat))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_engine(tiny_chat: Path, require: Require, digest_cache: None) -> Iterator[Engine]:
    """The tiny chat model with vLLM in this process: only one such engine can live."""
    require(_installed("vllm"), "needs vLLM")
    engine = _load(EngineSettings("vllm", "tiny", model_path=tiny_chat, options=VLLM_OPTIONS))
    yield engine
    engine.close()
    gc.collect()


@pytest.fixture(params=["demo", "hf", "vllm"])
def any_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn, idle."""
    return _idle(request, request.param)


@pytest.fixture(params=["hf", "vllm"])
def model_engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine that runs a model in turn, idle."""
    return _idle(request, request.param)


def _idle(request: pytest.FixtureRequest, name: str) -> Engine:
    if name == "demo":
        return create_engine(EngineSettings("demo", "echo"))
    engine: Engine = request.getfixturevalue(f"{name}_engine")
    engine.cancel()
    return engine


@pytest.fixture(scope="session")
def qa(tiny_chat: Path) -> list[tuple[str, str]]:
    """The 200 questions that the tiny chat model knows, with its answers."""
    return [
        (question, answer) for question, answer in json.loads((tiny_chat / "qa.json").read_text())
    ]


@pytest.fixture(scope="session")
def ask() -> Callable[..., Request]:
    """Make a request: number, question, then fields of the sampling."""

    def make(number: int, question: str, *, seed: int | None = None, **params: Any) -> Request:
        return Request(
            number,
            (Message("user", question),),
            Sampling(**{"max_tokens": 32, **params}),
            seed=number if seed is None else seed,
        )

    return make


@pytest.fixture(scope="session")
def complete() -> Callable[..., dict[int, Completion]]:
    """Send requests to an engine, some at a time, and return the completions by id."""

    def run(
        engine: Engine, requests: Iterable[Request], window: int | None = None
    ) -> dict[int, Completion]:
        source = iter(requests)
        done: dict[int, Completion] = {}
        exhausted = False
        while not exhausted or engine.inflight:
            while not exhausted and engine.inflight < (window or engine.window):
                request = next(source, None)
                if request is None:
                    exhausted = True
                else:
                    engine.submit(request)
            done |= {completion.id: completion for completion in engine.poll()}
        return done

    return run


@pytest.fixture
def lend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Let workers use a loaded engine, which they do not close."""

    def use(engine: Engine) -> None:
        monkeypatch.setattr("themis.generation.worker.create_engine", lambda _: engine)
        monkeypatch.setattr(engine, "close", engine.cancel)

    return use
