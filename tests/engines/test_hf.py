"""What is particular to the transformers engine: noise, truncation, memory."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from themis.providers import Completion, Engine, EngineDead, Message, Request, Sampling

torch = pytest.importorskip("torch")

from themis.providers.hf_decoding import Row, RowScores, gumbel_noise, truncated  # noqa: E402

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


class TestNoise:
    """The noise is Gumbel, and a function of seed, step and token alone."""

    def test_it_does_not_depend_on_the_other_rows(self) -> None:
        together = gumbel_noise(torch.tensor([1, 2, 3]), 5, 100)
        alone = gumbel_noise(torch.tensor([2]), 5, 100)

        assert torch.equal(together[1], alone[0])

    def test_seeds_and_steps_give_different_noise(self) -> None:
        seen = {
            tuple(row.tolist())
            for step in range(20)
            for row in gumbel_noise(torch.arange(20), step, 4)
        }

        assert len(seen) == 400

    def test_neighbouring_seeds_and_steps_do_not_correlate(self) -> None:
        noise = gumbel_noise(torch.arange(200), 3, 500)
        later = gumbel_noise(torch.arange(200), 4, 500)
        for other in (noise.roll(1, 0), noise.roll(1, 1), later):
            pair = torch.stack([noise.flatten(), other.flatten()])

            # 100,000 independent pairs: the standard error is 0.0032.
            assert abs(torch.corrcoef(pair)[0, 1].item()) < 0.016

    def test_it_has_the_moments_of_the_gumbel_distribution(self) -> None:
        noise = gumbel_noise(torch.arange(400), 0, 1000).flatten()

        # Standard errors over 400,000 draws: 0.002 and 0.005.
        assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
        assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
        assert torch.isfinite(noise).all()

    def test_its_maximum_samples_the_softmax(self) -> None:
        probabilities = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64)
        draws = 40_000

        chosen = (probabilities.log() + gumbel_noise(torch.arange(draws), 0, 5)).argmax(-1)

        expected = probabilities * draws
        chi2 = ((torch.bincount(chosen, minlength=5) - expected) ** 2 / expected).sum()
        assert chi2 < 18.47  # 0.999 quantile with 4 degrees of freedom


class TestTruncation:
    """Top-k, top-p and min-p keep what transformers' own warpers keep."""

    @pytest.fixture
    def scores(self) -> Any:
        return torch.randn(16, 50, generator=torch.Generator().manual_seed(0)) * 3

    @pytest.mark.parametrize("top_k", [1, 5, 50, 80])
    def test_top_k(self, scores: Any, top_k: int) -> None:
        from transformers import TopKLogitsWarper

        expected = TopKLogitsWarper(top_k)(None, scores)

        assert torch.equal(truncated(scores, Sampling(1, top_k=top_k)), expected)

    @pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
    def test_top_p(self, scores: Any, top_p: float) -> None:
        from transformers import TopPLogitsWarper

        expected = TopPLogitsWarper(top_p)(None, scores)

        assert torch.equal(truncated(scores, Sampling(1, top_p=top_p)), expected)

    @pytest.mark.parametrize("min_p", [0.01, 0.3, 1.0])
    def test_min_p(self, scores: Any, min_p: float) -> None:
        from transformers import MinPLogitsWarper

        expected = MinPLogitsWarper(min_p)(None, scores)

        assert torch.equal(truncated(scores, Sampling(1, extras={"min_p": min_p})), expected)

    @pytest.mark.parametrize("params", [Sampling(1), Sampling(1, top_k=0, top_p=1.0)])
    def test_without_limits_nothing_is_left_out(self, scores: Any, params: Sampling) -> None:
        assert torch.equal(truncated(scores, params), scores)

    def test_top_p_0_keeps_the_likeliest_token(self, scores: Any) -> None:
        kept = truncated(scores, Sampling(1, top_p=0.0)).isfinite()

        assert torch.equal(kept.sum(-1), torch.ones(16, dtype=torch.int64))


def test_the_repetition_penalty_is_that_of_transformers_row_by_row() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    prompts = [[5, 6, 7], [8], [9, 10]]
    padded = torch.tensor([[5, 6, 7], [0, 0, 8], [0, 9, 10]])
    answers = torch.tensor([[1, 2], [3, 3], [4, 11]])
    params = Sampling(8, extras={"repetition_penalty": 1.7})
    scores = RowScores([Row(0, 8) for _ in prompts], prompts, params, set())
    reference = RepetitionPenaltyLogitsProcessor(1.7)

    for step in range(3):
        ours = scores(torch.cat([padded, answers[:, :step]], dim=1), logits)

        for row, prompt in enumerate(prompts):
            ids = torch.tensor([[*prompt, *answers[row, :step].tolist()]])
            expected = reference(ids, logits[row : row + 1].clone())
            assert torch.allclose(ours[row], expected[0])


def test_a_batch_ends_with_its_last_row(
    hf_engine: Engine, ask: Any, complete: Any, qa: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    real = hf_engine._model.generate  # type: ignore[attr-defined]

    def generate(**arguments: Any) -> Any:
        sequences = real(**arguments)
        widths.append(sequences.shape[1] - arguments["input_ids"].shape[1])
        return sequences

    monkeypatch.setattr(hf_engine._model, "generate", generate)  # type: ignore[attr-defined]

    done = complete(hf_engine, [ask(n, qa[n][0], max_tokens=200) for n in range(20)])

    assert widths == [max(completion.completion_tokens for completion in done.values())]


class TestMemory:
    """Out of memory halves the batch; one request alone that does not fit fails alone."""

    @pytest.fixture
    def small(self, hf_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Let batches of more than 5 rows not fit, and a row with `huge` never."""
        sizes: list[int] = []
        real = hf_engine._generate  # type: ignore[attr-defined]

        def generate(batch: Any) -> Any:
            sizes.append(len(batch))
            texts = [entry.request.messages[0].content for entry in batch]
            if len(batch) > 5 or any("huge" in text for text in texts):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(batch)

        monkeypatch.setattr(hf_engine, "_generate", generate)
        monkeypatch.setattr(hf_engine, "_allowed_rows", 64)
        return sizes

    def test_the_batch_is_halved_until_it_fits_and_every_row_is_answered(
        self, hf_engine: Engine, small: list[int], ask: Any, complete: Any, qa: Any
    ) -> None:
        done = complete(hf_engine, [ask(n, qa[n][0]) for n in range(40)])

        assert [done[n].text for n in range(40)] == [qa[n][1] for n in range(40)]
        assert small[:5] == [40, 20, 10, 5, 5]

    def test_it_grows_again_slowly(
        self, hf_engine: Engine, small: list[int], ask: Any, complete: Any, qa: Any
    ) -> None:
        complete(hf_engine, [ask(n, qa[n][0]) for n in range(64)])

        assert small.count(8) >= 1
        assert small.count(64) == 1

    @pytest.mark.usefixtures("small")
    def test_one_request_that_never_fits_fails_alone(
        self, hf_engine: Engine, ask: Any, complete: Any, qa: Any
    ) -> None:
        requests = [ask(n, "huge" if n == 3 else qa[n][0]) for n in range(6)]

        done = complete(hf_engine, requests)

        assert done[3].error is not None
        assert "out of memory" in done[3].error.message
        assert all(done[n].text == qa[n][1] for n in range(6) if n != 3)


def test_any_other_failure_of_generation_is_the_engines_death(
    hf_engine: Engine, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(_batch: Any) -> Any:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(hf_engine, "_generate", generate)
    hf_engine.submit(ask(0, "Hello"))

    with pytest.raises(EngineDead, match="device-side assert"):
        hf_engine.poll()
    hf_engine.cancel()


def test_a_batch_keeps_to_its_budget_of_tokens(
    hf_engine: Engine, ask: Any, complete: Any, qa: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = hf_engine._generate  # type: ignore[attr-defined]

    def generate(batch: Any) -> Any:
        longest = max(len(entry.prompt.ids) for entry in batch)
        room = max(entry.prompt.room for entry in batch)
        sizes.append(len(batch) * (longest + room))
        return real(batch)

    monkeypatch.setattr(hf_engine, "_generate", generate)
    monkeypatch.setattr(hf_engine, "_tokens", 300)

    complete(hf_engine, [ask(n, qa[n][0]) for n in range(30)])

    assert max(sizes) <= 300


def test_answers_equal_those_of_generate_itself(
    hf_engine: Engine, ask: Callable[..., Request], complete: Any, qa: Any
) -> None:
    model = hf_engine._model  # type: ignore[attr-defined]
    renderer = hf_engine._renderer  # type: ignore[attr-defined]

    def bare(question: str) -> str:
        ids = renderer.prompt((Message("user", question),), 32).ids
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=32, eos_token_id=2
            )
        return str(renderer.text(out[0, len(ids) :].tolist()))

    done: dict[int, Completion] = complete(hf_engine, [ask(n, qa[n][0]) for n in range(12)])

    assert [done[n].text for n in range(12)] == [bare(qa[n][0]) for n in range(12)]
