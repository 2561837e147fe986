"""Continuous batching with transformers: a row that ends makes room for the next at once.

transformers runs the model in a thread of its own over a paged key-value cache, and requests come
and go while it runs. What it cannot do is refused, request by request: it samples all rows from
one seed, so only greedy answers can be repeated, and it looks for end tokens alone, not for texts.
Which requests these are depends on an option of this machine, so such a refusal is not final.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from themis.errors import ErrorCode
from themis.providers.chat import Prompt
from themis.providers.hf_decoding import Row
from themis.providers.protocol import (
    Capabilities,
    EngineDead,
    EngineInitError,
    Request,
    RequestFailure,
    RequestRejected,
)

EXTRAS = frozenset({"ignore_eos", "stop_token_ids"})
"""The sampling extras that a request may carry."""

WAIT_SECONDS = 0.5
"""How long a poll waits for an answer; signals are looked at between polls."""

STOP_SECONDS = 30.0

STEP_TOKENS = 2048
"""Tokens of one step of the model: a token for each row, and as much of new prompts as fits."""

_CPU_PAGE, _GPU_PAGE = 32, 256
"""Tokens of a page; attention kernels of GPUs want 256."""


@dataclass(frozen=True, slots=True)
class Ended:
    """One request that came back.

    Attributes:
        id: The request's id.
        row: Its tokens and why they ended; None when it failed.
        error: Why it failed, in transformers' words; empty otherwise.
    """

    id: int
    row: Row | None
    error: str = ""


def limited(capabilities: Capabilities) -> Capabilities:
    """Return what is left of an engine's capabilities with continuous batching."""
    return Capabilities(
        max_model_len=capabilities.max_model_len,
        max_logprobs=0,
        json_format=False,
        extras=EXTRAS,
        seeded=False,
    )


def check_continuous(request: Request) -> None:
    """Refuse what continuous batching cannot do, but another way of running the model can.

    Raises:
        RequestRejected: Naming the parameter; not final.
    """
    params = request.params
    others = sorted(set(params.extras) - EXTRAS)
    problems = {
        f"temperature={params.temperature:g} (all rows share one seed)": params.temperature > 0,
        "stop_sequences": bool(params.stop),
        "logprobs": params.logprobs is not None,
        f"the parameters {', '.join(others)}": bool(others),
        "continuations to score": request.continuations is not None,
    }
    found = [name for name, present in problems.items() if present]
    if found:
        raise _not_here(
            f"continuous_batching cannot do {' and '.join(found)}: run these items without it"
        )


class ContinuousBatches:
    """The rows of one model that are being answered."""

    def __init__(self, model: Any, ends: list[int], pad: int, *, rows: int, tokens: int) -> None:
        """Prepare a model; the thread starts with the first request.

        Args:
            model: A loaded decoder.
            ends: The ids of its end tokens.
            pad: The id of its padding token.
            rows: The most requests in one step.
            tokens: The tokens that the key-value cache holds.

        Raises:
            EngineInitError: This transformers, or the model's attention, cannot do it.
        """
        try:
            from transformers import ContinuousBatchingConfig, GenerationConfig
        except ImportError as error:
            raise EngineInitError(
                "continuous_batching needs a newer transformers (5.19 is known to do it)."
            ) from error
        self._ends = ends
        page = _CPU_PAGE if model.device.type == "cpu" else _GPU_PAGE
        self.capacity = max(1, tokens // page) * page
        try:
            self._manager = model.init_continuous_batching(
                generation_config=GenerationConfig(
                    do_sample=False, pad_token_id=pad, eos_token_id=-1
                ),
                continuous_batching_config=ContinuousBatchingConfig(
                    page_size=page,
                    num_blocks=self.capacity // page,
                    max_batch_tokens=max(rows, STEP_TOKENS),
                    max_requests_per_batch=rows,
                    # What attention answers were made with is the options' choice.
                    auto_switch_to_flash=False,
                    drop_unsupported_processors=False,
                ),
            )
        except (AttributeError, ValueError) as error:
            raise EngineInitError(f"continuous_batching: {error}") from error
        self._started = False
        self._sent = 0
        self._ids: dict[str, tuple[int, frozenset[int], frozenset[int]]] = {}

    def __len__(self) -> int:
        """How many requests have not come back."""
        return len(self._ids)

    def describe(self) -> dict[str, int]:
        """Return what answers rest on beside the model."""
        config = self._manager.continuous_batching_config
        return {"page_size": config.page_size, "max_batch_tokens": config.max_batch_tokens}

    def submit(self, request: Request, prompt: Prompt) -> None:
        """Take a request.

        Raises:
            RequestRejected: The cache cannot hold it, even alone.
            EngineDead: The thread has ended.
        """
        needed = len(prompt.ids) + prompt.room
        if needed > self.capacity:
            raise _not_here(
                f"the request needs {needed} tokens of cache, and batch_tokens allows "
                f"{self.capacity}"
            )
        extras = request.params.extras
        stops = frozenset(extras.get("stop_token_ids", ()))
        ends = stops if extras.get("ignore_eos") else stops | frozenset(self._ends)
        # A name of its own for each try: what was cancelled may still come back.
        self._sent += 1
        name = f"{request.id}/{self._sent}"
        if not self._started:
            self._manager.start()
            self._started = True
        taken = self._manager.add_request(
            prompt.ids, request_id=name, max_new_tokens=prompt.room, eos_token_id=sorted(ends)
        )
        if taken is None:
            raise EngineDead("continuous batching has stopped")
        self._ids[name] = (request.id, ends, stops)

    def poll(self) -> list[Ended]:
        """Return what ended; waits a moment when nothing has.

        Raises:
            EngineDead: The thread has ended with requests in flight.
        """
        ended = list(self._arrived())
        if not ended and self._ids and not self._manager.is_running():
            raise EngineDead("continuous batching stopped with requests in flight")
        return ended

    def cancel(self) -> list[int]:
        """Drop everything."""
        for name in self._ids:
            self._manager.cancel_request(name)
        dropped = [number for number, _, _ in self._ids.values()]
        self._ids.clear()
        return dropped

    def close(self) -> None:
        """End the thread and let go of the cache."""
        if self._started:
            self._manager.stop(block=True, timeout=STOP_SECONDS, hard_stop=True)
            self._started = False

    def _arrived(self) -> Iterator[Ended]:
        output = self._manager.get_result(timeout=WAIT_SECONDS) if self._ids else None
        while output is not None:
            known = self._ids.pop(output.request_id, None)
            if known is not None:
                yield _ended(output, *known)
            output = self._manager.get_result(timeout=0)


def _ended(output: Any, number: int, ends: frozenset[int], stops: frozenset[int]) -> Ended:
    if output.error is not None:
        return Ended(number, None, str(output.error))
    tokens = list(output.generated_tokens)
    last = tokens[-1] if tokens else None
    return Ended(
        number,
        Row(
            seed=0,
            limit=len(tokens),
            tokens=tokens,
            finish_reason="stop" if last in ends else "length",
            stop_reason=last if last in stops else None,
        ),
    )


def _not_here(message: str) -> RequestRejected:
    """Refuse for a reason of this machine's options: asking again here cannot help."""
    return RequestRejected(
        RequestFailure("infra", ErrorCode.SCHEMA_MISMATCH, message, retryable=False)
    )
