"""Where the rows of a run came from: the attempts that gave its answers, the scoring it asked for.

A run may hold answers that an earlier run generated, so its bundles alone do not tell.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from themis.storage.plans import Run
from themis.storage.store import Store


@dataclass(frozen=True, slots=True)
class Origin:
    """One attempt that gave answers of one model to a run.

    Attributes:
        model_id: The model.
        header: What the attempt said about itself (`themis_bundles.receipts.Header`); empty
            where nothing was recorded.
        candidates: How many candidates of the run hold a record of this attempt.
    """

    model_id: str
    header: Mapping[str, Any]
    candidates: int


def origins(store: Store, run: Run) -> list[Origin]:
    """Return the attempts behind the candidates of a run, by model."""
    rows = store.db.execute(
        "SELECT json_extract(s.body, '$.model_id'), a.header, f.n FROM ("
        " SELECT t.model AS model, e.attempt AS attempt, count(*) AS n FROM run_trials r"
        " JOIN trials t ON t.id = r.trial JOIN candidates c ON c.trial = t.id"
        " JOIN events e ON e.seq = c.event WHERE r.run = ? AND c.sample < ?"
        " GROUP BY t.model, e.attempt"
        ") f JOIN specs s ON s.id = f.model LEFT JOIN attempts a ON a.id = f.attempt"
        " ORDER BY 1, f.attempt",
        (run.key, run.num_samples),
    )
    return [
        Origin(model_id, {} if header is None else json.loads(header), count)
        for model_id, header, count in rows
    ]


def scoring(store: Store, run: Run) -> dict[str, tuple[str, ...]]:
    """Return the identities of the score passes of a run, by their name in the benchmark.

    One name may stand for several passes where the slices of a run score differently.
    """
    rows = store.db.execute(
        "SELECT DISTINCT r.name, s.hash FROM run_scores r JOIN specs s ON s.id = r.evaluation"
        " WHERE r.run = ? ORDER BY r.name, s.hash",
        (run.key,),
    )
    found: dict[str, tuple[str, ...]] = {}
    for name, digest in rows:
        found[name] = (*found.get(name, ()), digest)
    return found
