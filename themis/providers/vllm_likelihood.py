"""How the vLLM engine scores given continuations: the logprobs that it reports of a prompt.

Each continuation is a request of its own, whose prompt ends with it; the one token that vLLM
must generate is thrown away. vLLM computes prompt logprobs without its prefix cache.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from themis.providers.likelihood import LIKELIHOOD_DIGITS, Continuation, digest_of
from themis.providers.protocol import Completion, LogLikelihood, Request, scored


@dataclass(slots=True)
class Asked:
    """A request for likelihoods, and what is known of it so far.

    Attributes:
        names: The requests to vLLM that are still running for it.
    """

    request: Request
    continuations: Sequence[Continuation]
    submitted: float
    names: set[str] = field(default_factory=set)
    found: dict[int, LogLikelihood] = field(default_factory=dict)
    cached: int = 0

    def latency_ms(self) -> float:
        """Milliseconds since it was submitted."""
        return (time.monotonic() - self.submitted) * 1000

    def completion(self) -> Completion:
        """Return the answer; every continuation must have been scored."""
        return scored(
            self.request.id,
            [self.found[number] for number in range(len(self.continuations))],
            prompt_tokens=sum(each.length for each in self.continuations),
            latency_ms=self.latency_ms(),
            prompt_sha256=digest_of(self.continuations),
            cached_tokens=self.cached,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One continuation of a request, as vLLM runs it."""

    asked: Asked
    number: int

    @property
    def prompt(self) -> list[int]:
        """The tokens that vLLM reads."""
        each = self.asked.continuations[self.number]
        return each.context + each.tokens

    def take(self, name: str, output: Any) -> Completion | None:
        """Read the finished output of this part; return the request's answer with the last."""
        each = self.asked.continuations[self.number]
        self.asked.found[self.number] = _measured(each, output.prompt_logprobs)
        self.asked.cached += output.num_cached_tokens or 0
        self.asked.names.discard(name)
        return None if self.asked.names else self.asked.completion()


def prompt_scoring_params() -> Any:
    """Return vLLM's parameters that report a prompt's logprobs and little else."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        max_tokens=1,
        temperature=0.0,
        # Of each prompt token its own logprob and rank, and no alternatives.
        prompt_logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _measured(continuation: Continuation, logprobs: Sequence[Any]) -> LogLikelihood:
    tokens = continuation.tokens
    positions = logprobs[len(continuation.context) : continuation.length]
    found = [entry[token] for token, entry in zip(tokens, positions, strict=True)]
    return LogLikelihood(
        continuation.text,
        round(sum(entry.logprob for entry in found), LIKELIHOOD_DIGITS),
        len(tokens),
        all(entry.rank == 1 for entry in found),
    )
