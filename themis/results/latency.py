"""How long answers took, and how many tokens they were."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from themis.storage.plans import OK, Run
from themis.storage.store import Store


@dataclass(frozen=True, slots=True)
class Latency:
    """The answers of a run in numbers; times are None when no answer has one.

    Attributes:
        count: Answers.
        average_ms: The mean of their milliseconds, from the request to the answer.
        p50_ms: Half of them took no longer.
        p95_ms: 95 in 100 took no longer.
        prompt_tokens: Tokens of all prompts.
        completion_tokens: Tokens of all answers.
    """

    count: int
    average_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    prompt_tokens: int
    completion_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, by name."""
        return asdict(self)


def latency(store: Store, run: Run) -> Latency:
    """Return how long the answers of a run took."""
    rows = store.db.execute(
        "SELECT c.latency_ms, c.prompt_tokens, c.completion_tokens FROM run_trials r"
        " JOIN candidates c ON c.trial = r.trial WHERE r.run = ? AND c.sample < ? AND c.status = ?",
        (run.key, run.num_samples, OK),
    ).fetchall()
    times = np.array([row[0] for row in rows if row[0] is not None], np.float64)
    average, p50, p95 = (
        (float(times.mean()), *(float(value) for value in np.percentile(times, (50, 95))))
        if len(times)
        else (None, None, None)
    )
    return Latency(
        count=len(rows),
        average_ms=average,
        p50_ms=p50,
        p95_ms=p95,
        prompt_tokens=sum(row[1] or 0 for row in rows),
        completion_tokens=sum(row[2] or 0 for row in rows),
    )
