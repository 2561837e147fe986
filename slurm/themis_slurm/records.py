"""What was asked of a cluster: one small file per array, written before and after asking.

A record is created as `prepared`, under a job name that nobody else uses, before sbatch runs.
When the answer comes, the record becomes `submitted` with the array's id (through `held`, when
the array was submitted so that nothing of it starts before the id is on record). If the submitter
dies in between, the name finds the array again, so no work is asked for twice and no array is
forgotten. A record is never deleted.
"""

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from themis.errors import StorageError
from themis_bundles.files import make_folder, publish_once, replace
from themis_bundles.model import Frozen
from themis_slurm.code_version import CodeVersion
from themis_slurm.processes import ProcessName

State = Literal["prepared", "held", "submitted", "refused"]
Method = Literal["submitit", "sbatch"]


class SubmissionRecord(Frozen):
    """One array, or one local pool run."""

    number: int
    """Its place among the submissions of the bundle, from 1."""

    kind: Literal["slurm", "local"]
    """What it was submitted to."""

    state: State
    """How far it came: prepared, perhaps held, then submitted or refused."""

    name: str
    """The job name, unique to this submission."""

    bundle: str
    """The bundle's digest."""

    group: int
    """Which group of the manifest the shards belong to."""

    shards: tuple[int, ...]
    """The shards of its elements; see `element` for which runs which."""

    items_done: tuple[int, ...]
    """Items that each of `shards` had finished when it was submitted; measures progress."""

    options: str
    """The file under `options/` that the tasks read."""

    submitter: ProcessName
    """Who submitted; a local pool's shards live and die with this process."""

    prepared: float
    """When it was prepared, in Unix seconds of the submitter's clock."""

    method: Method = "submitit"
    """Who wrote the script: submitit's elements are numbered by their place, ours by shard."""

    offset: int = 0
    """What has to be added to the number of an element of our own to give its shard."""

    code: CodeVersion | None = None
    """The code that submitted it, and its packages."""

    job_id: str | None = None
    """The array's job id, once Slurm gave one."""

    excluded_nodes: tuple[str, ...] = ()
    """Nodes that it was kept away from, because tasks found them unfit."""

    asked: bool = False
    """A person asked for these shards by name: tries before this one no longer count."""

    cancelled: tuple[int, ...] = ()
    """Shards that a person stopped; Slurm forgets an element that was stopped while it waited."""

    reason: str | None = None
    """Why it was refused."""

    def element(self, shard: int) -> str | None:
        """Give Slurm's name for a shard's element; an array of one by submitit is no array."""
        if self.job_id is None:
            return None
        if self.method == "sbatch":
            return f"{self.job_id}_{shard - self.offset}"
        if len(self.shards) == 1:
            return self.job_id
        return f"{self.job_id}_{self.shards.index(shard)}"

    def shard_of(self, index: int | None) -> int:
        """Give the shard of an element, or of the job that is no array."""
        if self.method == "sbatch":
            return (index or 0) + self.offset
        return self.shards[index or 0]


def job_name(bundle_digest: str, number: int) -> str:
    """Make a job name that no other submission has."""
    return f"themis-{bundle_digest[:8]}-{number:04d}-{secrets.token_hex(4)}"


def read_records(folder: Path) -> tuple[SubmissionRecord, ...]:
    """Read all submissions of a bundle, oldest first.

    Raises:
        StorageError: A record was damaged; ignoring it could run its shards twice.
    """
    if not folder.is_dir():
        return ()
    return tuple(_read(path) for path in sorted(folder.glob("[0-9]*.json")))


def _read(path: Path) -> SubmissionRecord:
    try:
        return SubmissionRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(
            f"{path} is damaged: {error.errors()[0]['msg']}. Cancel the jobs it speaks of, then "
            "move it away."
        ) from error


def create_record(folder: Path, record: SubmissionRecord) -> SubmissionRecord:
    """Write a new record durably, under the next number when its own is taken."""
    make_folder(folder)
    while not publish_once(folder / f"{record.number:04d}.json", _bytes(record)):
        record = record.model_copy(update={"number": record.number + 1})
    return record


def update_record(folder: Path, record: SubmissionRecord) -> None:
    """Replace a record's file; a reader sees the old or the new one."""
    replace(folder / f"{record.number:04d}.json", _bytes(record))


def _bytes(record: SubmissionRecord) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"


def tries_without_progress(records: Sequence[SubmissionRecord], shard: int, finished: int) -> int:
    """Count the latest submissions of a shard that found it as it is now.

    Attempts are not counted: a shard that needs five walltimes is healthy as long as each of
    them finishes something. A cancelled or refused submission was no try, and when a person
    asks for the shard by name, counting starts anew.

    Args:
        records: Submissions, oldest first.
        shard: The shard.
        finished: The items it has finished by now.
    """
    count = 0
    for record, done in _submissions_of(shard, reversed(records)):
        if done < finished:
            break
        count += record.state != "refused" and shard not in record.cancelled
        if record.asked:
            break
    return count


def _submissions_of(
    shard: int, records: Iterator[SubmissionRecord]
) -> Iterator[tuple[SubmissionRecord, int]]:
    for record in records:
        if shard in record.shards:
            yield record, record.items_done[record.shards.index(shard)]
