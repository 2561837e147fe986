"""A shard is worked on to its end, by as many attempts as it takes, and nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from themis.errors import EnvironmentNotReadyError
from themis.generation.answering import MAX_DEATHS
from themis.generation.worker import WorkOptions, work_shard
from themis.providers import EngineDead, EngineInitError
from themis_bundles import Bundle, BundleWriteError, chosen, finished, shard_state, verify
from themis_bundles.results import read_statuses

Write = Callable[..., Path]


def answers(path: Path, shard: int = 0) -> dict[int, dict[str, Any]]:
    """Return the chosen record of each item that has one."""
    return {
        entry.item.seq: entry.record.record
        for entry in chosen(Bundle.open(path), shard)
        if entry.record is not None
    }


def attempts(path: Path, shard: int = 0) -> int:
    return len(shard_state(Bundle.open(path), shard).attempts)


def test_a_shard_is_answered_and_proved_complete(write_generation_bundle: Write) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(200)])

    outcome = work_shard(path, 0, WorkOptions())

    assert (outcome.state, outcome.items_done, outcome.items_total) == ("complete", 200, 200)
    assert [record["text"] for _, record in sorted(answers(path).items())] == [
        f"q{n}" for n in range(200)
    ]
    census = verify(Bundle.open(path), require_results=True)
    assert census.complete
    assert census.problems == ()


def test_a_finished_shard_loads_nothing(
    write_generation_bundle: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_generation_bundle(["a", "b"])
    work_shard(path, 0, WorkOptions())
    monkeypatch.setattr("themis.generation.worker.create_engine", lambda _: pytest.fail("loaded"))

    outcome = work_shard(path, 0, WorkOptions())

    assert (outcome.state, outcome.items_done, outcome.attempt) == ("already", 2, "")
    assert attempts(path) == 1


def test_a_shard_killed_before_its_announcement_is_announced_without_an_engine(
    write_generation_bundle: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_generation_bundle(["a", "b"])
    work_shard(path, 0, WorkOptions())
    (path / "results" / "00000" / "done.json").unlink()
    monkeypatch.setattr("themis.generation.worker.create_engine", lambda _: pytest.fail("loaded"))

    outcome = work_shard(path, 0, WorkOptions())

    assert outcome.state == "already"
    assert shard_state(Bundle.open(path), 0).done


def test_results_can_go_elsewhere(write_generation_bundle: Write, tmp_path: Path) -> None:
    path = write_generation_bundle(["a"])

    work_shard(path, 0, WorkOptions(results=tmp_path / "out"))

    assert not (path / "results").exists()
    assert verify(Bundle.open(path, results=tmp_path / "out"), require_results=True).complete


def test_sampling_comes_from_the_bundle(write_generation_bundle: Write) -> None:
    path = write_generation_bundle(
        ["one two STOP three", "a b c d e f"], params={"max_tokens": 3, "stop_sequences": ["STOP"]}
    )

    work_shard(path, 0, WorkOptions())

    assert [record["finish_reason"] for record in answers(path).values()] == ["stop", "length"]
    assert answers(path)[0]["stop_reason"] == "STOP"


def test_a_rejected_item_is_a_final_error_and_the_rest_go_on(
    write_generation_bundle: Write, engines: list[Any]
) -> None:
    path = write_generation_bundle(["a", "reject", "b"])

    outcome = work_shard(path, 0, WorkOptions())

    assert (outcome.state, outcome.items_done) == ("complete", 3)
    assert answers(path)[1]["error"] == {
        "code": "schema_mismatch",
        "kind": "model",
        "message": "too long",
        "retryable": False,
    }


def test_an_items_conversation_keeps_its_turns(
    write_generation_bundle: Write, engines: list[Any]
) -> None:
    path = write_generation_bundle(["first"], follow_ups=["second"])

    work_shard(path, 0, WorkOptions())

    record = answers(path)[0]
    assert record["text"] == "second!"
    assert record["turns"] == [{"text": "first!", "finish_reason": "stop"}]
    assert record["usage"]["completion_tokens"] == 2


class TestEngineDeath:
    """What was finished stays, a new engine goes on, and one bad item is found."""

    def test_one_poisonous_item_is_given_up_and_all_others_are_answered(
        self, write_generation_bundle: Write, engines: list[Any]
    ) -> None:
        questions = ["poison" if n == 20 else f"q{n}" for n in range(60)]
        path = write_generation_bundle(questions)

        outcome = work_shard(path, 0, WorkOptions())

        records = answers(path)
        failed = {seq for seq, record in records.items() if "error" in record}
        assert failed == {20}
        assert records[20]["error"]["kind"] == "infra"
        assert (outcome.state, outcome.items_done) == ("partial", 59)
        assert len(engines) == 3
        assert all(engine.closed for engine in engines)

    def test_the_receipt_says_what_failed_and_how_long_loading_took(
        self, write_generation_bundle: Write, engines: list[Any]
    ) -> None:
        path = write_generation_bundle(["a", "poison", "b"])

        work_shard(path, 0, WorkOptions())

        (status,) = read_statuses(Bundle.open(path), 0)
        told = status.model_extra or {}
        assert told["errors"] == {"infra provider_unavailable": 1}
        assert told["tokens"] == len(engines) - 1
        assert told["loading_s"] >= 0

    def test_the_next_attempt_tries_the_given_up_item_again(
        self, write_generation_bundle: Write, engines: list[Any]
    ) -> None:
        path = write_generation_bundle(["a", "poison", "b"])
        work_shard(path, 0, WorkOptions())
        before = len(engines)

        work_shard(path, 0, WorkOptions())

        assert {seq for engine in engines[before:] for seq in engine.submitted} == {1}

    def test_an_engine_that_keeps_dying_fails_the_shard_with_its_records_kept(
        self, write_generation_bundle: Write, engines: list[Any]
    ) -> None:
        path = write_generation_bundle(["fine", *["poison"] * 40])

        outcome = work_shard(path, 0, WorkOptions())

        assert outcome.state == "failed"
        assert "poisoned" in outcome.cause
        assert len(engines) == MAX_DEATHS + 1

    def test_a_new_engine_that_does_not_start_leaves_a_partial_shard(
        self, write_generation_bundle: Write, engines: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from themis.generation import worker

        build = worker.create_engine  # type: ignore[attr-defined]

        def once(settings: Any) -> Any:
            if engines:
                raise EngineInitError("the GPU is gone")
            return build(settings)

        monkeypatch.setattr("themis.generation.worker.create_engine", once)
        path = write_generation_bundle(["a", "poison"])

        outcome = work_shard(path, 0, WorkOptions())

        assert outcome.state == "partial"
        assert "the GPU is gone" in outcome.cause

    def test_a_death_while_stopping_starts_no_other_engine(
        self,
        write_generation_bundle: Write,
        engines: list[Any],
        scripted: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Slurm's SIGTERM reaches the engine's processes too."""

        def die_late(_engine: Any) -> None:
            time.sleep(0.2)
            raise EngineDead("terminated")

        monkeypatch.setattr(scripted, "poll", die_late)
        path = write_generation_bundle(["a"])

        outcome = work_shard(path, 0, WorkOptions(deadline=time.time() + 0.1, drain_seconds=5))

        assert (outcome.state, outcome.cause) == ("partial", "deadline")
        assert len(engines) == 1


def test_an_engine_that_does_not_load_leaves_no_attempt(write_generation_bundle: Write) -> None:
    path = write_generation_bundle(["a"], provider="hf", model_id="no/where")

    with pytest.raises(EnvironmentNotReadyError, match="no/where"):
        work_shard(path, 0, WorkOptions())

    assert not (path / "results").exists()


def test_lone_surrogates_become_replacement_characters_with_a_flag(
    write_generation_bundle: Write, answering: Callable[[Callable[[int], str]], None]
) -> None:
    path = write_generation_bundle(["a"])
    answering(lambda _seq: "half \ud83d")

    work_shard(path, 0, WorkOptions())

    assert answers(path)[0]["text"] == "half \ufffd"
    assert answers(path)[0]["flags"] == ["surrogates_replaced"]


def test_an_answer_that_the_format_cannot_carry_is_an_error_of_its_item(
    write_generation_bundle: Write, answering: Callable[[Callable[[int], str]], None]
) -> None:
    path = write_generation_bundle(["a", "b"])
    answering(lambda seq: "x" * (17 << 20) if seq == 0 else "short")

    outcome = work_shard(path, 0, WorkOptions())

    assert outcome.state == "complete"
    assert answers(path)[0]["error"]["code"] == "storage_write"
    assert answers(path)[1]["text"] == "short"


def test_the_header_says_where_answers_came_from_and_holds_no_secret(
    write_generation_bundle: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zstandard

    monkeypatch.setenv("MY_API_KEY", "hunter2-secret")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "testcluster")
    path = write_generation_bundle(["a"])

    outcome = work_shard(path, 0, WorkOptions(engine_options={"latency_ms": 1}))

    file = path / "results" / "00000" / f"{outcome.attempt}.jsonl.zst"
    with zstandard.open(file, "rt", encoding="utf-8") as stream:
        line = stream.readline()
    provenance = json.loads(line)["header"]["provenance"]
    assert provenance["engine"] == {"engine": "demo", "model": {"id": "echo"}}
    assert provenance["options"] == {"latency_ms": 1}
    assert provenance["machine"]["environment"]["SLURM_CLUSTER_NAME"] == "testcluster"
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyboardInterrupt(), ("partial", "interrupted")),
        (BundleWriteError(Path("results"), "No space left on device"), ("failed", "No space")),
        (RuntimeError("a bug"), ("failed", "RuntimeError: a bug")),
    ],
)
def test_whatever_ends_an_attempt_keeps_its_records_and_closes_its_engine(
    write_generation_bundle: Write,
    engines: list[Any],
    scripted: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    outcome: tuple[str, str],
) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(20)])
    poll = scripted.poll

    def fail_later(engine: Any) -> Any:
        if len(engine.submitted) == 12:
            raise error
        return poll(engine)

    monkeypatch.setattr(scripted, "poll", fail_later)

    with pytest.raises(type(error)):
        work_shard(path, 0, WorkOptions())

    (status,) = (path / "results" / "00000").glob("*.json")
    ended = json.loads(status.read_bytes())
    assert ended["outcome"] == outcome[0]
    assert outcome[1] in ended["cause"]
    assert len(finished(Bundle.open(path), 0)) == 4
    assert engines[0].closed


class TestStopping:
    """A stop keeps what is finished, and the same command continues."""

    def test_a_deadline_ends_in_a_partial_shard_that_the_next_attempt_completes(
        self, write_generation_bundle: Write
    ) -> None:
        path = write_generation_bundle([f"q{n}" for n in range(100)])
        slow = WorkOptions(
            engine_options={"latency_ms": 10}, deadline=time.time() + 0.2, drain_seconds=0
        )

        first = work_shard(path, 0, slow)
        second = work_shard(path, 0, WorkOptions())

        assert (first.state, first.cause) == ("partial", "deadline")
        assert 0 < first.items_done < 100
        assert (second.state, second.items_done) == ("complete", 100)
        census = verify(Bundle.open(path), require_results=True)
        assert census.complete
        assert census.counts["duplicate"] == 0

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2", "SIGINT"])
    def test_a_signal_ends_a_real_worker_in_order(
        self, write_generation_bundle: Write, name: str
    ) -> None:
        path = write_generation_bundle([f"q{n}" for n in range(200)])
        process = start_worker(path, latency_ms=20, drain_seconds=0.1)
        wait_for(lambda: len(finished(Bundle.open(path), 0)) > 8)

        process.send_signal(getattr(signal, name))
        output, _ = process.communicate(timeout=20)

        outcome = json.loads(output)
        assert process.returncode == 0
        assert (outcome["state"], outcome["cause"]) == ("partial", name)
        assert 8 < outcome["items_done"] < 200
        assert len(finished(Bundle.open(path), 0)) == outcome["items_done"]


def test_after_kill_9_only_what_was_not_flushed_is_done_again(
    write_generation_bundle: Write,
) -> None:
    path = write_generation_bundle([f"q{n}" for n in range(60)])
    process = start_worker(path, latency_ms=20, drain_seconds=0)
    wait_for(lambda: len(finished(Bundle.open(path), 0)) >= 12)
    process.kill()
    process.communicate(timeout=20)
    kept = len(finished(Bundle.open(path), 0))

    outcome = work_shard(path, 0, WorkOptions())

    assert (outcome.state, outcome.items_done) == ("complete", 60)
    assert 12 <= kept < 60
    bundle = Bundle.open(path)
    census = verify(bundle, require_results=True)
    assert census.complete
    assert census.counts["duplicate"] == 0
    by_attempt: dict[str, int] = {}
    for entry in chosen(bundle, 0):
        assert entry.record is not None
        assert entry.record.record["text"] == f"q{entry.item.seq}"
        by_attempt[entry.record.attempt] = by_attempt.get(entry.record.attempt, 0) + 1
    assert by_attempt[outcome.attempt] == 60 - kept


WORKER = """
import dataclasses, json, sys
from pathlib import Path
from themis.generation.worker import WorkOptions, work_shard
path, latency, drain = sys.argv[1:]
options = WorkOptions(
    engine_options={"latency_ms": float(latency)}, drain_seconds=float(drain), flush_records=4
)
print(json.dumps(dataclasses.asdict(work_shard(Path(path), 0, options))))
"""


def start_worker(path: Path, *, latency_ms: float, drain_seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(latency_ms), str(drain_seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the worker did not get so far"
        time.sleep(0.02)
