"""What the transformers engine loads: encoders with decoders, other places, quantised weights."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.usefixtures("digest_cache"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

Complete = Callable[..., dict[int, Completion]]
QUESTIONS = ["Hello", "What is the capital of France?", "One two three four five six", "x"]
SIZES = {"vocab_size": 512, "d_model": 32, "pad_token_id": 0, "eos_token_id": 2}


def t5() -> Any:
    """An encoder and decoder with relative positions."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        **SIZES, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        n_positions=64,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def bart() -> Any:
    """An encoder and decoder with absolute positions, which padding on the left would move."""
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        **SIZES, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_position_embeddings=64, decoder_start_token_id=2, bos_token_id=1, init_std=0.4,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


@pytest.fixture(scope="module", params=[t5, bart], ids=["t5", "bart"])
def seq2seq(
    request: pytest.FixtureRequest, tiny_chat: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """An engine over a small random encoder and decoder, with the tiny chat model's tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(5)
    request.param().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_chat / name, folder)
    engine = create_engine(EngineSettings("hf", "small", model_path=folder))
    yield engine
    engine.close()


def ask(number: int, question: str, **params: Any) -> Request:
    sampling = Sampling(**{"max_tokens": 8, **params})
    return Request(number, (Message("user", question),), sampling, seed=number)


class TestEncoderAndDecoder:
    """The encoder reads the prompt, the decoder writes, and neither leaks between rows."""

    def test_answers_are_those_of_generate_alone(self, seq2seq: Any, complete: Complete) -> None:
        tokenizer = seq2seq._renderer.tokenizer

        done = complete(seq2seq, [ask(n, text) for n, text in enumerate(QUESTIONS)])

        answers = []
        for text in QUESTIONS:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                out = seq2seq._model.generate(
                    ids, do_sample=False, max_new_tokens=8, eos_token_id=2
                )
            answers.append(tokenizer.decode(out[0, 1:], skip_special_tokens=True))
        assert [done[n].text for n in range(len(QUESTIONS))] == answers
        assert len(set(answers)) > 1

    def test_a_sample_is_the_same_alone(self, seq2seq: Any, complete: Complete) -> None:
        hot = {"temperature": 1.5}
        crowd = complete(seq2seq, [ask(n, QUESTIONS[n % 4], **hot) for n in range(20)])
        alone = complete(seq2seq, [ask(6, QUESTIONS[2], **hot)])

        assert alone[6].text == crowd[6].text
        assert len({done.text for done in crowd.values()}) > 10

    def test_logprobs_and_lengths_are_of_the_answer(self, seq2seq: Any, complete: Complete) -> None:
        done = complete(seq2seq, [ask(0, QUESTIONS[1], logprobs=2, extras={"ignore_eos": True})])[0]

        assert (done.completion_tokens, done.finish_reason) == (8, "length")
        assert done.logprobs is not None
        assert len(done.logprobs) == 8

    def test_likelihoods_are_those_of_a_direct_pass(self, seq2seq: Any, complete: Complete) -> None:
        texts = ("yes", "no, never", "Paris")
        tokenizer, model = seq2seq._renderer.tokenizer, seq2seq._model

        done = complete(
            seq2seq,
            [
                Request(n, (Message("user", text),), Sampling(1), 0, continuations=texts)
                for n, text in enumerate(QUESTIONS)
            ],
        )

        start = model.config.decoder_start_token_id
        for (n, question), (place, text) in itertools.product(
            enumerate(QUESTIONS), enumerate(texts)
        ):
            ids = tokenizer(question, return_tensors="pt")["input_ids"]
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                logits = model(
                    input_ids=ids, decoder_input_ids=torch.tensor([[start, *tokens[:-1]]])
                ).logits[0]
            chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])
            found = done[n].loglikelihoods
            assert found is not None
            assert found[place].sum == pytest.approx(float(chosen.sum()), abs=1e-3)

    def test_a_repetition_penalty_counts_what_the_decoder_wrote(
        self, seq2seq: Any, complete: Complete
    ) -> None:
        extras = {"repetition_penalty": 1.8}
        done = complete(seq2seq, [ask(n, text, extras=extras) for n, text in enumerate(QUESTIONS)])

        tokenizer = seq2seq._renderer.tokenizer
        for n, text in enumerate(QUESTIONS):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                out = seq2seq._model.generate(
                    ids, do_sample=False, max_new_tokens=8, eos_token_id=2, repetition_penalty=1.8
                )
            assert done[n].text == tokenizer.decode(out[0, 1:], skip_special_tokens=True)

    def test_the_prompt_takes_no_room_from_the_answer(
        self, seq2seq: Any, complete: Complete
    ) -> None:
        request = ask(0, "x " * 20, max_tokens=60, extras={"ignore_eos": True})

        done = complete(seq2seq, [request])[0]

        assert done.prompt_tokens > 10
        assert (done.completion_tokens, done.flags) == (60, ())

    def test_a_prompt_beyond_the_encoder_is_refused(self, seq2seq: Any) -> None:
        with pytest.raises(RequestRejected, match="no room"):
            seq2seq.submit(ask(0, "word " * 100))


@pytest.fixture
def load(tiny_chat: Path) -> Iterator[Callable[..., Engine]]:
    """Load the tiny chat model with options."""
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        engines.append(
            create_engine(EngineSettings("hf", "tiny", model_path=tiny_chat, options=options))
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def test_a_device_map_places_the_parts_of_a_model(
    load: Callable[..., Engine], complete: Complete
) -> None:
    engine = load(device_map={"": "cpu"}, dtype="bfloat16")

    done = complete(engine, [ask(0, "What is the capital of France?", max_tokens=16)])

    assert done[0].text == "The capital of France is Paris."
    assert (engine.describe()["device"], engine.describe()["dtype"]) == ("auto", "bfloat16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float33"}, "no torch type"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"device": "warp9"}, "does not load"),
        ({"quantization": {"quant_method": "magic"}}, "takes no quantization"),
        ({"quantization": {"load_in_4bit": True, "speed": 9}}, "has no setting|takes no"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"max_model_len": -1}, "max_model_len"),
        ({"max_model_len": 1 << 20}, "more than the model's"),
        ({"device_map": 3}, "device_map"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_met_is_named(
    options: dict[str, Any], words: str, load: Callable[..., Engine]
) -> None:
    with pytest.raises(EngineInitError, match=words):
        load(**options)
