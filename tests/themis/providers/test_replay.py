"""Recorded answers come back as they were, or the item says what is missing."""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from themis.errors import ErrorCode
from themis.generation.engines import other_engine
from themis.generation.worker import WorkOptions, work_shard
from themis.providers import (
    Completion,
    Engine,
    EngineInitError,
    EngineSettings,
    Message,
    Request,
    Sampling,
    create_engine,
)
from themis_bundles import Bundle, chosen, verify


@pytest.fixture
def replay() -> Iterator[Callable[..., Engine]]:
    """Replay a source."""
    made: list[Engine] = []

    def start(source: Path, *, model_id: str = "m", **options: Any) -> Engine:
        settings = EngineSettings("replay", model_id, options={"source": str(source), **options})
        made.append(other_engine(settings, None) or create_engine(settings))
        return made[-1]

    yield start
    for each in made:
        each.close()


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ask(engine: Engine, text: str, *, sample: int = 0, **params: Any) -> Completion:
    sampling = Sampling(**{"max_tokens": 8, **params})
    engine.submit(Request(0, (Message("user", text),), sampling, seed=1, sample=sample))
    (done,) = engine.poll()
    return done


def error(done: Completion) -> str:
    assert done.error is not None
    assert (done.error.kind, done.error.code) == ("model", ErrorCode.ITEM_LOAD)
    return done.error.message


class TestLines:
    """A JSON Lines file."""

    def test_answers_are_found_by_prompt(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        conversation = [{"role": "user", "content": "b"}]
        usage = {"prompt_tokens": 4, "completion_tokens": 2}
        engine = replay(
            write(
                tmp_path / "r.jsonl",
                {"prompt": "a", "text": "1", "finish_reason": "length", "usage": usage},
                {"messages": conversation, "text": "2", "latency_ms": 12.5},
            )
        )

        first, second = ask(engine, "a"), ask(engine, "b")

        assert (first.text, first.finish_reason, first.completion_tokens) == ("1", "length", 2)
        assert (second.text, second.measured["recorded_latency_ms"]) == ("2", 12.5)

    def test_samples_are_numbered_as_they_come_or_as_they_say(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = replay(
            write(
                tmp_path / "r.jsonl",
                {"prompt": "a", "text": "first"},
                {"prompt": "b", "text": "third", "sample": 2},
                {"prompt": "a", "text": "second"},
            )
        )

        assert [ask(engine, "a", sample=n).text for n in range(2)] == ["first", "second"]
        assert ask(engine, "b", sample=2).text == "third"
        assert "nothing was recorded" in error(ask(engine, "b"))
        assert "sample 2" in error(ask(engine, "a", sample=2))

    def test_models_and_parameters_tell_answers_apart(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        source = write(
            tmp_path / "r.jsonl",
            {"prompt": "a", "text": "cold", "model": "m", "params": {"temperature": 0.0}},
            {"prompt": "a", "text": "hot", "model": "m", "params": {"temperature": 1.0}},
            {"prompt": "a", "text": "other", "model": "n"},
        )
        engine = replay(source)

        assert ask(engine, "a").text == "cold"
        assert ask(engine, "a", temperature=1.0).text == "hot"
        assert "with these parameters" in error(ask(engine, "a", temperature=0.5))
        assert ask(replay(source, model="n"), "a").text == "other"
        assert "there are m, n" in error(ask(replay(source, model="x"), "a"))

    def test_different_answers_to_one_request_are_not_chosen_from(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = replay(
            write(
                tmp_path / "r.jsonl",
                {"prompt": "a", "text": "1", "sample": 0},
                {"prompt": "a", "text": "2", "sample": 0},
                {"prompt": "b", "text": "1", "sample": 0},
                {"prompt": "b", "text": "1", "sample": 0, "latency_ms": 3},
            )
        )

        assert "2 different answers" in error(ask(engine, "a"))
        assert ask(engine, "b").text == "1"

    def test_a_recorded_failure_is_a_failure(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        engine = replay(
            write(tmp_path / "r.jsonl", {"prompt": "a", "error": {"message": "filtered"}})
        )

        assert "filtered" in error(ask(engine, "a"))

    def test_a_compressed_file_will_do(self, replay: Callable[..., Engine], tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"prompt": "a", "text": "1"}\n'))

        assert ask(replay(path), "a").text == "1"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"prompt": "a", "text": "1"}\n{"prompt": "b"}\n', "line 2 is no recording"),
            ('{"prompt": "a", "text": 1}\n', "line 1 is no recording"),
            ("nonsense\n", "line 1 is no JSON"),
            ("", "holds no recorded answer"),
        ],
    )
    def test_a_file_of_something_else_is_refused(
        self, replay: Callable[..., Engine], tmp_path: Path, text: str, words: str
    ) -> None:
        path = tmp_path / "r.jsonl"
        path.write_text(text)

        with pytest.raises(EngineInitError, match=words):
            replay(path)

    def test_nothing_there_is_named(self, replay: Callable[..., Engine], tmp_path: Path) -> None:
        with pytest.raises(EngineInitError, match="no file of recordings"):
            replay(tmp_path / "nothing")

    def test_memory_does_not_grow_with_the_file(
        self, replay: Callable[..., Engine], tmp_path: Path
    ) -> None:
        path = tmp_path / "r.jsonl"
        with path.open("w") as stream:
            for number in range(20_000):
                line = {"prompt": f"q{number}", "text": "x" * 1000}
                stream.write(json.dumps(line) + "\n")

        tracemalloc.start()
        engine = replay(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert path.stat().st_size > 20_000_000
        assert peak < 2_000_000
        assert ask(engine, "q19999").text == "x" * 1000


class TestBatch:
    """Results of an OpenAI batch, with the requests that they answer."""

    @pytest.fixture
    def batch(self, tmp_path: Path) -> tuple[Path, Path]:
        def request(identity: str, text: str) -> dict[str, Any]:
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": text}],
                "max_completion_tokens": 8,
            }
            return {
                "custom_id": identity,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }

        def result(identity: str, text: str) -> dict[str, Any]:
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
            usage = {"prompt_tokens": 3, "completion_tokens": 1}
            response = {
                "status_code": 200,
                "request_id": "r",
                "body": {"model": "m", "choices": [choice], "usage": usage},
            }
            return {"id": "b", "custom_id": identity, "response": response, "error": None}

        requests = write(tmp_path / "in.jsonl", *(request(f"i{n}", f"q{n}") for n in range(3)))
        failed = {
            "id": "b",
            "custom_id": "i1",
            "response": {"status_code": 400, "body": {"error": {"message": "too long"}}},
            "error": None,
        }
        results = write(tmp_path / "out.jsonl", result("i2", "two"), failed, result("i0", "zero"))
        return results, requests

    def test_answers_are_joined_by_their_ids(
        self, replay: Callable[..., Engine], batch: tuple[Path, Path]
    ) -> None:
        engine = replay(batch[0], requests=str(batch[1]))

        assert [ask(engine, f"q{n}").text for n in (0, 2)] == ["zero", "two"]
        assert "too long" in error(ask(engine, "q1"))
        assert "with these parameters" in error(ask(engine, "q0", max_tokens=9))

    def test_the_requests_are_needed(
        self, replay: Callable[..., Engine], batch: tuple[Path, Path]
    ) -> None:
        with pytest.raises(EngineInitError, match="option 'requests'"):
            replay(batch[0])

    def test_a_result_of_another_batch_is_refused(
        self, replay: Callable[..., Engine], batch: tuple[Path, Path]
    ) -> None:
        write(batch[1], {"custom_id": "other", "body": {"prompt": "a"}})

        with pytest.raises(EngineInitError, match="no custom_id"):
            replay(batch[0], requests=str(batch[1]))


class TestThemis:
    """What Themis recorded itself."""

    def test_a_bundle_is_answered_from_another_ones_results(
        self, write_generation_bundle: Callable[..., Path]
    ) -> None:
        questions = [f"What is {n} + {n}?" for n in range(50)]
        params = {"temperature": 1.0}
        first = write_generation_bundle(questions, model_id="sampler", params=params, name="one")
        work_shard(first, 0, WorkOptions())
        second = write_generation_bundle(
            questions, provider="replay", model_id="sampler", params=params, name="two"
        )

        outcome = work_shard(second, 0, WorkOptions(engine_options={"source": str(first)}))

        texts = [
            [e.record.record["text"] for e in chosen(Bundle.open(path), 0) if e.record]
            for path in (first, second)
        ]
        assert outcome.state == "complete"
        assert texts[0] == texts[1]
        assert verify(Bundle.open(second), require_results=True).complete

    def test_what_was_not_recorded_fails_its_item_alone(
        self, write_generation_bundle: Callable[..., Path]
    ) -> None:
        first = write_generation_bundle(["a", "b"], name="one")
        work_shard(first, 0, WorkOptions())
        second = write_generation_bundle(
            ["a", "new", "b"], provider="replay", model_id="echo", name="two"
        )

        outcome = work_shard(second, 0, WorkOptions(engine_options={"source": str(first)}))

        records = [e.record for e in chosen(Bundle.open(second), 0)]
        assert (outcome.state, outcome.items_done) == ("complete", 3)
        assert [r.status for r in records if r] == ["ok", "error", "ok"]
        assert records[1] is not None
        assert "nothing was recorded" in records[1].record["error"]["message"]
