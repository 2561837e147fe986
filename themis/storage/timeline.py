"""When and where the attempts at a run's shards worked, from what their results brought back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from themis.storage.plans import Run
from themis.storage.store import Store


@dataclass(frozen=True, slots=True)
class AttemptTiming:
    """One attempt at one shard, as the clocks of its own machine told it.

    Attributes:
        stage: `generation` or `evaluation`.
        bundle: Digest of the bundle.
        shard: The shard.
        attempt: The attempt.
        host: The machine; None when it is not known.
        started: Unix seconds; None when no header was kept.
        ended: When it last wrote its status, Unix seconds; None when no status came back.
        outcome: `complete`, `partial` or `failed`; None when the attempt never said.
        cause: Why it ended, in words.
        records: Records of this attempt that the run rests on.
        prompt_tokens: Tokens of their prompts.
        completion_tokens: Tokens of their answers.
    """

    stage: str
    bundle: str
    shard: int
    attempt: str
    host: str | None
    started: float | None
    ended: float | None
    outcome: str | None
    cause: str
    records: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def seconds(self) -> float | None:
        """How long it took; None when an end is not known, or the clock went backwards."""
        if self.started is None or self.ended is None or self.ended < self.started:
            return None
        return self.ended - self.started

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of answers for each second, the loading of the engine left out."""
        if not self.seconds or not self.completion_tokens:
            return None
        return self.completion_tokens / self.seconds


_ANSWERS = (
    "SELECT e.attempt, count(*), coalesce(sum(c.prompt_tokens), 0),"
    " coalesce(sum(c.completion_tokens), 0) FROM run_trials r"
    " JOIN candidates c ON c.trial = r.trial JOIN events e ON e.seq = c.event"
    " WHERE r.run = ? AND c.sample < ? AND e.attempt IS NOT NULL GROUP BY e.attempt"
)
_EVALUATIONS = (
    "SELECT e.attempt, count(DISTINCT s.event), 0, 0 FROM run_trials r"
    " JOIN scores s ON s.trial = r.trial JOIN events e ON e.seq = s.event"
    " WHERE r.run = ? AND s.sample < ? AND e.attempt IS NOT NULL GROUP BY e.attempt"
)


def attempt_timings(store: Store, run: Run) -> list[AttemptTiming]:
    """Return every attempt at a run's shards, by bundle and shard.

    Attempts of an earlier run whose answers this run holds are among them.
    """
    done = {
        attempt: counts
        for query in (_ANSWERS, _EVALUATIONS)
        for attempt, *counts in store.db.execute(query, (run.key, run.num_samples))
    }
    rows = store.db.execute(
        "SELECT a.id, b.run, b.stage, b.digest, a.shard, a.attempt, a.header FROM attempts a"
        " JOIN bundles b ON b.id = a.bundle ORDER BY b.id, a.shard, a.id"
    )
    return [
        _timing(stage, bundle, shard, attempt, json.loads(header), done.get(key, [0, 0, 0]))
        for key, of_run, stage, bundle, shard, attempt, header in rows
        if key in done or of_run == run.key
    ]


def _timing(
    stage: str,
    bundle: str,
    shard: int,
    attempt: str,
    header: Mapping[str, Any],
    counts: list[int],
) -> AttemptTiming:
    status = header.get("status") or {}
    machine = header.get("provenance", {}).get("machine", {})
    return AttemptTiming(
        stage=stage,
        bundle=bundle,
        shard=shard,
        attempt=attempt,
        host=status.get("host") or machine.get("host"),
        started=header.get("started"),
        ended=status.get("updated"),
        outcome=status.get("outcome"),
        cause=status.get("cause", ""),
        records=counts[0],
        prompt_tokens=counts[1],
        completion_tokens=counts[2],
    )
