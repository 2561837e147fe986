"""The last words of tasks that ended with an error: evidence that needs no accounting.

One small file for each failed attempt, written by the task itself just before it exits. A
submitter reads them to keep away from unfit nodes, and `status` to say why a shard failed.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from themis_bundles.files import make_folder, publish_once
from themis_bundles.model import Frozen
from themis_slurm.evidence import Cause

LONGEST_MESSAGE = 2000


class Failure(Frozen):
    """Why one attempt at a shard failed."""

    shard: int
    """The shard."""

    cause: Cause
    """What kind of failure it is."""

    message: str
    """What it said, cut to 2,000 characters."""

    job: str
    """Slurm's job id of the array, or empty for a local pool."""

    node: str
    """Slurm's name of the node, or the host name."""

    when: float
    """When, in Unix seconds of the node's clock; only ever compared within one job."""


def leave_failure(
    folder: Path, shard: int, cause: Cause, message: str, environment: Mapping[str, str]
) -> None:
    """Write last words. A disk that refuses even these is not worth another error."""
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID") or ""
    failure = Failure(
        shard=shard,
        cause=cause,
        message=message[:LONGEST_MESSAGE],
        job=job,
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        when=time.time(),
    )
    name = f"{shard:05d}-{job or f'local{os.getpid()}'}-{secrets.token_hex(4)}.json"
    make_folder(folder)
    publish_once(folder / name, failure.model_dump_json().encode())


def read_failures(folder: Path) -> Iterator[Failure]:
    """Read all last words, oldest first by the nodes' clocks; damaged ones are left out."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found.append(Failure.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    yield from sorted(found, key=lambda failure: failure.when)
