"""Given continuations are scored as a forward pass of the model itself scores them."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from themis.cli import main
from themis.providers import (
    Completion,
    Engine,
    Message,
    Request,
    RequestRejected,
    Sampling,
    hf_likelihood,
)
from themis.results.aggregate import aggregate
from themis.storage import open_store
from themis.storage.plans import find_run
from themis.storage.tables import read_scores

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

Complete = Callable[..., dict[int, Completion]]
CAPITALS = ("The capital of France is Paris.", "The capital of France is Rome.", "Paris", "zebra")
QUESTION = "What is the capital of France?"


def likelihoods(
    number: int, continuations: tuple[str, ...], question: str = QUESTION, **extra: Any
) -> Request:
    messages = extra.pop("messages", (Message("user", question),))
    return Request(number, messages, Sampling(8), seed=0, continuations=continuations, **extra)


def direct(engine: Any, context: list[int], tokens: list[int]) -> tuple[float, bool]:
    """Return sum and greediness by one forward pass without padding, cache or batch."""
    import torch

    with torch.inference_mode():
        logits = engine._model(input_ids=torch.tensor([context + tokens])).logits[0]
    logprobs = torch.log_softmax(logits.double(), dim=-1)[len(context) - 1 : -1]
    chosen = logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1)
    return float(chosen.sum()), bool((logprobs.argmax(-1) == torch.tensor(tokens)).all())


def chat_ids(engine: Any, question: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokenise as the template and the tokenizer do, independently of the engine's renderer."""
    tokenizer = engine._renderer.tokenizer
    context = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True
    )["input_ids"]
    return list(context), list(tokenizer(continuation, add_special_tokens=False)["input_ids"])


def values(completion: Completion) -> list[tuple[str, float, int, bool]]:
    assert completion.loglikelihoods is not None, completion.error
    return [(f.text, f.sum, f.tokens, f.is_greedy) for f in completion.loglikelihoods]


def test_each_continuation_is_scored_as_a_direct_forward_pass_does(
    model_engine: Engine, hf_engine: Engine, complete: Complete
) -> None:
    done = complete(model_engine, [likelihoods(0, CAPITALS)])[0]

    assert [found[0] for found in values(done)] == list(CAPITALS)
    for text, total, tokens, greedy in values(done):
        context, ids = chat_ids(hf_engine, QUESTION, text)
        expected, expected_greedy = direct(hf_engine, context, ids)
        assert total == pytest.approx(expected, abs=1e-3)
        assert (tokens, greedy) == (len(ids), expected_greedy)
    assert [found[3] for found in values(done)] == [True, False, False, False]


def test_the_likeliest_continuation_is_the_text(any_engine: Engine, complete: Complete) -> None:
    asked = likelihoods(0, ("no", QUESTION, "zebra") if is_demo(any_engine) else CAPITALS)

    done = complete(any_engine, [asked])[0]

    best = max(values(done), key=lambda found: found[1])
    assert done.text == best[0]
    assert best[3]
    assert (done.finish_reason, done.completion_tokens) == ("scored", 0)
    assert done.prompt_tokens > 0
    assert done.prompt_sha256 is not None


def is_demo(engine: Engine) -> bool:
    return bool(engine.describe()["engine"] == "demo")


def test_a_single_continuation_is_not_repeated_as_the_text(
    any_engine: Engine, complete: Complete
) -> None:
    done = complete(any_engine, [likelihoods(0, ("Paris",))])[0]

    assert done.text == ""
    assert len(values(done)) == 1


def test_batch_and_order_change_no_likelihood(
    model_engine: Engine, complete: Complete, qa: list[tuple[str, str]]
) -> None:
    requests = [
        likelihoods(n, (qa[n][1], "no", "yes", qa[(n * 7 + 1) % 200][1]), qa[n][0])
        for n in range(60)
    ]
    crowd = complete(model_engine, requests)
    backwards = complete(model_engine, reversed(requests), window=3)

    assert all(crowd[n].text == qa[n][1] for n in range(60))
    for n in range(60):
        for ours, theirs in zip(values(crowd[n]), values(backwards[n]), strict=True):
            assert ours[1] == pytest.approx(theirs[1], abs=2e-4)
            assert (ours[0], ours[2:]) == (theirs[0], theirs[2:])


def test_likelihoods_and_answers_may_be_asked_for_together(
    model_engine: Engine, complete: Complete, ask: Callable[..., Request]
) -> None:
    mixed = [
        request
        for n in range(0, 40, 2)
        for request in (
            ask(n, QUESTION, logprobs=2 if n % 4 else None),
            likelihoods(n + 1, CAPITALS),
        )
    ]

    done = complete(model_engine, mixed)

    assert {done[n].text for n in range(0, 40, 2)} == {CAPITALS[0]}
    assert len({tuple(values(done[n])) for n in range(1, 40, 2)}) == 1
    logprobs = done[2].logprobs
    assert logprobs is not None
    total = sum(entry["logprob"] for entry in logprobs[:-1])
    assert values(done[1])[0][1] == pytest.approx(total, abs=2e-3)


def test_letters_of_choices_share_one_pass_and_keep_their_own_likelihoods(
    hf_engine: Engine, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = ("A", "B", "C", "D")
    rows: list[int] = []
    model: Any = hf_engine._model  # type: ignore[attr-defined]
    real = model.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        rows.append(keywords["input_ids"].shape[0])
        return real(*arguments, **keywords)

    forward.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(model, "forward", forward)

    done = complete(hf_engine, [likelihoods(0, letters)])[0]

    assert rows == [1]
    for text, total, _, _ in values(done):
        expected, _ = direct(hf_engine, *chat_ids(hf_engine, QUESTION, text))
        assert total == pytest.approx(expected, abs=1e-3)


def test_an_answer_that_was_begun_is_scored_from_there(
    model_engine: Engine, hf_engine: Engine, complete: Complete
) -> None:
    begun = (Message("user", QUESTION), Message("assistant", "The capital of France"))

    done = complete(model_engine, [likelihoods(0, (" is Paris.",), messages=begun)])[0]
    whole = complete(model_engine, [likelihoods(1, ("The capital of France is Paris.",))])[1]

    context, ids = chat_ids(hf_engine, QUESTION, "The capital of France is Paris.")
    split = len(ids) - values(done)[0][2]
    expected, _ = direct(hf_engine, context + ids[:split], ids[split:])
    assert values(done)[0][1] == pytest.approx(expected, abs=1e-3)
    assert values(done)[0][1] > values(whole)[0][1]


def test_an_empty_prompt_scores_the_whole_text_after_the_first_token(
    model_engine: Engine, hf_engine: Engine, complete: Complete
) -> None:
    text = "The capital of France is Paris."

    done = complete(model_engine, [likelihoods(0, (text,), "")])[0]

    tokenizer = hf_engine._renderer.tokenizer  # type: ignore[attr-defined]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    expected, greedy = direct(hf_engine, [first], ids)
    ((_, total, tokens, likeliest),) = values(done)
    assert total == pytest.approx(expected, abs=1e-3)
    assert (tokens, likeliest) == (len(ids), greedy)


@pytest.mark.parametrize(
    ("continuations", "extra", "words"),
    [
        ((), {}, "at least one continuation"),
        (("Paris", ""), {}, "continuation 2 is empty"),
        (("Paris",), {"follow_ups": (Message("user", "Sure?"),)}, "follow-up"),
    ],
)
def test_what_has_no_likelihood_is_refused(
    any_engine: Engine, continuations: tuple[str, ...], extra: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestRejected, match=words) as caught:
        any_engine.submit(likelihoods(0, continuations, **extra))

    assert caught.value.failure.kind == "model"
    assert any_engine.inflight == 0


def test_a_continuation_beyond_the_context_fails_alone(
    model_engine: Engine, complete: Complete
) -> None:
    model_engine.submit(likelihoods(0, CAPITALS))

    with pytest.raises(
        RequestRejected, match=r"continuation 2 have \d+ tokens, too many"
    ) as caught:
        model_engine.submit(likelihoods(1, ("Paris", "word " * 2000)))

    assert caught.value.failure.kind == "model"
    assert complete(model_engine, [])[0].text == CAPITALS[0]


def test_cancelled_likelihoods_are_named_once(model_engine: Engine) -> None:
    for number in range(3):
        model_engine.submit(likelihoods(number, CAPITALS))

    assert sorted(model_engine.cancel()) == [0, 1, 2]
    assert model_engine.inflight == 0


def test_both_engines_read_the_same_tokens(
    hf_engine: Engine, vllm_engine: Engine, complete: Complete
) -> None:
    hf_engine.cancel()
    vllm_engine.cancel()

    hf = complete(hf_engine, [likelihoods(0, CAPITALS)])[0]
    vllm = complete(vllm_engine, [likelihoods(0, CAPITALS)])[0]

    assert (hf.prompt_sha256, hf.prompt_tokens) == (vllm.prompt_sha256, vllm.prompt_tokens)


class TestMemory:
    """Out of memory halves the rows; a row that never fits fails its request alone."""

    @pytest.fixture
    def small(self, hf_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Let passes of more than 3 rows not fit, and a row with `zebra` never."""
        import torch

        sizes: list[int] = []

        def score_rows(model: Any, batch: Any, pad: int) -> Any:
            sizes.append(len(batch))
            texts = [row.asked.continuations[n].text for row in batch for n in row.numbers]
            if len(batch) > 3 or "zebra" in texts:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return hf_likelihood.score_rows(model, batch, pad)

        monkeypatch.setattr("themis.providers.hf.score_rows", score_rows)
        monkeypatch.setattr(hf_engine, "_allowed_rows", 64)
        return sizes

    def test_a_request_whose_row_never_fits_fails_alone(
        self, hf_engine: Engine, small: list[int], complete: Complete
    ) -> None:
        hf_engine.cancel()

        done = complete(
            hf_engine, [likelihoods(n, CAPITALS if n == 3 else CAPITALS[:3]) for n in range(6)]
        )

        assert done[3].error is not None
        assert "out of memory" in done[3].error.message
        assert all(len(values(done[n])) == 3 for n in range(6) if n != 3)
        assert small[:3] == [19, 9, 4]


def test_the_logits_of_a_batch_keep_to_their_memory(
    hf_engine: Engine, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue: Any = hf_engine._likelihoods  # type: ignore[attr-defined]
    seen: list[int] = []

    def score_rows(model: Any, batch: Any, pad: int) -> Any:
        seen.append(len(batch) * max(row.scored for row in batch))
        return hf_likelihood.score_rows(model, batch, pad)

    monkeypatch.setattr("themis.providers.hf.score_rows", score_rows)
    monkeypatch.setattr(queue, "_most_positions", 20)

    complete(hf_engine, [likelihoods(n, CAPITALS) for n in range(10)])

    assert max(seen) <= 20
    assert len(seen) > 10


def test_multiple_choice_by_themis_run_knows_what_the_model_knows(
    model_engine: Engine,
    lend: Callable[[Engine], None],
    qa: list[tuple[str, str]],
    tmp_path: Path,
    tiny_chat: Path,
) -> None:
    rows = [
        {"question": qa[n][0], "choices": [qa[n + 1][1], qa[n][1], "no"], "answer": qa[n][1]}
        for n in range(0, 60, 3)
    ]
    rows[0]["choices"].append("word " * 3000)  # type: ignore[attr-defined]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "benchmark.toml").write_text(
        MULTIPLE_CHOICE.replace("PROVIDER", model_engine.describe()["engine"])
    )
    (tmp_path / "project.toml").write_text(
        'project_name = "tests"\nresearcher_id = "nobody"\nglobal_seed = 7\n'
        '[storage]\nbackend = "sqlite_blob"\nroot_dir = "store"\n'
    )
    lend(model_engine)

    done = CliRunner().invoke(
        main, ["run", str(tmp_path / "benchmark.toml"), "--model", f"tiny={tiny_chat}", "--json"]
    )

    # The first item is longer than the context: it fails, and the others are scored.
    assert done.exit_code == 1, done.output
    with open_store(tmp_path / "store") as store:
        scores = aggregate(read_scores(store, find_run(store, "latest")), ["metric_id"])
    found = {row.keys["metric_id"]: row for row in scores}
    assert found["choice_loglikelihood_acc"].mean == 1.0
    assert (found["choice_loglikelihood_brier"].mean or 1.0) < 1e-3
    assert [(row.n_scored, row.n_failed) for row in scores] == [(19, 1)] * 2


MULTIPLE_CHOICE = """
benchmark_id = "choices"
models = [{ model_id = "tiny", provider = "PROVIDER" }]
inference_grid = { params = [{}] }

[[prompt_variants]]
id = "likelihood"
messages = [{ role = "user", content = "{item.question}" }]
continuations = { field = "choices" }

[[slices]]
slice_id = "facts"
dataset = { source = "local", data_dir = "questions.jsonl" }
generation = {}
scores = [
    { name = "choice", metrics = ["choice_loglikelihood_acc", "choice_loglikelihood_brier"] },
]
"""
