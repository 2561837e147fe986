"""A shard of the evaluation stage goes through the same worker, without an engine."""

import time
from pathlib import Path
from typing import Any

import pytest

from themis import identity
from themis.errors import SpecValidationError
from themis.generation.worker import WorkOptions, work_shard
from themis.specs import ParseSpec, ScoreSpec
from themis_bundles import Bundle, BundleWriter, GroupSpec, chosen, verify
from themis_bundles import BundleInfo as Info

PARSE = ParseSpec.model_validate({"name": "number", "extractors": ["last_number"]})
SCORE = ScoreSpec(name="default", parse="number", metrics=["numeric_match", "response_length"])


def write(path: Path, outputs: list[dict[str, Any]], *, version: str = "1.0.0") -> Path:
    transform = identity.transform_body(PARSE, {"last_number": version})
    versions = {"numeric_match": "1.0.0", "response_length": "1.0.0"}
    evaluation = identity.evaluation_body(SCORE, versions, identity.digest(transform))
    info = Info(
        stage="evaluation",
        run_id="run",
        created_for={"project": "tests", "benchmark": "sums"},
        date="2026-01-01",
        required_plugins=(("last_number", version),),
    )
    with BundleWriter(path, info) as writer:
        refs = {
            "transform": writer.component("transform", transform),
            "evaluation": writer.component("evaluation", evaluation),
            "slice": writer.component("slice", {"slice_id": "sums"}),
        }
        scorer = writer.component("model", {"model_id": "scores", "provider": "evaluation"})
        writer.start_group(GroupSpec(scorer, "evaluation", "scores"))
        for number, output in enumerate(outputs):
            item = {
                "id": f"{number:032x}",
                "sample": 0,
                "refs": refs,
                "output": output,
                "payload": {"answer": "42"},
            }
            writer.add(item, prompt_tokens=4, max_new_tokens=0)
    return path


def test_every_candidate_is_scored_and_a_bad_one_harms_no_other(tmp_path: Path) -> None:
    texts = ["It is 42.", "It is 41.", "no idea"]
    path = write(tmp_path / "bundle", [{"text": text} for text in texts])

    outcome = work_shard(path, 0, WorkOptions())

    assert (outcome.state, outcome.items_done) == ("complete", 3)
    bundle = Bundle.open(path)
    scores = [
        {score["metric"]: score["value"] for score in entry.record.record["scores"]}
        for entry in chosen(bundle, 0)
        if entry.record
    ]
    assert [score["numeric_match"] for score in scores] == [1.0, 0.0, 0.0]
    assert all(score["response_length"] > 0 for score in scores)
    assert verify(bundle, require_results=True).complete


def test_a_deadline_stops_scoring_and_the_next_attempt_continues(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle", [{"text": "42"}] * 5)

    first = work_shard(path, 0, WorkOptions(deadline=time.time() - 1))
    second = work_shard(path, 0, WorkOptions())

    assert (first.state, first.cause, first.items_done) == ("partial", "deadline", 0)
    assert (second.state, second.items_done) == ("complete", 5)


def test_a_plugin_of_another_version_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "bundle", [{"text": "42"}], version="9.9.9")

    with pytest.raises(SpecValidationError, match=r"9\.9\.9"):
        work_shard(path, 0, WorkOptions())
