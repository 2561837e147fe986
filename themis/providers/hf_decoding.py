"""How the transformers engine chooses tokens: each row of a batch by itself.

`generate` samples all rows from one global stream, so a row's answer depends on its
neighbours. Here greedy search picks the largest score, and for sampled rows the scores get
Gumbel noise first, whose maximum is a sample of the softmax (the Gumbel-max trick: Gumbel
1954; Yellott 1977). The noise is a pure function of (seed, step, token), computed with integer
arithmetic, so it is the same on every device, in any batch and in any order.

Stop texts are found by decoding the tail of each row's own answer, never of its prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from themis.providers.protocol import Sampling

KNOWN_EXTRAS = frozenset(
    {"ignore_eos", "min_p", "min_tokens", "repetition_penalty", "stop_token_ids"}
)
"""The sampling extras that rows may carry."""

TAIL_MARGIN = 4
"""Tokens decoded beyond a stop text's length, for tokens that begin mid-word or print nothing."""

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014), written
# as the signed 64-bit numbers that torch has.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(value: Any, bits: int) -> Any:
    """Shift right and fill with zeros; torch alone would copy the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Any) -> Any:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def gumbel_noise(seeds: Any, step: int, vocabulary: int) -> Any:
    """Return Gumbel(0, 1) noise of shape rows x vocabulary.

    Args:
        seeds: One int64 seed for each row, as a tensor on the device of the scores.
        step: How many tokens the rows have so far.
        vocabulary: The number of token ids.
    """
    import torch

    tokens = torch.arange(1, vocabulary + 1, device=seeds.device, dtype=torch.int64)
    row = _mix(_mix(seeds + _GOLDEN) + step * 2 + 1)
    bits = _shift(_mix(row[:, None] + tokens[None, :] * _GOLDEN), 11)
    uniform = (bits.to(torch.float64) + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


@dataclass(slots=True)
class Row:
    """One answer in the making.

    Attributes:
        seed: What its noise is made from.
        limit: The most tokens it may have.
        tokens: The tokens so far, the ending one included.
        finish_reason: `stop` or `length` once it has ended.
        stop_reason: The stop text or stop token id that ended it.
        logprobs: For each step (the token's logprob, alternatives' ids, alternatives' logprobs);
            there may be more steps than tokens.
    """

    seed: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[tuple[float, list[int], list[float]]] = field(default_factory=list)


def greedy_as_it_is(params: Sampling) -> bool:
    """Tell whether the likeliest token is the next one, and nothing else is asked of the scores.

    Then `RowScores` has nothing to do, and `generate` saves looking at its signature for each
    token, which costs more than the choice itself.
    """
    return (
        params.temperature == 0
        and params.logprobs is None
        and not {"min_tokens", "repetition_penalty"} & params.extras.keys()
    )


class RowScores:
    """Turns the logits of a step into scores whose maximum is each row's next token."""

    def __init__(
        self,
        rows: Sequence[Row],
        prompts: Sequence[Sequence[int]],
        params: Sampling,
        ends: set[int],
    ) -> None:
        self._rows = rows
        self._prompts = prompts
        self._params = params
        self._ends = sorted(ends)
        self._min_tokens = int(params.extras.get("min_tokens", 0))
        self._penalty = float(params.extras.get("repetition_penalty", 1.0))
        self._step = 0
        self._seeds: Any = None
        self._seen: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Return the scores of this step; called by `generate` once for each token."""
        import torch

        raw = scores
        if self._penalty != 1.0:
            scores = self._penalised(input_ids, scores)
        if self._step < self._min_tokens and self._ends:
            scores = scores.clone()
            scores[:, self._ends] = -torch.inf
        if self._params.temperature > 0:
            scores = truncated(scores / self._params.temperature, self._params)
            if self._seeds is None:
                self._seeds = torch.tensor(
                    [row.seed for row in self._rows], dtype=torch.int64, device=scores.device
                )
            scores = scores + gumbel_noise(self._seeds, self._step, scores.shape[-1])
        if self._params.logprobs is not None:
            self._note_logprobs(raw, scores)
        self._step += 1
        return scores

    def _penalised(self, input_ids: Any, scores: Any) -> Any:
        """Apply the repetition penalty of CTRL (arXiv:1909.05858) to prompt and answer."""
        import torch

        if self._seen is None:
            self._seen = torch.zeros_like(scores, dtype=torch.bool)
            for row, ids in enumerate(self._prompts):
                self._seen[row, list(ids)] = True
        else:
            self._seen.scatter_(1, input_ids[:, -1:], value=True)
        changed = torch.where(scores > 0, scores / self._penalty, scores * self._penalty)
        return torch.where(self._seen, changed, scores)

    def _note_logprobs(self, raw: Any, scores: Any) -> None:
        """Gather what was asked for at once: keeping all logits takes steps x rows x words."""
        import torch

        logprobs = torch.log_softmax(raw.float(), dim=-1)
        chosen = logprobs.gather(1, scores.argmax(-1, keepdim=True)).squeeze(1).tolist()
        top = logprobs.topk(self._params.logprobs or 1, dim=-1)
        values, ids = top.values.tolist(), top.indices.tolist()
        keep = self._params.logprobs or 0
        for index, row in enumerate(self._rows):
            row.logprobs.append((chosen[index], ids[index][:keep], values[index][:keep]))


def truncated(scores: Any, params: Sampling) -> Any:
    """Set the scores of tokens that top-k, top-p or min-p leave out to minus infinity."""
    import torch

    if params.top_k:
        kth = scores.topk(min(params.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < kth, -torch.inf)
    if params.top_p is not None and params.top_p < 1:
        ordered, places = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        out = before >= params.top_p
        out[:, 0] = False
        scores = scores.masked_fill(out.scatter(1, places, out), -torch.inf)
    min_p = params.extras.get("min_p", 0.0)
    if min_p:
        probabilities = scores.softmax(dim=-1)
        floor = probabilities.max(dim=-1, keepdim=True).values * min_p
        scores = scores.masked_fill(probabilities < floor, -torch.inf)
    return scores


class RowStops:
    """Ends each row by its own rules: end-of-text tokens, stop tokens, stop texts, length.

    Only stop texts need Python for each row and token. The other rules are a few operations on
    all rows, and `finish` finds out afterwards which of them it was.

    Attributes:
        eos_token_id: Unused; its presence makes `generate` pad rows that have ended.
    """

    eos_token_id = None

    def __init__(
        self,
        rows: Sequence[Row],
        params: Sampling,
        ends: set[int],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._rows = rows
        self._stops = params.stop
        self._stop_tokens = set(params.extras.get("stop_token_ids", ()))
        self._ends = ends
        self._min_tokens = int(params.extras.get("min_tokens", 0))
        self._decode = decode
        self._tail = max((len(stop.encode()) for stop in params.stop), default=0) + TAIL_MARGIN
        self._step = 0
        self._stopped: dict[int, tuple[int, str]] = {}
        self._ended: Any = None
        self._limits: Any = None
        self._end_ids: Any = None

    def __call__(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
        """Look at each row's newest token and tell which rows have ended."""
        import torch

        if self._ended is None:
            device = input_ids.device
            self._ended = torch.zeros(len(self._rows), dtype=torch.bool, device=device)
            self._limits = torch.tensor([row.limit for row in self._rows], device=device)
            self._end_ids = torch.tensor(sorted(self._ends), device=device)
        self._step += 1
        ended = self._ended | (self._limits <= self._step)
        if self._step > self._min_tokens:
            if self._ends:
                ended |= torch.isin(input_ids[:, -1], self._end_ids)
            if self._stops:
                self._look_for_stop_texts(input_ids, ended)
        self._ended = ended
        return ended

    def finish(self, sequences: Any) -> None:
        """Give each row its tokens and why it ended, from the answers with their padding."""
        for number, (row, tokens) in enumerate(zip(self._rows, sequences.tolist(), strict=True)):
            row.finish_reason = "length"
            length = row.limit
            if number in self._stopped:
                length, row.stop_reason = self._stopped[number]
                row.finish_reason = "stop"
            for place in range(self._min_tokens, length):
                if tokens[place] in self._ends:
                    length = place + 1
                    row.finish_reason = "stop"
                    found = tokens[place] in self._stop_tokens
                    row.stop_reason = tokens[place] if found else None
                    break
            row.tokens = tokens[:length]

    def _look_for_stop_texts(self, input_ids: Any, ended: Any) -> None:
        tails = input_ids[:, -min(self._tail, self._step) :].tolist()
        for number in (~ended).nonzero().flatten().tolist():
            found = self._new_stop(tails[number])
            if found is not None:
                self._stopped[number] = (self._step, found)
                ended[number] = True

    def _new_stop(self, tail: list[int]) -> str | None:
        """Return the stop text that the newest token completes; older ones had their turn."""
        text = self._decode(tail)
        # Half a character decodes to a replacement that the next token may take back.
        before = len(self._decode(tail[:-1]).rstrip("\ufffd"))
        for stop in self._stops:
            if text.find(stop, max(0, before - len(stop) + 1)) >= 0:
                return stop
        return None
