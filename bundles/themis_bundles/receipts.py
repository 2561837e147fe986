"""The small JSON files and lines around records: header, footer, status, receipt, done.

All of them are canonical JSON with a line end. None decides what a record is worth; they say
where records come from, how far an attempt got, and which bytes complete a shard.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, JsonValue

from themis_bundles.canonical import canonical_json, parse_canonical
from themis_bundles.errors import CanonicalError
from themis_bundles.model import AttemptId, Count, Frozen, Sha256

RESULTS_FORMAT = "themis-results"
DONE_FORMAT = "themis-done"
RECEIPT_LIMIT = 2**24
"""The largest status, receipt or done file that is read, in bytes."""

M = TypeVar("M", bound=Frozen)

Outcome = Literal["complete", "partial", "failed"]
"""How an attempt ended."""

Seconds = Annotated[float, Field(ge=0)]
"""Seconds since 1970, by the clock of the machine that wrote them."""


class Header(Frozen):
    """The first line of a result file, under the key `header`."""

    format: Literal["themis-results"]
    """Tells a result file from anything else."""

    version: Literal["1.0"]
    """The version of the format."""

    bundle: Sha256
    """The bundle whose items were executed."""

    plan: Sha256
    """The plan of that bundle, whatever its sharding."""

    shard: Count
    """The shard whose items were executed."""

    attempt: AttemptId
    """The attempt; also the file's name."""

    started: Seconds
    """When it started. Only breaks ties between equal answers, so a wrong clock does no harm."""

    provenance: dict[str, JsonValue]
    """The engine, its versions and the machine."""

    provenance_sha256: Sha256
    """The digest of `provenance`, to compare attempts at a glance."""


class Footer(Frozen):
    """The last line of a result file whose attempt ended in order, under the key `footer`."""

    records: Count
    """How many records the file holds."""

    bytes: Count
    """The length of everything before the footer's frame."""

    sha256: Sha256
    """The digest of everything before the footer's frame."""

    outcome: Outcome
    """How the attempt ended."""

    cause: str
    """Why it ended, in words."""


class Status(Frozen):
    """`<attempt>.json`: how far an attempt is and, when it ended, its receipt."""

    model_config = ConfigDict(extra="allow")

    attempt: AttemptId
    """The attempt; also the file's name."""

    bundle: Sha256
    """The bundle whose items are executed."""

    shard: Count
    """The shard whose items are executed."""

    state: Literal["running", "ended"]
    """`running` may also mean killed: nobody was left to say so."""

    outcome: Outcome | None
    """How it ended."""

    cause: str
    """Why it ended, in words."""

    items_done: Count
    """Items of the shard that this and former attempts finished."""

    items_total: Count
    """Items of the shard."""

    ok: Count
    """Finished items that were answered."""

    model_error: Count
    """Finished items that failed by their own fault."""

    infra_error: Count
    """Items that failed by the machine's fault; the next attempt tries them again."""

    records: Count
    """Records of this attempt that are on the disk."""

    bytes: Count
    """The length of the result file up to there."""

    sha256: Sha256
    """The digest of the result file up to there."""

    started: Seconds
    """When the attempt started."""

    updated: Seconds
    """When this was written."""

    pid: Count
    """The worker's process."""

    host: str
    """The worker's machine."""


class DoneAttempt(Frozen):
    """One result file that completes a shard."""

    attempt: AttemptId
    """The attempt."""

    bytes: Count
    """How much of the file was read; an attempt may have gone on writing."""

    sha256: Sha256
    """The digest of that much of the file."""

    records: Count
    """How many records lie in it."""


class Done(Frozen):
    """`done.json`: the attempts whose records complete a shard."""

    format: Literal["themis-done"]
    """Tells this file from anything else."""

    version: Literal["1.0"]
    """The version of the format."""

    bundle: Sha256
    """The bundle."""

    shard: Count
    """The shard."""

    items: Count
    """How many items the shard has."""

    ok: Count
    """How many were answered."""

    model_error: Count
    """How many failed by their own fault."""

    attempts: tuple[DoneAttempt, ...]
    """The attempts, by name."""


def dump(model: Frozen) -> bytes:
    """Return the bytes of a status, receipt or done file."""
    return canonical_json(model.model_dump(mode="json")) + b"\n"


def load(kind: type[M], data: bytes) -> M:
    """Parse a status, receipt or done file.

    Raises:
        ValueError: When it is not canonical JSON or breaks the model; CanonicalError and
            pydantic's ValidationError are both kinds of it.
    """
    if not data.endswith(b"\n"):
        raise CanonicalError("the line has no end")
    return kind.model_validate(parse_canonical(data[:-1]))
