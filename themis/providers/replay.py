"""The replay engine: answers that were recorded before, served again.

Recordings are looked up by what was asked, the sample and, as far as both sides know them, the
model and the parameters. Nothing is guessed: what is not there, or is there twice with different
answers, fails its item and says so. The index is a temporary SQLite file, so memory is bounded
however much was recorded.
"""

import json
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson

from themis.errors import ErrorCode
from themis.providers.options import read_options
from themis.providers.protocol import (
    Capabilities,
    Completion,
    EngineInitError,
    EngineSettings,
    LogLikelihood,
    Request,
    RequestFailure,
    Sampling,
    check_request,
    rejected,
)
from themis.providers.recordings import (
    Recording,
    asked_hash,
    is_batch,
    known_params,
    read_batch,
    read_bundle,
    read_lines,
)
from themis_bundles import sha256_hex

MAX_LOGPROBS = 1000
"""What was recorded is served; nobody counts it."""


class ReplayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the recordings are.

    Attributes:
        source: A JSON Lines file, the results of an OpenAI batch, a bundle, or a store.
        requests: The requests of the batch.
        results: The results of the bundle, if they are not in it.
        model: The recorded model to take; by default the model's id.
        match_params: Whether recorded parameters must equal those asked for.
    """

    source: str
    requests: str | None = None
    results: str | None = None
    model: str | None = None
    match_params: bool = True


class ReplayEngine:
    """Serves recordings.

    Args:
        settings: The model and the options.
        recordings: What to serve; by default what the option `source` names.

    Raises:
        EngineInitError: An option cannot be, or the source cannot be read.
    """

    window = 256

    def __init__(
        self, settings: EngineSettings, recordings: Iterable[Recording] | None = None
    ) -> None:
        self._options = read_options(ReplayOptions, "replay", settings.options)
        self._model_id = settings.model_id
        self._queue: deque[tuple[Request, float]] = deque()
        self._folder = tempfile.TemporaryDirectory(prefix="themis-replay-")
        self._db = sqlite3.connect(Path(self._folder.name) / "index.sqlite3")
        try:
            self._count = _fill(self._db, recordings or recordings_of(self._options))
        except BaseException:
            self.close()
            raise
        if not self._count:
            self.close()
            raise EngineInitError(f"{self._options.source} holds no recorded answer.")

    @property
    def inflight(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def capabilities(self) -> Capabilities:
        """Return that anything may be asked that was recorded."""
        return Capabilities(
            max_model_len=None,
            max_logprobs=MAX_LOGPROBS,
            json_format=True,
            extras=frozenset(),
            seeded=True,
            loglikelihoods=True,
        )

    def describe(self) -> dict[str, Any]:
        """Return the source, the digest of a single file, and how much it holds."""
        path = Path(self._options.source)
        digest = None
        if path.is_file():
            from themis.providers.models import file_sha256

            digest = file_sha256(path)
        return {
            "engine": "replay",
            "model": {"id": self._model_id},
            "source": {"path": str(path), "sha256": digest, "recordings": self._count},
        }

    def submit(self, request: Request) -> None:
        """Queue a request."""
        check_request(request, self.capabilities())
        self._queue.append((request, time.monotonic()))

    def poll(self) -> list[Completion]:
        """Answer all that wait."""
        done = [self._complete(*entry) for entry in self._queue]
        self._queue.clear()
        return done

    def cancel(self) -> list[int]:
        """Drop what waits."""
        dropped = [request.id for request, _ in self._queue]
        self._queue.clear()
        return dropped

    def close(self) -> None:
        """Remove the index."""
        self._queue.clear()
        self._db.close()
        self._folder.cleanup()

    def _complete(self, request: Request, submitted: float) -> Completion:
        found = self._found(request)
        if isinstance(found, str):
            failure = rejected(found, code=ErrorCode.ITEM_LOAD).failure
            return Completion(request.id, error=failure)
        return _completion(request, found, (time.monotonic() - submitted) * 1000)

    def _found(self, request: Request) -> Mapping[str, Any] | str:
        """Return the record of a request, or why there is none."""
        prompt = asked_hash(request)
        rows = self._db.execute(
            "SELECT model, params, record FROM recordings WHERE prompt = ? AND sample = ?",
            (bytes.fromhex(prompt), request.sample),
        ).fetchall()
        where = f"prompt {prompt[:12]}, sample {request.sample}"
        if not rows:
            return f"nothing was recorded for this request ({where}) in {self._options.source}"
        name = self._options.model or self._model_id
        own = [row for row in rows if row[0] in (None, name)]
        if not own:
            others = ", ".join(sorted({row[0] for row in rows}))
            return f"no answer of the model {name!r} was recorded ({where}); there are {others}"
        if self._options.match_params:
            own = [row for row in own if _agree(json.loads(row[1]), request.params)]
            if not own:
                return f"no answer with these parameters was recorded ({where})"
        records = [orjson.loads(row[2]) for row in own]
        if len({_content(record) for record in records}) > 1:
            return f"{len(records)} different answers were recorded ({where})"
        record: Mapping[str, Any] = records[0]
        return record


def recordings_of(options: ReplayOptions) -> Iterable[Recording]:
    """Return the recordings that the options name, of any source but a store.

    Raises:
        EngineInitError: The source is none of those.
    """
    source = Path(options.source)
    if (source / "bagit.txt").is_file():
        return read_bundle(source, Path(options.results) if options.results else None)
    if not source.is_file():
        raise EngineInitError(f"{source} is no file of recordings, no bundle and no store.")
    if not is_batch(source):
        return read_lines(source)
    if options.requests is None:
        raise EngineInitError(
            f"{source} holds results of a batch, which do not say what was asked: give the file "
            "of its requests as the option 'requests'."
        )
    return read_batch(source, Path(options.requests))


def _fill(db: sqlite3.Connection, recordings: Iterable[Recording]) -> int:
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -16384")  # KiB
    db.execute(
        "CREATE TABLE recordings"
        " (prompt BLOB, sample INTEGER, model TEXT, params TEXT, record BLOB)"
    )
    db.execute("CREATE INDEX by_prompt ON recordings (prompt, sample)")
    count = 0
    for recording in recordings:
        prompt = bytes.fromhex(recording.prompt)
        params = json.dumps(known_params(recording.params), sort_keys=True)
        sample = recording.sample
        if sample is None:
            (sample,) = db.execute(
                "SELECT count(*) FROM recordings WHERE prompt = ? AND model IS ? AND params = ?",
                (prompt, recording.model, params),
            ).fetchone()
        db.execute(
            "INSERT INTO recordings VALUES (?, ?, ?, ?, ?)",
            (prompt, sample, recording.model, params, orjson.dumps(recording.record)),
        )
        count += 1
    db.commit()
    return count


def _agree(recorded: Mapping[str, Any], params: Sampling) -> bool:
    """Tell whether the parameters that were recorded are those asked for."""
    asked = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "stop_sequences": sorted(params.stop),
    }
    for name, value in recorded.items():
        given = sorted(value) if isinstance(value, list) else value
        if name in asked and asked[name] != given:
            return False
    return True


def _content(record: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in record.items() if key not in ("latency_ms", "usage")}
    return sha256_hex(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS))


def _completion(request: Request, record: Mapping[str, Any], latency: float) -> Completion:
    error = record.get("error")
    if error is not None:
        message = f"the recorded answer is a failure: {error.get('message', '')}"
        failure = RequestFailure("model", ErrorCode.ITEM_LOAD, message, retryable=False)
        return Completion(request.id, error=failure, latency_ms=latency)
    usage = record.get("usage") or {}
    logprobs = record.get("logprobs")
    measured = {"replayed": True}
    if record.get("latency_ms") is not None:
        measured["recorded_latency_ms"] = record["latency_ms"]
    return Completion(
        request.id,
        text=record["text"],
        finish_reason=record.get("finish_reason") or "stop",
        stop_reason=record.get("stop_reason"),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=usage.get("cached_tokens"),
        latency_ms=latency,
        prompt_sha256=record.get("prompt_sha256"),
        logprobs=None if logprobs is None else tuple(logprobs),
        flags=tuple(record.get("flags", ())),
        loglikelihoods=_likelihoods(request, record.get("loglikelihoods")),
        measured=measured,
    )


def _likelihoods(request: Request, found: Any) -> tuple[LogLikelihood, ...] | None:
    if request.continuations is None or found is None:
        return None
    return tuple(
        LogLikelihood(text, each["sum"], each["tokens"], each["is_greedy"])
        for text, each in zip(request.continuations, found, strict=True)
    )
