"""Each row of the identity table: what changes which identity, and what changes none."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis import identity
from themis.handoff.register import score_passes_of
from themis.handoff.session import Session
from themis.planning.planner import plan_trials
from themis.specs import BenchmarkSpec, InferenceParamsSpec, ModelSpec
from themis_bundles import canonical_json, sha256_hex

Make = Callable[..., Session]


def trials(session: Session) -> dict[str, str]:
    """Return the trial hashes, keyed by everything that tells them apart on screen."""
    return {
        f"{t.cell.model.model_id}/{t.cell.slice.slice_id}/{t.cell.variant.id}"
        f"/{t.cell.params.spec_hash}/{t.item.item_id}/{t.prompt_hash}": t.hash
        for t in session.trials()
    }


def changed_slice(body: Callable[..., dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [{**body()["slices"][0], **changes}]


PLAIN = {"id": "plain", "messages": [{"role": "user", "content": "{item.question}"}]}
TERSE = {"id": "terse", "messages": [{"role": "user", "content": "{item.question} Tersely."}]}


class TestWhatKeepsGenerations:
    @pytest.mark.parametrize(
        "changes",
        [
            {"scores": []},
            {"scores": [{"name": "other", "metrics": ["exact_match", "numeric_match"]}]},
            {"parses": [{"name": "number", "extractors": ["first_number"]}]},
            {"dimensions": {"skill": "other", "more": "yes"}},
            {"dataset_query": {"kind": "subset", "count": 12, "seed": 1}},
            {"prompt_variant_ids": ["plain"]},
        ],
        ids=["no score", "other metrics", "other parse", "dimensions", "subset of all", "named"],
    )
    def test_scoring_query_and_labels_are_no_part_of_a_trial(
        self, session: Make, body: Callable[..., dict[str, Any]], changes: dict[str, Any]
    ) -> None:
        before = trials(session())

        after = trials(session(slices=changed_slice(body, **changes)))

        assert after == before

    def test_a_smaller_subset_keeps_the_items_it_keeps(
        self, session: Make, body: Callable[..., dict[str, Any]]
    ) -> None:
        before = trials(session())
        query = {"kind": "subset", "count": 5, "seed": 3}

        after = trials(session(slices=changed_slice(body, dataset_query=query)))

        assert len(after) == 5
        assert after.items() <= before.items()

    def test_adding_prompts_models_params_and_slices_keeps_what_was_there(
        self, session: Make, body: Callable[..., dict[str, Any]]
    ) -> None:
        before = trials(session())
        other_slice = {**body()["slices"][0], "slice_id": "again"}

        after = trials(
            session(
                prompt_variants=[TERSE, PLAIN],
                models=[{"model_id": "echo", "provider": "demo"}, *body()["models"]],
                inference_grid={"params": [{"max_tokens": 99}, {"max_tokens": 32}]},
                slices=[other_slice, *body()["slices"]],
            )
        )

        assert before.items() < after.items()
        assert len(after) == len(before) * 2**4

    def test_the_order_of_items_and_keys_does_not_matter(
        self, session: Make, project_dir: Path
    ) -> None:
        before = trials(session())
        path = project_dir / "questions.jsonl"
        lines = path.read_text().splitlines()
        random.Random(1).shuffle(lines)
        reordered = [
            "{" + ", ".join(reversed(line.strip("{}").split(", "))) + "}" for line in lines
        ]
        path.write_text("\n".join(reordered))

        assert trials(session()) == before

    def test_more_samples_keep_the_first_candidate(self) -> None:
        trial = "a" * 64

        one = [identity.candidate_id(trial, sample) for sample in range(1)]
        eight = [identity.candidate_id(trial, sample) for sample in range(8)]

        assert eight[:1] == one
        assert len(set(eight)) == 8

    def test_the_order_of_stop_sequences_does_not_matter(self) -> None:
        one = InferenceParamsSpec(stop_sequences=["a", "b"])
        other = InferenceParamsSpec(stop_sequences=["b", "a", "a"])

        assert one.canonical_hash == other.canonical_hash


class TestWhatChangesGenerations:
    @pytest.mark.parametrize(
        "changes",
        [
            {"models": [{"model_id": "echo", "provider": "demo"}]},
            {"models": [{"model_id": "arithmetic", "provider": "hf"}]},
            {"models": [{"model_id": "arithmetic", "provider": "demo", "revision": "1"}]},
            {"models": [{"model_id": "arithmetic", "provider": "demo", "extras": {"a": 1}}]},
            {"prompt_variants": [{**TERSE, "id": "plain"}]},
            {"prompt_variants": [{**PLAIN, "id": "renamed"}]},
            {"benchmark_id": "other"},
            *(
                {"inference_grid": {"params": [{"max_tokens": 32, **change}]}}
                for change in (
                    {"max_tokens": 33},
                    {"temperature": 0.5},
                    {"top_p": 0.5},
                    {"top_k": 5},
                    {"stop_sequences": ["x"]},
                    {"logprobs": 1},
                    {"response_format": "json"},
                    {"seed": 1},
                    {"extras": {"min_p": 0.1}},
                )
            ),
        ],
        ids=str,
    )
    def test_every_part_of_a_trial_changes_it(self, session: Make, changes: dict[str, Any]) -> None:
        before = set(trials(session()).values())

        after = set(trials(session(**changes)).values())

        assert len(after) == len(before)
        assert not after & before

    def test_an_edited_item_is_another_item_and_the_rest_stay(
        self, session: Make, project_dir: Path
    ) -> None:
        before = set(trials(session()).values())
        path = project_dir / "questions.jsonl"
        path.write_text(path.read_text().replace('"answer": "2"', '"answer": "two"'))

        after = set(trials(session()).values())

        assert len(after & before) == len(before) - 1


class TestOverlays:
    def passes(self, session: Session) -> dict[str, tuple[str | None, str]]:
        return {
            entry.name: (entry.transform_hash, entry.evaluation_hash)
            for entry in score_passes_of(session)
        }

    def test_another_metric_changes_the_evaluation_and_not_the_transform(
        self, session: Make, body: Callable[..., dict[str, Any]]
    ) -> None:
        before = self.passes(session())["default"]
        scores = [{"name": "default", "parse": "number", "metrics": ["exact_match"]}]

        after = self.passes(session(slices=changed_slice(body, scores=scores)))["default"]

        assert after[0] == before[0]
        assert after[1] != before[1]

    def test_another_parse_changes_both(
        self, session: Make, body: Callable[..., dict[str, Any]]
    ) -> None:
        before = self.passes(session())["default"]
        parses = [{"name": "number", "extractors": ["first_number"]}]

        after = self.passes(session(slices=changed_slice(body, parses=parses)))["default"]

        assert after[0] != before[0]
        assert after[1] != before[1]

    def test_the_order_of_metrics_does_not_matter(
        self, session: Make, body: Callable[..., dict[str, Any]]
    ) -> None:
        metrics = ["exact_match", "numeric_match"]
        one = changed_slice(body, scores=[{"name": "s", "metrics": metrics}])
        other = changed_slice(body, scores=[{"name": "s", "metrics": metrics[::-1]}])

        assert self.passes(session(slices=one)) == self.passes(session(slices=other))

    def test_a_declared_version_changes_its_own_overlay_only(self, session: Make) -> None:
        made = session()
        (score,) = made.benchmark.slices[0].scores
        (parse,) = made.benchmark.slices[0].parses
        old = identity.transform_hash(parse, {"last_number": "1"})
        new = identity.transform_hash(parse, {"last_number": "2"})

        evaluations = {
            identity.evaluation_hash(score, {"numeric_match": version}, transform)
            for version in ("1", "2")
            for transform in (old, new)
        }

        assert old != new
        assert len(evaluations) == 4


class TestSeeds:
    @given(st.integers(), st.integers(0, 50))
    def test_a_seed_is_fixed_by_base_and_candidate_and_fits_31_bits(
        self, base: int, sample: int
    ) -> None:
        candidate = identity.candidate_id("b" * 64, sample)

        seed = identity.candidate_seed(base, candidate)

        assert seed == identity.candidate_seed(base, candidate)
        assert 0 <= seed < 2**31
        assert seed != identity.candidate_seed(base + 1, candidate)


class TestHashes:
    def test_a_hash_is_sha256_over_canonical_json(self) -> None:
        model = ModelSpec(model_id="m", provider="demo", extras={"b": 1, "a": [1.5, None]})

        assert model.canonical_hash == sha256_hex(canonical_json(model.canonical_dict()))
        assert model.spec_hash == model.canonical_hash[:12]

    def test_planning_twice_gives_the_same_trials_in_the_same_order(
        self, benchmark: Callable[..., BenchmarkSpec], project_dir: Path
    ) -> None:
        def plan() -> list[str]:
            planned = plan_trials(benchmark(), base_dir=project_dir, global_seed=1, providers={})
            return [trial.hash for trial in planned]

        assert plan() == plan()
