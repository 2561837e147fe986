"""The bundle of a plan: the same bytes whichever way it was written, and only of that plan."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from themis import identity
from themis.errors import SpecValidationError
from themis.handoff.export import export_generation, plan_and_export
from themis.handoff.register import register_plan
from themis.handoff.session import Session
from themis.storage import open_store
from themis_bundles import Bundle, canonical_json

Make = Callable[..., Session]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_planning_and_exporting_in_one_pass_writes_the_bytes_of_two(
    session: Make, tmp_path: Path
) -> None:
    made = session(num_samples=3)
    with open_store(tmp_path / "other") as other:
        both = dataclasses.replace(made, store=other)
        export_generation(both, register_plan(both).run, tmp_path / "two", shard_items=5)

    plan_and_export(made, tmp_path / "one", shard_items=5)

    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_plan_with_nothing_open_is_registered_and_writes_no_bundle(
    session: Make, body: Callable[..., dict[str, list[dict[str, object]]]], tmp_path: Path
) -> None:
    silent = {**body()["slices"][0], "generation": None}

    plan, exported = plan_and_export(session(slices=[silent]), tmp_path / "bundle")

    assert exported is None
    assert plan.run.trials == 12
    assert not (tmp_path / "bundle").exists()


def test_a_dataset_that_changed_after_planning_is_not_exported(
    session: Make, tmp_path: Path
) -> None:
    made = session()
    run = register_plan(made).run
    path = made.base_dir / "questions.jsonl"
    path.write_text(path.read_text().replace("What is 3 + 4?", "What is 4 + 3?"))

    with pytest.raises(SpecValidationError, match=f"changed after {run.run_id} was planned"):
        export_generation(made, run, tmp_path / "bundle")

    assert not (tmp_path / "bundle").exists()


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    questions=st.lists(TEXT.filter(bool), min_size=1, max_size=5, unique=True),
    system=TEXT,
    seed=st.none() | st.integers(0, 2**31 - 1),
    scored=st.booleans(),
)
def test_every_line_is_the_canonical_form_of_its_item(
    session: Make,
    tmp_path_factory: pytest.TempPathFactory,
    questions: list[str],
    system: str,
    seed: int | None,
    *,
    scored: bool,
) -> None:
    folder = tmp_path_factory.mktemp("export")
    variant = {
        "id": "plain",
        "messages": [
            {"role": "system", "content": system.replace("{", "(") or "-"},
            {"role": "user", "content": "{item.question}"},
        ],
        **({"continuations": {"field": "question"}} if scored else {}),
    }
    changes = {
        "prompt_variants": [variant],
        "inference_grid": {"params": [{"max_tokens": 9, "seed": seed}]},
        "num_samples": 1 if scored else 2,
    }
    lines = [json.dumps({"id": f"i{n}", "question": text}) for n, text in enumerate(questions)]
    (folder / "questions.jsonl").write_text("\n".join(lines))
    with open_store(folder / "store") as store:
        made = dataclasses.replace(session(**changes), store=store, base_dir=folder)
        trials = {trial.hash[:32]: trial for trial in made.trials()}
        plan_and_export(made, folder / "bundle", shard_items=3)

    bundle = Bundle.open(folder / "bundle")
    items = [item for shard in bundle.shards for item in bundle.iter_items(shard.index)]
    assert len(items) == len(questions) * made.benchmark.num_samples
    for item in items:
        assert item.line == canonical_json(item.body)
        trial = trials[item.body["id"]]
        request = item.body["request"]
        assert request["messages"] == json.loads(trial.messages)
        assert request.get("continuations") == trial.continuations
        base = 7 if seed is None else seed
        candidate = identity.candidate_id(trial.hash, item.body["sample"])
        assert request["seed"] == identity.candidate_seed(base, candidate)
