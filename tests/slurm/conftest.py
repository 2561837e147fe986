"""A cluster that does what a test says, and bundles to dispatch to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from themis_bundles import Bundle, ResultWriter, new_attempt_id
from themis_slurm.dispatcher import LiveShard
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.fleet import Fleet
from themis_slurm.records import SubmissionRecord
from themis_slurm.workspace import Workspace, open_workspace


@dataclass
class FakeCluster:
    """A dispatcher without processes; tests decide what lives and what ended how."""

    array_size: int = 1000
    live: dict[int, LiveShard] = field(default_factory=dict)
    ended: dict[int, Verdict] = field(default_factory=dict)
    known_names: dict[str, str] = field(default_factory=dict)
    refusals: list[Exception] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    submitted: list[SubmissionRecord] = field(default_factory=list)
    on_submit: Callable[[SubmissionRecord], None] = lambda _record: None
    down: Exception | None = None

    def elements_per_submission(self) -> int:
        return self.array_size

    def script(self, record: SubmissionRecord) -> str:
        return f"script of {record.shards}"

    def submit(self, record: SubmissionRecord) -> SubmissionRecord:
        if self.refusals:
            raise self.refusals.pop(0)
        self.submitted.append(record)
        self.live |= {
            shard: LiveShard(running=False, job="1", reason="Priority") for shard in record.shards
        }
        self.on_submit(record)
        job_id = str(100 + record.number)
        return record.model_copy(update={"state": "submitted", "job_id": job_id})

    def release(self, record: SubmissionRecord) -> None:
        """Start nothing: what this cluster takes, it takes as submitted."""

    def find(self, record: SubmissionRecord) -> str | None:
        return self.known_names.get(record.name)

    def alive(self, records: Sequence[SubmissionRecord]) -> Mapping[int, LiveShard]:
        self.questions.append("alive")
        if self.down is not None:
            raise self.down
        asked = {shard for record in records for shard in record.shards}
        return {shard: live for shard, live in self.live.items() if shard in asked}

    def cancel(self, _records: Sequence[SubmissionRecord], shards: Sequence[int]) -> None:
        for shard in shards:
            self.live.pop(shard, None)

    def evidence(
        self, _records: Sequence[SubmissionRecord], shards: Sequence[int]
    ) -> Mapping[int, Verdict]:
        self.questions.append("evidence")
        return {shard: self.ended.get(shard, Verdict(Cause.LOST)) for shard in shards}


@pytest.fixture
def fake() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def fleet(fake: FakeCluster) -> Fleet:
    return Fleet(fake, {"slurm": fake, "local": fake})


@pytest.fixture
def workspace(write_generation_bundle: Callable[..., Path]) -> Workspace:
    """Six shards of four items."""
    questions = [f"{number} + 1 = ?" for number in range(24)]
    return open_workspace(write_generation_bundle(questions, shard_items=4))


Finish = Callable[..., None]


@pytest.fixture
def answer() -> Finish:
    """Write records of a shard, as a worker does."""

    def write(bundle: Bundle, shard: int, count: int | None = None, **header: Any) -> None:
        with ResultWriter(bundle, shard, new_attempt_id(), header=header) as writer:
            writer.status(force=True)
            for place, item in enumerate(bundle.iter_items(shard)):
                if count is not None and place >= count:
                    writer.close("partial", "SIGTERM")
                    return
                writer.append(item.seq, item.sha256, "ok", _record())

    return write


def _record() -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "cached_tokens": None}
    return {
        "text": "2",
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": usage,
        "latency_ms": 1.0,
        "prompt_sha256": "0" * 64,
    }
