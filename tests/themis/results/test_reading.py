"""A run is read with the keys that a question needs, and says which keys there are."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from themis.generation.worker import WorkOptions
from themis.handoff.register import register_plan
from themis.handoff.session import Session
from themis.orchestration.run import dispatch_here, run_benchmark
from themis.results.aggregate import aggregate
from themis.results.reading import read_table
from themis.storage.plans import Run

Make = Callable[..., Session]


def run_here(session: Session) -> Run:
    return run_benchmark(session, dispatch_here(WorkOptions())).plan.run


def test_scores_group_by_a_dimension_of_slices_and_by_fields_and_metadata_of_items(
    session: Make, project_dir: Path
) -> None:
    lines = [
        {
            "question": f"What is {a} + 1?",
            "answer": str(a + 1),
            "level": a % 2,
            **({"metadata": {"source": "book" if a < 3 else "web"}} if a < 5 else {}),
        }
        for a in range(6)
    ]
    (project_dir / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = session()
    run = run_here(made)

    table = read_table(made.store, run, ["skill", "level", "source"])
    counted = {
        name: {row.keys[name]: row.n_scored for row in aggregate(table, [name])}
        for name in ("skill", "level", "source")
    }

    assert counted == {
        "skill": {"addition": 6},
        "level": {"0": 3, "1": 3},
        "source": {None: 1, "book": 3, "web": 2},
    }


def test_an_unknown_key_is_refused_with_the_keys_there_are(session: Make) -> None:
    made = session()
    run = run_here(made)

    with pytest.raises(ValueError, match="cannot group by 'topic'") as caught:
        read_table(made.store, run, ["model_id", "topic"])

    assert str(caught.value).partition("known keys: ")[2].split(", ") == [
        "model_id", "slice_id", "prompt_variant_id", "params", "metric_id", "evaluation",
        "item_id", "status", "skill", "answer", "id", "level", "question",
    ]  # fmt: skip


def test_items_without_stored_payloads_have_no_fields_to_group_by(session: Make) -> None:
    made = replace(session(), keep_payloads=False)
    run = register_plan(made).run

    with pytest.raises(ValueError, match=r"known keys: .*status, skill$"):
        read_table(made.store, run, ["level"])
