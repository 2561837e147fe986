"""The OpenAI-compatible engine against a server that misbehaves in every way it can."""

import datetime as dt
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.errors import (
    EnvironmentNotReadyError,
    ErrorCode,
    InferenceError,
    OrchestrationAbortedError,
)
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
from themis.providers.openai import retry_after
from themis.results.provenance_facts import facts, rule_of
from themis_bundles import Bundle, chosen, verify

pytest.importorskip("httpx")

KEY = "sk-very-secret-0123456789"
QUICK = {"backoff_seconds": 0.01, "timeout_seconds": 5.0}


@pytest.fixture
def engine(service: Any) -> Iterator[Callable[..., Engine]]:
    """Make an engine that asks the test's server, with these options."""
    made: list[Engine] = []

    def make(extras: dict[str, Any] | None = None, **options: Any) -> Engine:
        made.append(
            create_engine(
                EngineSettings(
                    "openai",
                    "m",
                    extras=extras or {},
                    options={"base_url": service.url, **QUICK, **options},
                )
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def ask(number: int, text: str | None = None, **params: Any) -> Request:
    message = Message("user", f"q{number}" if text is None else text)
    return Request(number, (message,), Sampling(**{"max_tokens": 8, **params}), seed=number)


def run(engine: Engine, requests: Iterable[Request]) -> dict[int, Completion]:
    for request in requests:
        engine.submit(request)
    done: dict[int, Completion] = {}
    while engine.inflight:
        done |= {completion.id: completion for completion in engine.poll()}
    return done


class TestAnswers:
    """What is asked reaches the server, and what it says is recorded."""

    @pytest.mark.parametrize("stream", [True, False])
    def test_an_answer_has_its_text_usage_and_origin(
        self, engine: Callable[..., Engine], *, stream: bool
    ) -> None:
        done = run(engine(stream=stream), [ask(0, "Hello")])[0]

        assert (done.text, done.finish_reason) == ("Hello!", "stop")
        assert (done.prompt_tokens, done.completion_tokens, done.cached_tokens) == (7, 3, 2)
        assert done.measured["service"] == {
            "id": "req-1",
            "model": "m-2026",
            "system_fingerprint": "fp",
        }
        assert done.latency_ms > 0
        assert ("time_to_first_token_ms" in done.measured) is stream

    def test_the_time_to_the_first_token_is_not_that_to_the_last(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        def slowly(call: Any) -> None:
            def part(**delta: str) -> dict[str, Any]:
                return {"choices": [{"delta": delta}]}

            call.send_parts([part(role="assistant"), part(content="a")], end=False)
            time.sleep(0.4)
            last = {"choices": [{"delta": {"content": "b"}, "finish_reason": "length"}]}
            call.wfile.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())

        service.reply = slowly

        done = run(engine(), [ask(0)])[0]

        assert (done.text, done.finish_reason) == ("ab", "length")
        assert done.measured["time_to_first_token_ms"] < 300 < done.latency_ms

    def test_every_parameter_is_sent(self, engine: Callable[..., Engine], service: Any) -> None:
        request = ask(
            3,
            temperature=0.7,
            top_p=0.9,
            top_k=40,
            stop=("END",),
            logprobs=2,
            response_format="json",
            extras={"min_p": 0.1, "regex": "[a-z]+"},
        )

        run(engine(dialect="vllm"), [request])

        (body,) = service.bodies
        assert body.pop("messages") == [{"role": "user", "content": "q3"}]
        assert body == {
            "model": "m",
            "max_tokens": 8,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "seed": 3,
            "stop": ["END"],
            "logprobs": True,
            "top_logprobs": 2,
            "response_format": {"type": "json_object"},
            "structured_outputs": {"regex": "[a-z]+"},
            "min_p": 0.1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_a_plain_prompt_goes_to_completions(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        def complete(call: Any) -> None:
            assert call.path.endswith("/v1/completions")
            choice = {"text": f"{call.body['prompt']} ok", "finish_reason": "stop"}
            logprobs = {
                "tokens": [" ok"],
                "token_logprobs": [-0.5],
                "top_logprobs": [{" no": -2.0, " ok": -0.5}],
            }
            call.send_json({"choices": [{**choice, "logprobs": logprobs}]})

        service.reply = complete

        done = run(
            engine(extras={"prompt_format": "plain"}, stream=False), [ask(0, "One", logprobs=1)]
        )[0]

        assert done.text == "One ok"
        assert done.logprobs == (
            {
                "id": None,
                "token": " ok",
                "logprob": -0.5,
                "top": [{"id": None, "token": " ok", "logprob": -0.5}],
            },
        )

    def test_what_the_server_would_drop_is_refused(self, engine: Callable[..., Engine]) -> None:
        compatible = engine()
        begun = Request(0, (Message("user", "a"), Message("assistant", "b")), Sampling(8), seed=0)

        for request, words in (
            (ask(0, top_k=5), "top_k"),
            (ask(0, extras={"regex": "x"}), "regex"),
            (ask(0, logprobs=21), "logprobs=21"),
            (begun, "begun answer"),
        ):
            with pytest.raises(RequestRejected, match=words):
                compatible.submit(request)
        assert compatible.inflight == 0

    def test_the_description_names_what_the_server_says_of_the_model(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        made = engine()

        assert made.describe()["model"]["served"] == {
            "id": "m",
            "owned_by": "tests",
            "max_model_len": 512,
        }
        assert made.describe()["endpoint"]["base_url"] == service.url
        assert made.capabilities().max_model_len == 512


class TestInFlight:
    """As many calls are open as the option says, and no more are sent than limits allow."""

    def test_the_window_is_truly_in_flight(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        def slow(call: Any) -> None:
            time.sleep(0.2)
            call.answer("ok")

        service.reply = slow
        made = engine(max_in_flight=24)
        assert made.window == 24
        began = time.monotonic()

        run(made, [ask(n) for n in range(24)])

        assert service.most_open == 24
        assert time.monotonic() - began < 24 * 0.2

    def test_requests_a_minute_are_spread(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        run(engine(requests_per_minute=1200), [ask(n) for n in range(30)])

        # 20 at once, which is one second's worth, then one every 50 ms.
        assert service.times[-1] - service.times[0] > 0.4

    def test_tokens_a_minute_count_what_was_used(self, engine: Callable[..., Engine]) -> None:
        made = engine(tokens_per_minute=6000)
        began = time.monotonic()

        # Each is expected to take 250, and takes 10: the bucket of 100 is overdrawn once each.
        run(made, [ask(n, max_tokens=250) for n in range(4)])

        assert 0.2 < time.monotonic() - began < 6

    def test_cancelling_hangs_up(self, engine: Callable[..., Engine], service: Any) -> None:
        def late(call: Any) -> None:
            time.sleep(0.5)
            call.answer("late")

        service.reply = late
        made = engine(max_in_flight=4)
        for number in range(4):
            made.submit(ask(number))

        assert sorted(made.cancel()) == [0, 1, 2, 3]
        assert made.inflight == 0
        service.reply = lambda call: call.answer("fresh")
        assert run(made, [ask(1)])[1].text == "fresh"


class TestFailures:
    """What may pass is asked again; what cannot fails alone; what hits all ends the attempt."""

    def test_after_429_everybody_waits_as_long_as_the_server_says(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        def limited(call: Any) -> None:
            if service.count == 1:
                call.send_json(
                    {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0.6"}
                )
            else:
                call.answer("ok")

        service.reply = limited
        made = engine()

        first = run(made, [ask(0)])
        assert first[0].text == "ok"
        assert service.times[1] - service.times[0] >= 0.6

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_again_and_then_the_machinerys_failure(
        self, engine: Callable[..., Engine], service: Any, status: int
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "overloaded"}, status=status)

        done = run(engine(max_retries=2), [ask(0)])[0]

        assert service.count == 3
        assert done.error is not None
        assert (done.error.kind, done.error.retryable) == ("infra", True)
        assert "overloaded" in done.error.message

    def test_waits_grow(self, engine: Callable[..., Engine], service: Any) -> None:
        service.reply = lambda call: call.send_json({"error": "x"}, status=500)

        run(engine(max_retries=3, backoff_seconds=0.1, retry_backoff_factor=3), [ask(0)])

        gaps = [b - a for a, b in zip(service.times, service.times[1:], strict=False)]
        assert gaps[0] < gaps[2]
        assert gaps[2] >= 0.45

    def test_only_the_codes_that_the_policy_names_are_tried_again(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "x"}, status=500)

        run(engine(retryable_error_codes=["provider_rate_limit"]), [ask(0)])

        assert service.count == 1

    def test_a_wait_that_is_too_long_is_not_waited_for(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.reply = lambda call: call.send_json(
            {"error": "x"}, status=429, headers={"Retry-After": "3600"}
        )

        done = run(engine(), [ask(0)])[0]

        assert done.error is not None
        assert done.error.code is ErrorCode.PROVIDER_RATE_LIMIT
        assert service.count == 1

    @pytest.mark.parametrize("status", [400, 413, 422])
    def test_a_bad_request_fails_alone_and_at_once(
        self, engine: Callable[..., Engine], service: Any, status: int
    ) -> None:
        def refuse(call: Any) -> None:
            if call.question == "q1":
                call.send_json({"error": {"message": "too long"}}, status=status)
            else:
                call.answer("ok")

        service.reply = refuse

        done = run(engine(), [ask(n) for n in range(3)])

        assert done[1].error is not None
        assert done[1].error.kind == "model"
        assert service.count == 3
        assert (done[0].text, done[2].text) == ("ok", "ok")

    def test_a_stream_that_breaks_off_is_asked_again(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        def torn(call: Any) -> None:
            if service.count == 1:
                call.send_parts([{"choices": [{"delta": {"content": "hal"}}]}], end=False)
            else:
                call.answer("whole")

        service.reply = torn

        assert run(engine(), [ask(0)])[0].text == "whole"
        assert service.count == 2

    def test_an_error_in_the_middle_of_a_stream_is_asked_again(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.reply = lambda call: call.send_parts(
            [{"choices": [{"delta": {"content": "hal"}}]}, {"error": {"message": "CUDA died"}}]
        )

        done = run(engine(max_retries=1), [ask(0)])[0]

        assert done.error is not None
        assert "CUDA died" in done.error.message
        assert service.count == 2

    @pytest.mark.parametrize("text", ["<html>busy</html>", '{"choices": 7}', '{"choices": []}'])
    def test_a_reply_of_another_form_is_asked_again(
        self, engine: Callable[..., Engine], service: Any, text: str
    ) -> None:
        def odd(call: Any) -> None:
            if service.count == 1:
                call.send_text(text)
            else:
                call.answer("ok")

        service.reply = odd

        assert run(engine(stream=False), [ask(0)])[0].text == "ok"

    def test_an_answer_that_does_not_come_is_a_timeout(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.reply = lambda _call: time.sleep(1)

        done = run(engine(timeout_seconds=0.2, max_retries=1), [ask(0)])[0]

        assert done.error is not None
        assert done.error.code is ErrorCode.PROVIDER_TIMEOUT
        assert service.count == 2

    @pytest.mark.parametrize(
        ("status", "code"),
        [(401, "provider_auth"), (402, "provider_auth"), (404, "provider_unavailable")],
    )
    def test_what_fails_all_requests_ends_the_attempt(
        self, engine: Callable[..., Engine], service: Any, status: int, code: str
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "no"}, status=status)
        made = engine()

        with pytest.raises(InferenceError) as caught:
            run(made, [ask(n) for n in range(4)])

        assert caught.value.code == code
        assert service.count <= 4

    def test_equal_failures_in_a_row_end_the_attempt(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "down"}, status=500)
        made = engine(max_retries=0, circuit_breaker_threshold=3, max_in_flight=1)

        def one_by_one() -> None:
            for number in range(50):
                made.submit(ask(number))
                made.poll()

        with pytest.raises(OrchestrationAbortedError, match="3 requests in a row"):
            one_by_one()

        assert service.count == 3


class TestStart:
    """A wrong address, option or key shows before any item."""

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = EngineSettings(
            "openai", "m", options={"base_url": f"http://127.0.0.1:{port}/v1"}
        )

        with pytest.raises(EngineInitError, match="does not answer"):
            create_engine(settings)

    def test_a_server_without_a_list_of_models_will_do(
        self, engine: Callable[..., Engine], service: Any
    ) -> None:
        service.status_of_models = 404

        assert run(engine(), [ask(0)])[0].text == "q0!"

    def test_a_refused_key_shows_at_once(
        self, engine: Callable[..., Engine], service: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_KEY", KEY)
        service.status_of_models = 401

        with pytest.raises(EngineInitError, match="refuses the key") as caught:
            engine(api_key_env="MY_KEY")

        assert caught.value.code == "provider_auth"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"base_url": "localhost:8000"}, "must be an address"),
            ({"base_url": "https://me:pw@host/v1"}, "no user, password"),
            ({"base_url": "https://host/v1?key=abc"}, "no user, password"),
            ({"api_key_env": KEY}, "never the key itself"),
            ({"max_in_flight": 0}, "max_in_flight"),
            ({"api_key": KEY}, "api_key"),
        ],
        ids=str,
    )
    def test_an_option_that_cannot_be_is_refused_without_showing_it(
        self, engine: Callable[..., Engine], options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(EngineInitError, match=words) as caught:
            engine(**options)

        assert KEY not in str(caught.value)
        assert "pw@" not in str(caught.value)

    def test_a_variable_that_is_not_set_is_named(self, engine: Callable[..., Engine]) -> None:
        with pytest.raises(EnvironmentNotReadyError, match="NO_SUCH_KEY"):
            engine(api_key_env="NO_SUCH_KEY")


def test_retry_after_may_be_a_date() -> None:
    now = dt.datetime(2026, 1, 1, 12, 0, 0, tzinfo=dt.UTC)

    assert retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now=now) == 30
    assert retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now=now) == 0


class TestWork:
    """The same through a worker."""

    def test_a_flaky_service_ends_in_a_complete_shard(
        self, service: Any, write_generation_bundle: Callable[..., Path]
    ) -> None:
        failed: set[str] = set()

        def flaky(call: Any) -> None:
            if call.question not in failed:
                failed.add(call.question)
                call.send_json({"error": "again"}, status=503)
            else:
                call.answer(f"{call.question}!")

        service.reply = flaky
        path = write_generation_bundle(
            [f"q{n}" for n in range(40)], provider="openai", model_id="m"
        )

        outcome = work_shard(
            path, 0, WorkOptions(engine_options={"base_url": service.url, **QUICK})
        )

        bundle = Bundle.open(path)
        records = [entry.record.record for entry in chosen(bundle, 0) if entry.record]
        assert (outcome.state, service.count) == ("complete", 80)
        assert [record["text"] for record in records] == [f"q{n}!" for n in range(40)]
        assert all(record["usage"]["time_to_first_token_ms"] > 0 for record in records)
        assert verify(bundle, require_results=True).complete

    def test_what_the_policy_gave_up_is_not_asked_once_more_by_the_driver(
        self, service: Any, write_generation_bundle: Callable[..., Path]
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "again"}, status=503)
        path = write_generation_bundle(["a"], provider="openai", model_id="m")
        options = {"base_url": service.url, **QUICK, "max_retries": 2}

        outcome = work_shard(path, 0, WorkOptions(engine_options=options))

        assert (outcome.state, service.count) == ("partial", 3)

    def test_a_fatal_failure_keeps_what_was_finished_for_the_next_attempt(
        self, service: Any, write_generation_bundle: Callable[..., Path]
    ) -> None:
        def revoked(call: Any) -> None:
            if call.number > 12:
                call.send_json({"error": "revoked"}, status=401)
            else:
                call.answer("ok")

        service.reply = revoked
        path = write_generation_bundle(
            [f"q{n}" for n in range(40)], provider="openai", model_id="m"
        )
        options = WorkOptions(engine_options={"base_url": service.url, **QUICK, "max_in_flight": 4})

        with pytest.raises(InferenceError, match="revoked"):
            work_shard(path, 0, options)
        kept = sum(entry.record is not None for entry in chosen(Bundle.open(path), 0))
        service.reply = lambda call: call.answer("ok")

        assert 12 - 3 <= kept <= 12
        assert work_shard(path, 0, options).state == "complete"
        assert service.count <= 12 + 4 + 40 - kept

    def test_a_deadline_hangs_up_what_is_open_and_the_next_attempt_asks_it_again(
        self, service: Any, write_generation_bundle: Callable[..., Path]
    ) -> None:
        released = threading.Event()

        def stuck(call: Any) -> None:
            if call.number > 8:
                released.wait(20)
            call.answer("ok")

        service.reply = stuck
        path = write_generation_bundle(
            [f"q{n}" for n in range(20)], provider="openai", model_id="m"
        )
        options = {"base_url": service.url, **QUICK, "max_in_flight": 4, "timeout_seconds": 60.0}
        began = time.time()

        first = work_shard(
            path, 0, WorkOptions(engine_options=options, deadline=began + 1, drain_seconds=0.2)
        )
        released.set()
        second = work_shard(path, 0, WorkOptions(engine_options=options))

        assert (first.state, first.cause, first.items_done) == ("partial", "deadline", 8)
        assert time.time() - began < 15
        assert (second.state, second.items_done) == ("complete", 20)

    def test_the_projects_policy_counts_for_run(
        self, service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.reply = lambda call: call.send_json({"error": "down"}, status=503)
        assert CliRunner().invoke(main, ["init", str(tmp_path / "p")]).exit_code == 0
        monkeypatch.chdir(tmp_path / "p")
        benchmark = Path("benchmark.toml").read_text().replace('"demo"', '"openai"')
        Path("benchmark.toml").write_text(benchmark)
        with Path("project.toml").open("a") as stream:
            stream.write(
                "\n[execution_policy]\nmax_retries = 2\ncircuit_breaker_threshold = 3\n"
                "max_in_flight_work_items = 1\n"
            )

        done = CliRunner().invoke(
            main,
            [
                *("run", "benchmark.toml", "--engine-option", f"base_url={service.url}"),
                *("--engine-option", "backoff_seconds=0.01"),
            ],
        )

        assert done.exit_code == 1
        assert "3 requests in a row failed alike" in done.output
        assert service.count == 3 * 3
        assert service.most_open == 1

    def test_a_key_on_the_command_line_is_refused_unseen(self) -> None:
        done = CliRunner().invoke(
            main, ["work", "bundle", "--shard", "0", "--engine-option", f"api_key={KEY}"]
        )

        assert done.exit_code == 2
        assert "api_key_env" in done.output
        assert KEY not in done.output

    def test_the_key_is_in_no_file_message_or_log(
        self,
        service: Any,
        write_generation_bundle: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("MY_KEY", KEY)
        caplog.set_level(0)

        def tells(call: Any) -> None:
            sent = call.headers["Authorization"]
            if call.question == "q1":
                call.send_json({"error": {"message": f"bad key {sent}"}}, status=400)
            else:
                call.answer("ok")

        service.reply = tells
        path = write_generation_bundle(["q0", "q1"], provider="openai", model_id="m")
        options = {"base_url": service.url, "api_key_env": "MY_KEY", **QUICK}

        assert work_shard(path, 0, WorkOptions(engine_options=options)).state == "complete"

        assert f"Bearer {KEY}" in service.authorizations
        assert KEY not in caplog.text
        records = [entry.record for entry in chosen(Bundle.open(path), 0)]
        assert records[1] is not None
        assert "***" in records[1].record["error"]["message"]
        import zstandard

        for file in tmp_path.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                if file.suffix == ".zst":
                    data = (
                        zstandard.ZstdDecompressor()
                        .stream_reader(data, read_across_frames=True)
                        .read()
                    )
                assert KEY.encode() not in data, file


def test_runs_on_two_servers_say_so_when_they_are_compared(
    engine: Callable[..., Engine], service: Any
) -> None:
    found = facts({"engine": engine(dialect="vllm").describe()})

    assert found["server"] == service.url
    assert found["max_model_len"] == "512"
    assert found["prompt style"] == "chat"
    assert rule_of("server", found).severity == "may affect results"
