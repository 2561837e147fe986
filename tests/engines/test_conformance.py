"""What every engine promises, on a model that knows its answers by heart."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from themis.generation.worker import WorkOptions, work_shard
from themis.providers import (
    Completion,
    Engine,
    Message,
    Request,
    RequestRejected,
    Sampling,
)
from themis_bundles import Bundle, chosen, verify

pytestmark = [
    pytest.mark.engine,
    # vLLM and torch deprecate parts of each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

Ask = Callable[..., Request]
Complete = Callable[..., dict[int, Completion]]
QA = list[tuple[str, str]]


def results(completions: dict[int, Completion]) -> dict[int, Any]:
    """Return what must not depend on circumstances."""
    return {
        number: (
            done.text,
            done.finish_reason,
            done.stop_reason,
            done.prompt_tokens,
            done.completion_tokens,
            done.prompt_sha256,
        )
        for number, done in completions.items()
    }


def mixed(ask: Ask, qa: QA) -> list[Request]:
    """Greedy, seeded and stopping requests."""
    greedy = [ask(n, qa[n][0]) for n in range(64)]
    seeded = [
        ask(100 + n, qa[n % 50][0], temperature=1.5, top_p=0.98, top_k=100) for n in range(128)
    ]
    stopping = [ask(300 + n, qa[n][0], stop=("is", "capital")) for n in range(8)]
    return [*greedy, *seeded, *stopping]


def test_each_request_comes_back_once(any_engine: Engine, ask: Ask, complete: Complete) -> None:
    done = complete(any_engine, [ask(n, f"Question {n}?") for n in range(20)])

    assert sorted(done) == list(range(20))
    assert all(completion.error is None for completion in done.values())
    assert all(completion.latency_ms > 0 for completion in done.values())
    assert any_engine.inflight == 0


def test_an_idle_engine_polls_to_nothing(any_engine: Engine) -> None:
    assert any_engine.poll() == []


def test_the_description_names_the_engine_and_the_model(any_engine: Engine) -> None:
    described = any_engine.describe()

    assert described["engine"]
    assert described["model"]["id"]


def test_cancelled_requests_are_named_and_the_engine_goes_on(
    any_engine: Engine, ask: Ask, complete: Complete
) -> None:
    for number in range(5):
        any_engine.submit(ask(number, "What is the capital of France?"))

    assert sorted(any_engine.cancel()) == [0, 1, 2, 3, 4]
    assert any_engine.inflight == 0
    assert sorted(complete(any_engine, [ask(7, "What is the capital of Spain?")])) == [7]


def test_an_unknown_parameter_is_refused_by_name(any_engine: Engine, ask: Ask) -> None:
    with pytest.raises(RequestRejected, match="tempratur"):
        any_engine.submit(ask(0, "Hello", extras={"tempratur": 1}))


def test_max_tokens_ends_an_answer_with_length(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    done = complete(model_engine, [ask(0, "What is the capital of France?", max_tokens=3)])[0]

    assert (done.finish_reason, done.completion_tokens, done.flags) == ("length", 3, ())


def test_order_and_window_change_no_result(
    model_engine: Engine, ask: Ask, complete: Complete, qa: QA
) -> None:
    requests = mixed(ask, qa)
    reference = results(complete(model_engine, requests))

    assert results(complete(model_engine, reversed(requests))) == reference
    assert results(complete(model_engine, requests, window=8)) == reference
    assert len({done[0] for number, done in reference.items() if 100 <= number < 300}) > 40


def test_a_seeded_sample_is_the_same_alone_and_differs_by_seed(
    model_engine: Engine, ask: Ask, complete: Complete, qa: QA
) -> None:
    hot = {"temperature": 2.0, "max_tokens": 16}
    crowd = complete(model_engine, [ask(n, qa[n][0], **hot) for n in range(30)])
    alone = complete(model_engine, [ask(7, qa[7][0], **hot)])
    seeds = complete(model_engine, [ask(n, qa[7][0], seed=n * 1000, **hot) for n in range(20)])

    assert alone[7].text == crowd[7].text
    assert len({done.text for done in seeds.values()}) > 5


def test_a_stop_text_is_not_part_of_the_answer(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    question = "What is the capital of France?"

    done = complete(
        model_engine, [ask(0, question, stop=(" is",)), ask(1, question, stop=("Fr", "zz"))]
    )

    assert (done[0].text, done[0].stop_reason) == ("The capital of France", " is")
    assert (done[1].text, done[1].stop_reason) == ("The capital of ", "Fr")
    assert {completion.finish_reason for completion in done.values()} == {"stop"}


def test_a_stop_text_in_the_prompt_stops_nothing(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    done = complete(model_engine, [ask(0, "What is the capital of France?", stop=("What",))])

    assert done[0].text == "The capital of France is Paris."


def test_a_stop_text_that_begins_in_the_prompt_stops_nothing(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    request = ask(0, "What is the capital of France?", stop=("assistant\nThe", "\nThe"))

    assert complete(model_engine, [request])[0].text == "The capital of France is Paris."


def test_a_stop_text_within_the_least_length_stops_nothing(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    question = "What is the capital of France?"
    least = {"min_tokens": 4}

    done = complete(
        model_engine,
        [
            ask(0, question, stop=("The",), extras=least),
            ask(1, question, stop=("Paris",), extras=least),
        ],
    )

    assert done[0].text == "The capital of France is Paris."
    assert (done[1].text, done[1].stop_reason) == ("The capital of France is ", "Paris")


def test_a_stop_token_is_reported(model_engine: Engine, ask: Ask, complete: Complete) -> None:
    tokenizer = model_engine._renderer.tokenizer  # type: ignore[attr-defined]
    first, second, *_ = tokenizer("The capital of France is Paris.", add_special_tokens=False)[
        "input_ids"
    ]
    del first
    request = ask(0, "What is the capital of France?", extras={"stop_token_ids": [second]})

    done = complete(model_engine, [request])[0]

    assert (done.finish_reason, done.stop_reason, done.completion_tokens) == ("stop", second, 2)


def test_min_tokens_and_ignore_eos_go_past_the_end_of_text(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    question = "What is the capital of France?"

    done = complete(
        model_engine,
        [
            ask(0, question, extras={"min_tokens": 20}),
            ask(1, question, extras={"ignore_eos": True}),
        ],
    )

    assert done[0].completion_tokens > 20
    assert (done[1].completion_tokens, done[1].finish_reason) == (32, "length")


def test_a_prompt_that_fills_the_context_is_refused_and_the_rest_go_on(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    model_engine.submit(ask(0, "What is the capital of France?"))

    with pytest.raises(RequestRejected, match="tokens and leaves no room") as caught:
        model_engine.submit(ask(1, "word " * 2000))

    assert caught.value.failure.kind == "model"
    assert complete(model_engine, [])[0].text == "The capital of France is Paris."


def test_an_answer_cut_by_the_context_says_so(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    context = model_engine.capabilities().max_model_len
    assert context is not None
    renderer = model_engine._renderer  # type: ignore[attr-defined]
    words = 0
    while len(renderer.prompt((Message("user", "word " * (words + 8)),), 1).ids) < context - 24:
        words += 8
    request = ask(0, "word " * words, max_tokens=4096, extras={"ignore_eos": True})

    done = complete(model_engine, [request])[0]

    assert done.finish_reason == "length"
    assert done.flags == ("context_truncated",)
    assert done.prompt_tokens + done.completion_tokens == context


def test_logprobs_are_those_of_the_chosen_tokens(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    done = complete(model_engine, [ask(0, "What is the capital of France?", logprobs=3)])[0]

    assert done.logprobs is not None
    assert len(done.logprobs) == done.completion_tokens
    assert "".join(entry["token"] for entry in done.logprobs[:-1]) == done.text
    for entry in done.logprobs:
        assert len(entry["top"]) == 3
        assert entry["top"][0]["id"] == entry["id"]
        values = [other["logprob"] for other in entry["top"]]
        assert values == sorted(values, reverse=True)
        assert -20 < entry["logprob"] <= 0


def test_no_top_alternatives_still_give_the_chosen_tokens_logprob(
    model_engine: Engine, ask: Ask, complete: Complete
) -> None:
    done = complete(model_engine, [ask(0, "What is the capital of France?", logprobs=0)])[0]

    assert done.logprobs is not None
    assert all(entry["top"] == [] for entry in done.logprobs)
    assert all(entry["logprob"] <= 0 for entry in done.logprobs)


def test_too_many_logprobs_are_refused(model_engine: Engine, ask: Ask) -> None:
    with pytest.raises(RequestRejected, match="logprobs=21"):
        model_engine.submit(ask(0, "Hello", logprobs=21))


def test_a_repetition_penalty_does_not_leak_between_rows(
    model_engine: Engine, ask: Ask, complete: Complete, qa: QA
) -> None:
    penalty = {"extras": {"repetition_penalty": 1.3}}
    crowd = complete(model_engine, [ask(n, qa[n][0], **penalty) for n in range(40)])
    alone = complete(model_engine, [ask(11, qa[11][0], **penalty)])

    assert alone[11].text == crowd[11].text


def test_a_conversation_that_ends_with_the_assistant_is_continued(
    model_engine: Engine, complete: Complete
) -> None:
    messages = (
        Message("user", "What is the capital of France?"),
        Message("assistant", "The capital of"),
    )

    done = complete(model_engine, [Request(0, messages, Sampling(16), seed=0)])[0]

    assert done.text.strip() == "France is Paris."


def test_a_worker_answers_all_questions_exactly(
    model_engine: Engine,
    write_generation_bundle: Callable[..., Path],
    lend: Callable[[Engine], None],
    qa: QA,
    tiny_chat: Path,
) -> None:
    provider = model_engine.describe()["engine"]
    path = write_generation_bundle(
        [question for question, _ in qa], provider=provider, model_id="tiny"
    )
    lend(model_engine)

    outcome = work_shard(path, 0, WorkOptions(model_paths={"tiny": str(tiny_chat)}))

    bundle = Bundle.open(path)
    texts = [entry.record.record["text"] for entry in chosen(bundle, 0) if entry.record]
    assert outcome.state == "complete"
    assert texts == [answer for _, answer in qa]
    assert verify(bundle, require_results=True).complete


def test_a_worker_reports_a_too_long_item_and_answers_the_others(
    model_engine: Engine,
    write_generation_bundle: Callable[..., Path],
    lend: Callable[[Engine], None],
    tiny_chat: Path,
) -> None:
    provider = model_engine.describe()["engine"]
    questions = ["What is the capital of France?", "word " * 3000, "What is the capital of Spain?"]
    path = write_generation_bundle(questions, provider=provider, model_id="tiny")
    lend(model_engine)

    outcome = work_shard(path, 0, WorkOptions(model_paths={"tiny": str(tiny_chat)}))

    entries = [entry.record for entry in chosen(Bundle.open(path), 0)]
    assert outcome.state == "complete"
    assert [entry.status for entry in entries if entry] == ["ok", "error", "ok"]
    assert entries[1] is not None
    assert entries[1].record["error"]["kind"] == "model"


class TestBothEngines:
    """One model and one renderer give one answer, whatever runs them (float32)."""

    @pytest.fixture
    def both(
        self, hf_engine: Engine, vllm_engine: Engine, complete: Complete
    ) -> Callable[[Iterable[Request]], tuple[dict[int, Completion], dict[int, Completion]]]:
        return lambda requests: (
            complete(hf_engine, kept := list(requests)),
            complete(vllm_engine, kept),
        )

    def test_greedy_and_stopping_answers_are_equal(
        self, both: Callable[..., Any], ask: Ask, qa: QA
    ) -> None:
        requests = [request for request in mixed(ask, qa) if not request.params.temperature]

        hf, vllm = both(requests)

        assert results(hf) == results(vllm)

    def test_logprobs_agree(self, both: Callable[..., Any], ask: Ask) -> None:
        hf, vllm = both([ask(0, "What is the capital of France?", logprobs=2)])

        assert [entry["id"] for entry in hf[0].logprobs] == [
            entry["id"] for entry in vllm[0].logprobs
        ]
        for ours, theirs in zip(hf[0].logprobs, vllm[0].logprobs, strict=True):
            assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=2e-3)
