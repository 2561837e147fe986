"""A user's own engine: anything that can be asked for one answer at a time.

It is a function of a request, or an object with a method `infer`; either may be a coroutine
function. It is called with the request (`themis.providers.Request`), or, when it takes three
arguments, with a trial, a context and a runtime:

* the trial has `model_id`, `provider`, `messages`, `params`, `seed` and `sample`;
* the context maps `sample` and `seed` to their values;
* the runtime maps the engine's options to their values.

It returns a text, a `Completion`, or an object or mapping with `raw_text` (or `text`) and, where
known, `finish_reason`, `token_usage` (`prompt_tokens`, `completion_tokens`), `logprobs`,
`time_to_first_token_ms` and `provider_request_id`; an object with `inference` is read there.

Functions run in threads, as many at once as `max_in_flight` says; coroutines share one loop.
"""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from themis.errors import ErrorCode, InferenceError, RetryableProviderError
from themis.providers.hosted import (
    CallFailed,
    HostedEngine,
    HostedOptions,
    conversation_sha256,
)
from themis.providers.options import read_options
from themis.providers.protocol import (
    Capabilities,
    Completion,
    EngineInitError,
    EngineSettings,
    Message,
    Request,
    RequestRejected,
    Sampling,
    rejected,
)

ALL_ARGUMENTS = 3
"""Trial, context and runtime."""

UNDECLARED_LOGPROBS = 1000

_MACHINERY = frozenset(
    {
        ErrorCode.PROVIDER_RATE_LIMIT,
        ErrorCode.PROVIDER_TIMEOUT,
        ErrorCode.PROVIDER_UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Declared:
    """What an engine's owner says of it.

    Attributes:
        name: Its provider name.
        version: Its version.
        json_format: Whether it holds answers to JSON; None when nothing was declared.
        logprobs: Whether it reports log-probabilities; None when nothing was declared.
        context: Tokens that prompt and answer may have together; None is no bound.
    """

    name: str
    version: str = ""
    json_format: bool | None = None
    logprobs: bool | None = None
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What is asked, for an `infer` of three arguments."""

    model_id: str
    provider: str
    messages: tuple[Message, ...]
    params: Sampling
    seed: int
    sample: int


def infer_engine(made: Any, settings: EngineSettings, declared: Declared) -> HostedEngine:
    """Return an engine that asks a user's own.

    Args:
        made: A function, or an object with `infer`.
        settings: The model, and the options of `HostedOptions`; others go to the runtime.
        declared: What its owner says of it.

    Raises:
        EngineInitError: It is neither, or an option cannot be.
    """
    known = HostedOptions.__struct_fields__
    given = {name: value for name, value in settings.options.items() if name in known}
    options = read_options(HostedOptions, declared.name, given)
    return HostedEngine(InferBackend(made, settings, declared), options)


class InferBackend:
    """Calls a user's engine, once for each request."""

    def __init__(self, made: Any, settings: EngineSettings, declared: Declared) -> None:
        call = getattr(made, "infer", made)
        if not callable(call):
            raise EngineInitError(
                f"The engine {declared.name!r} is {type(made).__name__}: it is no function and "
                "has no method 'infer'.",
                code=ErrorCode.PLUGIN_INCOMPATIBLE,
            )
        self._made = made
        self._call: Callable[..., Any] = call
        self._is_coroutine = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
            getattr(call, "__call__", None)  # noqa: B004 - an object whose call is a coroutine
        )
        self._takes_all = _arguments(call) >= ALL_ARGUMENTS
        self._settings = settings
        self._declared = declared

    def capabilities(self) -> Capabilities:
        """Return what was declared; what was not is left to the engine."""
        declared = self._declared
        return Capabilities(
            max_model_len=declared.context,
            max_logprobs=0 if declared.logprobs is False else UNDECLARED_LOGPROBS,
            json_format=declared.json_format is not False,
            extras=frozenset(getattr(self._made, "extras", ())),
            seeded=False,
        )

    def describe(self) -> dict[str, Any]:
        """Return the engine's name and version, and the model."""
        kind = self._made if inspect.isroutine(self._made) else type(self._made)
        return {
            "engine": self._declared.name,
            "version": self._declared.version,
            "implementation": f"{kind.__module__}:{kind.__qualname__}",
            "model": {"id": self._settings.model_id},
        }

    def check(self, request: Request) -> None:
        """Refuse what the engine is declared not to do."""
        if self._declared.logprobs is False and request.params.logprobs is not None:
            raise rejected(f"the engine {self._declared.name!r} reports no logprobs")
        context = self._declared.context
        if context is not None and request.params.max_tokens > context:
            raise rejected(
                f"max_tokens={request.params.max_tokens} is more than the context of {context}"
            )

    async def open(self) -> None:
        """Do nothing: the engine is ready."""

    async def answer(self, request: Request) -> Completion:
        """Call the engine, and read what it gives."""
        try:
            given = await self._called(request)
        except RequestRejected as refusal:
            failure = refusal.failure
            raise CallFailed(failure.kind, failure.code, failure.message) from refusal
        except InferenceError as error:
            raise failure_of_error(error) from error
        return completion_of(request, given)

    async def close(self) -> None:
        """Close the engine, if it can be closed."""
        close = getattr(self._made, "close", None)
        if callable(close):
            result = close()
            if inspect.isawaitable(result):
                await result

    async def _called(self, request: Request) -> Any:
        arguments: tuple[Any, ...] = (request,)
        if self._takes_all:
            trial = Trial(
                self._settings.model_id,
                self._declared.name,
                request.messages,
                request.params,
                request.seed,
                request.sample,
            )
            context = {"sample": request.sample, "seed": request.seed}
            arguments = (trial, context, dict(self._settings.options))
        if self._is_coroutine:
            return await self._call(*arguments)
        given = await in_thread(self._call, *arguments)
        return await given if inspect.isawaitable(given) else given


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a thread of its own, which no one waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return  # it was cancelled, or took too long
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except Exception as raised:  # noqa: BLE001 - goes on in the loop
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="themis-infer", daemon=True).start()
    return await future


def failure_of_error(error: InferenceError) -> CallFailed:
    """Return what an error that an engine raised on purpose means for its request."""
    if error.code is ErrorCode.PROVIDER_AUTH:
        return CallFailed("infra", error.code, error.message, fatal=True)
    if isinstance(error, RetryableProviderError) or error.code in _MACHINERY:
        wait = error.details.get("retry_after")
        return CallFailed(
            "infra",
            error.code,
            error.message,
            retryable=True,
            retry_after=float(wait) if isinstance(wait, int | float) else None,
        )
    return CallFailed("model", error.code, error.message)


def completion_of(request: Request, given: Any) -> Completion:
    """Return what an engine gave as a completion.

    Raises:
        CallFailed: It has no text.
    """
    if isinstance(given, Completion):
        return replace(given, id=request.id)
    found = getattr(given, "inference", given)
    if isinstance(found, str):
        found = {"raw_text": found}
    text = _field(found, "raw_text")
    text = _field(found, "text") if text is None else text
    if not isinstance(text, str):
        raise CallFailed(
            "infra",
            ErrorCode.PARSE_ERROR,
            f"the engine returned {type(given).__name__} without a text",
        )
    usage = _field(found, "token_usage") or {}
    measured = {
        name: value
        for name in ("time_to_first_token_ms", "provider_request_id")
        if (value := _field(found, name)) is not None
    }
    logprobs = _field(found, "logprobs")
    return Completion(
        request.id,
        text=text,
        finish_reason=str(_field(found, "finish_reason") or "stop"),
        prompt_tokens=int(_field(usage, "prompt_tokens") or 0),
        completion_tokens=int(_field(usage, "completion_tokens") or 0),
        prompt_sha256=conversation_sha256(request.messages),
        logprobs=tuple(logprobs) if isinstance(logprobs, list | tuple) else None,
        measured=measured,
    )


def _field(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _arguments(call: Callable[..., Any]) -> int:
    """Return how many arguments a call must have."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # some functions of C tell nothing
        return 1
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in parameters
    )
