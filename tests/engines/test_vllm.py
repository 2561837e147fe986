"""What is particular to the vLLM engine: formats, versions, and a core that dies or hangs.

The tests with a core in a process of its own run a worker in a process of its own too, because
that is what signals, kills and orphans are about; each takes about half a minute.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from themis.providers import (
    Engine,
    EngineInitError,
    EngineSettings,
    RequestRejected,
    create_engine,
)
from themis.providers import vllm as vllm_module
from themis_bundles import Bundle, chosen, finished, verify

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_an_answer_is_held_to_a_json_schema(vllm_engine: Engine, ask: Any, complete: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "boolean"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    request = ask(0, "Give me JSON.", max_tokens=64, extras={"json_schema": schema})

    done = complete(vllm_engine, [request])[0]

    assert done.finish_reason == "stop"
    assert json.loads(done.text)["n"] in {True, False}


def test_the_response_format_json_begins_an_object(
    vllm_engine: Engine, ask: Any, complete: Any
) -> None:
    plain, held = (
        complete(vllm_engine, [ask(0, "What is the capital of France?", **params)])[0].text
        for params in ({}, {"response_format": "json"})
    )

    assert not plain.startswith("{")
    assert held.startswith("{")


def test_an_answer_is_held_to_a_choice(vllm_engine: Engine, ask: Any, complete: Any) -> None:
    request = ask(0, "What is the capital of France?", extras={"choice": ["yes", "no"]})

    assert complete(vllm_engine, [request])[0].text in {"yes", "no"}


def test_an_answer_is_held_to_a_pattern(vllm_engine: Engine, ask: Any, complete: Any) -> None:
    request = ask(0, "What is the capital of France?", extras={"regex": "[0-9]{3}-[xy]"})

    text = complete(vllm_engine, [request])[0].text

    assert re.fullmatch("[0-9]{3}-[xy]", text)


def test_an_answer_is_held_to_a_grammar(vllm_engine: Engine, ask: Any, complete: Any) -> None:
    grammar = 'root ::= number (" + " number)+\nnumber ::= [0-9]'
    request = ask(0, "Give me a sum.", max_tokens=9, extras={"grammar": grammar})

    text = complete(vllm_engine, [request])[0].text

    assert re.match(r"[0-9]( \+ [0-9])*", text)
    assert set(text) <= set("0123456789 +")


@pytest.mark.parametrize(
    "extras",
    [
        {"regex": "("},
        {"grammar": "root ::= ("},
        {"grammar": "no grammar at all"},
        {"choice": []},
        {"choice": "yes"},
        {"json_schema": {"type": "nothing"}},
        {"json_schema": "{"},
        {"choice": ["a"], "regex": "a"},
    ],
    ids=str,
)
def test_a_bad_constraint_is_refused_and_the_rest_go_on(
    extras: dict[str, Any], vllm_engine: Engine, ask: Any, complete: Any
) -> None:
    with pytest.raises(RequestRejected) as caught:
        vllm_engine.submit(ask(0, "Hello", extras=extras))

    assert caught.value.failure.kind == "model"

    assert complete(vllm_engine, [ask(1, "What is the capital of France?")])[1].error is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"pipeline_parallel_size": "two"}, "pipeline_parallel_size"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"data_parallel_size": 2}, "data_parallel_size"),
        ({"max_num_seqs": -1}, "max_num_seqs"),
        ({"batch_invariant": True}, "batch_invariant needs a GPU"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused_by_name(
    options: dict[str, Any], words: str, tiny_chat: Path
) -> None:
    pytest.importorskip("vllm")

    with pytest.raises(EngineInitError, match=words):
        create_engine(EngineSettings("vllm", "tiny", model_path=tiny_chat, options=options))


def test_more_gpus_than_there_are_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    options = vllm_module.VllmOptions(tensor_parallel_size=2, pipeline_parallel_size=2)

    vllm_module._check_devices(options)
    with pytest.raises(EngineInitError, match="needs 8 GPUs; this process sees 4"):
        vllm_module._check_devices(msgspec.structs.replace(options, tensor_parallel_size=4))


@pytest.mark.parametrize(("asked", "told"), [(True, "1"), (False, "0"), (None, "kept")])
def test_batch_invariance_is_told_to_vllm(
    monkeypatch: pytest.MonkeyPatch, asked: Any, told: str
) -> None:
    monkeypatch.setattr(os, "environ", {"VLLM_BATCH_INVARIANT": "kept"})

    vllm_module._prepare_environment(vllm_module.VllmOptions(batch_invariant=asked), on_cpu=False)

    assert os.environ["VLLM_BATCH_INVARIANT"] == told


def test_prefixes_are_cached_unless_an_option_says_otherwise(vllm_engine: Engine) -> None:
    assert vllm_engine.describe()["cache"]["prefix_caching"] is True


def test_a_shared_beginning_is_served_from_the_cache(
    vllm_engine: Engine, ask: Any, complete: Any
) -> None:
    long = "What is the capital of France? " * 20
    complete(vllm_engine, [ask(0, long)])

    assert complete(vllm_engine, [ask(1, long)])[1].cached_tokens > 0


@pytest.mark.parametrize("version", ["0.21.3", "0.33.0", "1.0.0"])
def test_a_version_that_was_not_tested_is_refused(
    version: str, tiny_chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)

    with pytest.raises(EngineInitError, match=version):
        create_engine(EngineSettings("vllm", "tiny", model_path=tiny_chat))


def test_children_that_start_while_an_engine_is_built_never_get_user_signals() -> None:
    report = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with vllm_module._user_signals_blocked():
        child = subprocess.run(
            [sys.executable, "-c", report], capture_output=True, text=True, check=True
        )

    assert "SIGUSR1" in child.stdout
    assert "SIGUSR2" in child.stdout
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


WORKER = """
import dataclasses, json, sys
from pathlib import Path
from themis.generation.worker import WorkOptions, work_shard

if __name__ == "__main__":
    path, model, drain = sys.argv[1:]
    options = WorkOptions(
        model_paths={"tiny": model},
        engine_options={
            "multiprocess": True, "threads": 1, "max_num_seqs": 4, "max_model_len": 512,
            "kv_cache_memory_bytes": 64 << 20,
        },
        flush_records=4,
        drain_seconds=float(drain),
    )
    outcome = work_shard(Path(path), 0, options)
    print(json.dumps(dataclasses.asdict(outcome)), file=sys.stderr)
"""


class Worker:
    """A worker process in a session of its own, with its engine's children."""

    def __init__(self, script: Path, path: Path, model: Path, drain_seconds: float) -> None:
        self.path = path
        self._log = (script.parent / "worker.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(path), str(model), str(drain_seconds)],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def wait_for_records(self, count: int) -> None:
        end = time.monotonic() + 180
        while len(finished(Bundle.open(self.path), 0)) < count:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def core(self) -> int:
        """Return the process id of vLLM's engine core."""
        listed = subprocess.run(
            ["ps", "-eo", "pid,sid,args"], capture_output=True, text=True, check=True
        ).stdout
        for line in listed.splitlines()[1:]:
            pid, session, name = line.split(maxsplit=2)
            if int(session) == self.process.pid and "EngineCore" in name:
                return int(pid)
        raise AssertionError(f"no engine core in:\n{listed}")

    def outcome(self) -> dict[str, Any]:
        self.process.wait(timeout=180)
        text = self.log()
        assert self.process.returncode == 0, text
        outcome: dict[str, Any] = json.loads(
            [line for line in text.splitlines() if line.startswith("{")][-1]
        )
        return outcome

    def log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)
        self._log.close()


@pytest.fixture
def start(
    tmp_path: Path, tiny_chat: Path, require: Callable[[object, str], None]
) -> Iterator[Callable[..., Worker]]:
    """Start a worker whose engine core is a process of its own."""
    import importlib.util

    require(importlib.util.find_spec("vllm"), "needs vLLM")
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    started: list[Worker] = []

    def run(path: Path, drain_seconds: float = 30) -> Worker:
        started.append(Worker(script, path, tiny_chat, drain_seconds))
        return started[-1]

    yield run
    for worker in started:
        worker.end()


def test_a_killed_core_is_replaced_and_the_shard_completed(
    start: Callable[..., Worker], write_generation_bundle: Callable[..., Path], qa: Any
) -> None:
    questions = [question for question, _ in qa] * 10
    path = write_generation_bundle(questions, provider="vllm", model_id="tiny", shard_items=4096)
    worker = start(path)
    worker.wait_for_records(8)

    os.kill(worker.core(), signal.SIGKILL)

    outcome = worker.outcome()
    bundle = Bundle.open(path)
    texts = [entry.record.record["text"] for entry in chosen(bundle, 0) if entry.record]
    assert outcome["state"] == "complete"
    assert texts == [answer for _, answer in qa] * 10
    census = verify(bundle, require_results=True)
    assert census.complete
    assert census.counts["duplicate"] == 0
    assert "items were in flight" in worker.log()


def test_a_user_signal_to_every_process_of_the_step_ends_it_in_order(
    start: Callable[..., Worker], write_generation_bundle: Callable[..., Path], qa: Any
) -> None:
    questions = [question for question, _ in qa] * 20
    path = write_generation_bundle(questions, provider="vllm", model_id="tiny", shard_items=4096)
    worker = start(path, drain_seconds=30)
    worker.wait_for_records(8)

    os.killpg(worker.process.pid, signal.SIGUSR2)

    outcome = worker.outcome()
    assert (outcome["state"], outcome["cause"]) == ("partial", "SIGUSR2")
    assert 8 <= outcome["items_done"] < 4000
    assert len(finished(Bundle.open(path), 0)) == outcome["items_done"]
