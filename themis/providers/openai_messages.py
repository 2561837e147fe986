"""What is sent to an OpenAI-compatible server, and what its replies mean; no network here.

The format is that of https://platform.openai.com/docs/api-reference: chat completions for
conversations, and completions for plain prompts. Servers differ in what else they take; a
`dialect` says which names may be sent, so that a parameter is refused here and not dropped there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from themis.errors import ErrorCode
from themis.providers.hosted import CallFailed, conversation_sha256, failure_of_status
from themis.providers.protocol import Completion, Request

DialectName = Literal["compatible", "openai", "vllm"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server takes.

    Attributes:
        length: The name of the parameter for the most new tokens of a chat.
        extras: The sampling extras that may be sent under their own names.
        constraints: The extras that hold an answer to a form beside `json_schema`.
        top_k: Whether it knows `top_k`.
        continues: Whether an assistant's last message can be continued.
        seeded: Whether equal seeds give equal samples, as far as logits do.
    """

    length: str
    extras: frozenset[str]
    constraints: frozenset[str] = frozenset()
    top_k: bool = False
    continues: bool = False
    seeded: bool = False


_COMMON = frozenset({"frequency_penalty", "logit_bias", "presence_penalty"})

DIALECTS: Mapping[DialectName, Dialect] = {
    "compatible": Dialect("max_tokens", _COMMON),
    "openai": Dialect("max_completion_tokens", _COMMON | {"reasoning_effort", "verbosity"}),
    "vllm": Dialect(
        "max_tokens",
        _COMMON
        | {"ignore_eos", "min_p", "min_tokens", "reasoning_effort"}
        | {"repetition_penalty", "stop_token_ids"},
        constraints=frozenset({"choice", "grammar", "regex"}),
        top_k=True,
        continues=True,
        seeded=True,
    ),
}


def body_of(
    request: Request,
    model: str,
    *,
    dialect: Dialect,
    chat: bool,
    stream: bool,
    template_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the JSON to send.

    Args:
        request: The request; its parameters are known to the dialect.
        model: The model's name at the server.
        dialect: What the server takes.
        chat: Whether it is a chat completion; otherwise the messages' texts are joined.
        stream: Whether the answer is to come in parts.
        template_kwargs: Arguments of the chat template.
    """
    params = request.params
    body: dict[str, Any] = {
        "model": model,
        **(_conversation(request, dialect) if chat else _prompt(request)),
        dialect.length if chat else "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "seed": request.seed,
        **{name: params.extras[name] for name in dialect.extras if name in params.extras},
        **_form(params.response_format, params.extras, dialect),
    }
    if params.top_p is not None:
        body["top_p"] = params.top_p
    if params.top_k is not None and dialect.top_k:
        body["top_k"] = params.top_k
    if params.stop:
        body["stop"] = list(params.stop)
    if params.logprobs is not None:
        body |= (
            {"logprobs": True, "top_logprobs": params.logprobs}
            if chat
            else {"logprobs": params.logprobs}
        )
    if template_kwargs and chat:
        body["chat_template_kwargs"] = dict(template_kwargs)
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _conversation(request: Request, dialect: Dialect) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.content} for turn in request.messages]
    if request.messages[-1].role != "assistant" or not dialect.continues:
        return {"messages": messages}
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}


def _prompt(request: Request) -> dict[str, Any]:
    return {"prompt": "\n".join(turn.content for turn in request.messages)}


def _form(
    response_format: str | None, extras: Mapping[str, Any], dialect: Dialect
) -> dict[str, Any]:
    form: dict[str, Any] = {}
    if "json_schema" in extras:
        schema = {"name": "answer", "schema": extras["json_schema"], "strict": True}
        form["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif response_format == "json":
        form["response_format"] = {"type": "json_object"}
    held = {name: extras[name] for name in dialect.constraints if name in extras}
    if held:
        form["structured_outputs"] = held
    return form


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Part(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Alternative(msgspec.Struct):
    token: str
    logprob: float


class _TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct):
    """Those of chats (`content`) and those of completions (the other three)."""

    content: list[_TokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    delta: _Part | None = None
    message: _Part | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: _Logprobs | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    id: str | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Reply).decode


class Answer:
    """Puts an answer together from one reply, or from the parts of a stream.

    Attributes:
        begun: Whether there is text.
        finished: Whether the server said how the answer ended.
    """

    def __init__(self, *, top_logprobs: int | None) -> None:
        self.finished = False
        self._top = top_logprobs
        self._texts: list[str] = []
        self._refused = False
        self._logprobs: list[dict[str, Any]] = []
        self._finish: str | None = None
        self._stop: str | int | None = None
        self._usage = _Usage()
        self._service: dict[str, str] = {}

    @property
    def begun(self) -> bool:
        """Whether there is text."""
        return bool(self._texts)

    def add(self, data: bytes | str) -> None:
        """Take a reply, or a part of one.

        Raises:
            CallFailed: It is not of the documented form, or an error.
        """
        try:
            reply = _decode(data)
        except msgspec.DecodeError as error:
            raise CallFailed(
                "infra",
                ErrorCode.PARSE_ERROR,
                f"the service's reply cannot be read: {error}",
                retryable=True,
            ) from error
        if reply.error is not None:
            status = reply.error.get("code") if isinstance(reply.error, Mapping) else None
            if isinstance(status, int) and status >= 300:  # noqa: PLR2004 - a status of HTTP
                raise failure_of_status(status, message_of(reply.error))
            raise CallFailed(
                "infra",
                ErrorCode.PROVIDER_UNAVAILABLE,
                f"the service broke off: {message_of(reply.error)}",
                retryable=True,
            )
        for name in ("id", "model", "system_fingerprint"):
            value = getattr(reply, name)
            if value is not None:
                self._service.setdefault(name, value)
        self._usage = reply.usage or self._usage
        for choice in reply.choices:
            self._choose(choice)

    def completion(self, request: Request, measured: Mapping[str, Any]) -> Completion:
        """Return the whole answer.

        Raises:
            CallFailed: It is not whole.
        """
        if not self.finished:
            raise CallFailed(
                "infra",
                ErrorCode.PROVIDER_UNAVAILABLE,
                "the answer ended before the service said that it was whole",
                retryable=True,
            )
        usage = self._usage
        prompt, answer = usage.prompt_tokens_details, usage.completion_tokens_details
        extra = dict(measured)
        if self._service:
            extra["service"] = self._service
        if answer is not None and answer.reasoning_tokens is not None:
            extra["reasoning_tokens"] = answer.reasoning_tokens
        return Completion(
            request.id,
            text="".join(self._texts),
            finish_reason=self._finish,
            stop_reason=self._stop,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens or 0,
            cached_tokens=prompt.cached_tokens if prompt is not None else None,
            prompt_sha256=conversation_sha256(request.messages),
            logprobs=tuple(self._logprobs) if self._top is not None else None,
            flags=("refusal",) if self._refused else (),
            measured=extra,
        )

    def _choose(self, choice: _Choice) -> None:
        part = choice.message or choice.delta or _Part()
        self._refused = self._refused or bool(part.refusal)
        text = choice.text or part.content or part.refusal
        if text:
            self._texts.append(text)
        if choice.logprobs is not None and self._top is not None:
            self._logprobs += _logprobs(choice.logprobs, self._top)
        if choice.finish_reason is not None:
            self.finished = True
            self._finish = choice.finish_reason
            self._stop = choice.stop_reason


def _logprobs(found: _Logprobs, top: int) -> Iterable[dict[str, Any]]:
    """Yield the entries of `Completion.logprobs`; a server does not tell token ids."""
    for entry in found.content or ():
        others = [(other.token, other.logprob) for other in entry.top_logprobs or ()]
        yield _entry(entry.token, entry.logprob, others[:top])
    tops: Sequence[dict[str, float] | None] = found.top_logprobs or []
    for number, token in enumerate(found.tokens or ()):
        value = (found.token_logprobs or [])[number]
        others = sorted((tops[number] or {}).items(), key=_likelihood) if tops else []
        yield _entry(token, value or 0.0, others[:top])


def _likelihood(other: tuple[str, float]) -> float:
    return -other[1]


def _entry(token: str, value: float, others: Iterable[tuple[str, float]]) -> dict[str, Any]:
    top = [{"id": None, "token": text, "logprob": logprob} for text, logprob in others]
    return {"id": None, "token": token, "logprob": value, "top": top}


def message_of(error: Any) -> str:
    """Return the words of an error in any of the forms that servers use."""
    if isinstance(error, Mapping):
        inner = error.get("error", error)
        if isinstance(inner, Mapping):
            inner = inner.get("message") or inner.get("detail") or inner
        return str(inner)
    return str(error)


def error_code_of(error: Any) -> str | None:
    """Return the server's own code of an error, if it has one."""
    inner = error.get("error") if isinstance(error, Mapping) else None
    code = inner.get("code") if isinstance(inner, Mapping) else None
    return code if isinstance(code, str) else None
