"""Load a model directory with transformers, as options ask.

What is loaded is a causal language model or, when its configuration says so, an encoder and
decoder (T5, BART, ...): the encoder then reads the prompt and the decoder writes the answer.
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec

from themis.providers.protocol import EngineInitError

Positive = Annotated[int, msgspec.Meta(ge=1)]


class HfOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to run a model with transformers here.

    Attributes:
        dtype: A torch type's name; `auto` is float32 on a CPU and the checkpoint's on a GPU.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` to spread a model over all GPUs; by default
            the first GPU if there is one.
        device_map: Where each part lies instead: a strategy of accelerate (`balanced`,
            `sequential`) or devices by the names of modules.
        quantization: A quantisation to load the weights in, as in a checkpoint's
            `quantization_config`: `{"quant_method": "bitsandbytes", "load_in_4bit": true}`.
            A checkpoint that is quantised already needs none.
        max_model_len: Tokens for prompt and answer together (for an encoder and decoder, for
            each); by default the model's own.
        batch_tokens: The most tokens in a batch, padding and answers included.
        batch_rows: The most requests in a batch.
        attn_implementation: Passed on to transformers.
        continuous_batching: Whether rows that end make room at once, for greedy requests; see
            `themis.providers.hf_continuous`.
    """

    dtype: str = "auto"
    device: str | None = None
    device_map: str | dict[str, str | int] | None = None
    quantization: dict[str, Any] | None = None
    max_model_len: Positive | None = None
    batch_tokens: Positive | None = None
    batch_rows: Positive | None = None
    attn_implementation: str | None = None
    continuous_batching: bool = False


def load_model(path: Path, options: HfOptions) -> Any:
    """Return a model, ready to answer.

    Raises:
        EngineInitError: An option is wrong, or the model does not load.
    """
    import transformers

    keywords = _keywords(options)
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        kind = (
            transformers.AutoModelForSeq2SeqLM
            if config.is_encoder_decoder
            else transformers.AutoModelForCausalLM
        )
        if options.quantization or getattr(config, "quantization_config", None):
            # Weights that were packed for a device cannot be moved to it afterwards.
            keywords.setdefault("device_map", {"": device_of(options)})
        model = kind.from_pretrained(
            path, use_safetensors=True, local_files_only=True, trust_remote_code=False, **keywords
        )
        if "device_map" not in keywords:
            model.to(device_of(options))
    except Exception as error:
        raise EngineInitError(f"{path} does not load: {type(error).__name__}: {error}") from error
    return model.eval()


def device_of(options: HfOptions) -> str:
    """Return the device that options ask for: `auto` where parts may lie on several."""
    import torch

    if options.device_map is not None:
        return "auto"
    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _keywords(options: HfOptions) -> dict[str, Any]:
    import torch

    if options.device is not None and options.device_map is not None:
        raise EngineInitError("device and device_map exclude each other.")
    dtype = options.dtype
    on_cpu = device_of(options).startswith("cpu") or not torch.cuda.is_available()
    if dtype == "auto" and on_cpu:
        dtype = "float32"
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise EngineInitError(f"dtype {dtype!r} is no torch type.")
    keywords: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if options.attn_implementation is not None:
        keywords["attn_implementation"] = options.attn_implementation
    if options.quantization is not None:
        keywords["quantization_config"] = _quantization(options.quantization)
    if device_of(options) == "auto":
        keywords["device_map"] = options.device_map or "auto"
    return keywords


def _quantization(asked: dict[str, Any]) -> Any:
    """Return transformers' configuration of a quantisation.

    Raises:
        EngineInitError: There is no such method, or it does not take these settings.
    """
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        config, unused = AutoQuantizationConfig.from_dict(asked, return_unused_kwargs=True)
    except Exception as error:
        raise EngineInitError(
            f"transformers takes no quantization {asked}: {type(error).__name__}: {error}"
        ) from error
    if unused:
        names = ", ".join(sorted(unused))
        raise EngineInitError(f"quantization {asked['quant_method']!r} has no setting {names}.")
    return config


def context_of(config: Any, limit: int | None) -> int | None:
    """Return how many tokens prompt and answer may have; None is no bound.

    Raises:
        EngineInitError: The limit is more than the model can take.
    """
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if limit is not None and own is not None and limit > own:
        raise EngineInitError(f"max_model_len {limit} is more than the model's {own}.")
    return limit or own


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the generation config's and the tokenizer's."""
    ends: set[int] = set()
    for found in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            ends.update(found if isinstance(found, list) else [found])
    return frozenset(ends)


def fresh_generation_config(model: Any, pad: int) -> Any:
    """Return a generation config that only says how a sequence begins and is padded.

    The model's own would bring temperature, penalties and more.
    """
    import transformers

    own = model.generation_config
    start = own.decoder_start_token_id
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    return transformers.GenerationConfig(
        pad_token_id=pad,
        decoder_start_token_id=start,
        forced_bos_token_id=getattr(own, "forced_bos_token_id", None),
    )
