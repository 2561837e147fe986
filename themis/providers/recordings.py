"""Recorded answers, from whatever holds them, each with what was asked.

* A JSON Lines file. Each line has `messages` (a list of `role` and `content`) or `prompt` (one
  user message), and `text` or `error`; where it is there, `sample` says which of several answers
  it is (otherwise lines with the same prompt are numbered as they come), `model` and `params`
  say whose it is, and `finish_reason`, `usage`, `logprobs` and `continuations` with
  `loglikelihoods` are taken over.
* The results of an OpenAI batch, which name requests by `custom_id` only, with the file of the
  requests (https://platform.openai.com/docs/guides/batch).
* A bundle and its results.

Files may end in `.gz` or `.zst`. They are read as streams.
"""

import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import zstandard

from themis.identity import prompt_hash
from themis.providers.hosted import CallFailed
from themis.providers.openai_messages import Answer, message_of
from themis.providers.protocol import EngineInitError, Message, Request, Sampling
from themis_bundles import Bundle, chosen

PARAMS = ("max_tokens", "temperature", "top_p", "top_k", "stop_sequences", "seed")
"""The parameters that tell recordings of one prompt apart."""

_OF_BATCHES = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences"}


@dataclass(frozen=True, slots=True)
class Recording:
    """An answer that was given.

    Attributes:
        prompt: `themis.identity.prompt_hash` of what was asked.
        record: The answer, as a bundle's record holds it.
        sample: Which of several answers it is; None numbers them as they come.
        model: Whose answer it is; None when that is not known.
        params: The parameters, as far as they are known.
    """

    prompt: str
    record: Mapping[str, Any]
    sample: int | None = None
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


def read_lines(path: Path) -> Iterator[Recording]:
    """Yield the recordings of a JSON Lines file.

    Raises:
        EngineInitError: A line is none; the message names it.
    """
    for number, line in _lines(path):
        try:
            yield _recording(line)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineInitError(
                f"{path}, line {number} is no recording ({type(error).__name__}: {error})."
            ) from error


def read_batch(results: Path, requests: Path) -> Iterator[Recording]:
    """Yield the answers of an OpenAI batch.

    The requests are kept by their ids: about 200 bytes each.

    Args:
        results: The output file of the batch, or its error file.
        requests: The input file.

    Raises:
        EngineInitError: A line is not of the documented form, or a result has no request.
    """
    asked: dict[str, tuple[str, str | None, dict[str, Any]]] = {}
    for number, line in _lines(requests):
        try:
            body = line["body"]
            messages = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
            asked[line["custom_id"]] = (
                _hash(messages),
                body.get("model"),
                {_OF_BATCHES.get(name, name): value for name, value in body.items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineInitError(
                f"{requests}, line {number} is no request of a batch ({error!r})."
            ) from error
    for number, line in _lines(results):
        identity = line.get("custom_id") if isinstance(line, Mapping) else None
        if not isinstance(identity, str) or identity not in asked:
            raise EngineInitError(
                f"{results}, line {number}: {identity!r} is no custom_id of {requests}."
            )
        prompt, model, params = asked[identity]
        yield Recording(prompt, _of_batch(line), model=model, params=_known(params))


def read_bundle(path: Path, results: Path | None) -> Iterator[Recording]:
    """Yield the records that stand for the items of a generation bundle.

    Raises:
        BundleError: The bundle or its results are not valid.
    """
    bundle = Bundle.open(path, results=results)
    components = bundle.components()
    for shard in range(len(bundle.shards)):
        model = bundle.group_of(shard).model_id
        for entry in chosen(bundle, shard, resolve="first"):
            if entry.record is None:
                continue
            asked = entry.item.body["request"]
            params = components[entry.item.body["refs"]["params"]].body
            for messages, record in _turns(asked, entry.record.record):
                yield Recording(
                    prompt_hash(messages, asked.get("continuations")),
                    record,
                    sample=int(entry.item.body.get("sample", 0)),
                    model=model,
                    params=_known(params),
                )


def _turns(
    asked: Mapping[str, Any], record: Mapping[str, Any]
) -> Iterator[tuple[list[Any], Mapping[str, Any]]]:
    """Yield what was said before each answer of a conversation, and the answer."""
    follow_ups = asked.get("follow_ups", ())
    if follow_ups and "error" in record:
        return  # it does not say which turn failed
    said = list(asked["messages"])
    for turn, follow_up in zip(record.get("turns", ()), follow_ups, strict=False):
        yield said, turn
        said = [*said, {"role": "assistant", "content": turn["text"]}, follow_up]
    yield said, {name: value for name, value in record.items() if name != "turns"}


def asked_hash(request: Request) -> str:
    """Return `prompt_hash` of a request."""
    return _hash(
        [{"role": turn.role, "content": turn.content} for turn in request.messages],
        request.continuations,
    )


def is_batch(path: Path) -> bool:
    """Tell whether a file holds results of an OpenAI batch, by its first line."""
    first = next(_lines(path), (0, None))[1]
    return isinstance(first, Mapping) and "custom_id" in first and "response" in first


def known_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that tell recordings apart; None and empty ones say nothing."""
    return _known(params)


def _recording(line: Any) -> Recording:
    if "messages" in line:
        messages = line["messages"]
    else:
        messages = [{"role": "user", "content": line["prompt"]}]
    if "error" in line and line["error"] is not None:
        record: dict[str, Any] = {"error": {"kind": "model", "message": message_of(line["error"])}}
    else:
        if not isinstance(line["text"], str):
            raise TypeError("text must be a string")
        kept = ("finish_reason", "stop_reason", "usage", "logprobs", "loglikelihoods", "latency_ms")
        record = {"text": line["text"], **{name: line[name] for name in kept if name in line}}
    sample = line.get("sample")
    return Recording(
        _hash(messages, line.get("continuations")),
        record,
        sample=None if sample is None else int(sample),
        model=line.get("model"),
        params=_known(line.get("params", {})),
    )


def _of_batch(line: Mapping[str, Any]) -> dict[str, Any]:
    response = line.get("response") or {}
    if line.get("error") or response.get("status_code") != 200:  # noqa: PLR2004 - HTTP's OK
        message = message_of(line.get("error") or response.get("body"))
        return {"error": {"kind": "model", "message": message}}
    # Read by the rules for a server's replies; the request only gives an id and a digest.
    nobody = Request(0, (Message("user", ""),), Sampling(1), seed=0)
    answer = Answer(top_logprobs=None)
    try:
        answer.add(orjson.dumps(response.get("body")))
        done = answer.completion(nobody, {})
    except CallFailed as failed:
        return {"error": {"kind": "model", "message": failed.failure.message}}
    usage = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    return {"text": done.text, "finish_reason": done.finish_reason, "usage": usage}


def _hash(messages: Sequence[Mapping[str, Any]], continuations: Any = None) -> str:
    turns = [{"content": turn["content"], "role": turn["role"]} for turn in messages]
    return prompt_hash(turns, continuations)


def _known(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in PARAMS if params.get(name) not in (None, [], ())}


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with _opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield number, orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise EngineInitError(f"{path}, line {number} is no JSON: {error}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    try:
        raw = path.open("rb")
    except OSError as error:
        raise EngineInitError(f"{path} cannot be read: {error.strerror}.") from error
    with raw:
        if path.suffix == ".gz":
            with gzip.open(raw) as stream:
                yield cast("io.BufferedIOBase", stream)
        elif path.suffix == ".zst":
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            with io.BufferedReader(cast("io.RawIOBase", reader)) as stream:
                yield stream
        else:
            yield raw
