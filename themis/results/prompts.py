"""The prompts of a run, rendered again and proved to be what the models were asked."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from themis.errors import SpecValidationError
from themis.identity import digest, prompt_hash
from themis.planning.continuations import compile_continuations
from themis.planning.few_shot import Examples
from themis.planning.items import metadata_of
from themis.planning.planner import slice_namespace
from themis.planning.prompts import (
    CompiledPrompt,
    compile_follow_ups,
    compile_variant,
    item_namespace,
)
from themis.specs import BenchmarkSpec
from themis.specs.loading import validate_spec
from themis.storage.plans import Run
from themis.storage.records import examples_of
from themis.storage.store import Store
from themis.storage.tables import CandidateDetail


class PlannedPrompts:
    """Renders prompts from the benchmark, the items and the examples that the store holds."""

    def __init__(self, store: Store, run: Run) -> None:
        self._spec = validate_spec(BenchmarkSpec, dict(run.benchmark), source=run.run_id)
        self._slices = {part.slice_id: part for part in self._spec.slices}
        self._compiled: dict[str, CompiledPrompt] = {
            variant.id: compile_variant(variant) for variant in self._spec.prompt_variants
        }
        self._examples: dict[tuple[str, str], list[Examples]] = {}
        for body in examples_of(store, run.benchmark_id):
            key = (body["slice_id"], body["prompt_variant_id"])
            self._examples.setdefault(key, []).append(Examples.from_body(body, "stored"))
        self._later = {v.id: compile_follow_ups(v) for v in self._spec.prompt_variants}
        self._scored = {
            variant.id: compile_continuations(variant) for variant in self._spec.prompt_variants
        }

    def of(self, candidate: CandidateDetail) -> list[dict[str, str]] | None:
        """Return what was said before a candidate's answer: role and content of each message.

        With follow-up turns, the answers before the last are among them.

        None where the item is not stored, or where what is rendered now does not have the
        digest of what was planned.
        """
        part = self._slices.get(candidate.slice_id)
        compiled = self._compiled.get(candidate.prompt_variant_id)
        if candidate.payload is None or part is None or compiled is None:
            return None
        item = item_namespace(candidate.item_id, candidate.payload, metadata_of(candidate.payload))
        names = slice_namespace(self._spec, part)
        scored = self._scored[candidate.prompt_variant_id]
        try:
            messages = compiled.render(item, names)
            continuations = None if scored is None else scored.of(item, names)
            later = self._later[candidate.prompt_variant_id]
            follow_ups = None if later is None else later.render(item, names)
        except SpecValidationError:
            return None
        for whole in self._with_examples(candidate, messages):
            if prompt_hash(whole, continuations, follow_ups) == candidate.prompt_hash:
                return _before_the_answer(whole, follow_ups or [], candidate.output or {})
        return None

    def _with_examples(
        self, candidate: CandidateDetail, messages: list[dict[str, str]]
    ) -> Iterator[list[dict[str, str]]]:
        """Yield the prompt with the examples of each plan of the benchmark, or with none."""
        key = (candidate.slice_id, candidate.prompt_variant_id)
        for examples in self._examples.get(key, ()):
            with contextlib.suppress(SpecValidationError):
                yield examples.before(messages, digest(candidate.payload))
        yield messages


def _before_the_answer(
    messages: list[dict[str, str]], follow_ups: list[dict[str, str]], output: Mapping[str, Any]
) -> list[dict[str, str]]:
    said = list(messages)
    for turn, follow_up in zip(output.get("turns", ()), follow_ups, strict=False):
        said += [{"role": "assistant", "content": turn["text"]}, follow_up]
    return said
