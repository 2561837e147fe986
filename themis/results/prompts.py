"""The prompts of a run, rendered again and proved to be what the models were asked."""

from themis.errors import SpecValidationError
from themis.identity import prompt_hash
from themis.planning.continuations import compile_continuations
from themis.planning.items import metadata_of
from themis.planning.planner import slice_namespace
from themis.planning.prompts import CompiledPrompt, compile_variant, item_namespace
from themis.specs import BenchmarkSpec
from themis.specs.loading import validate_spec
from themis.storage.plans import Run
from themis.storage.tables import CandidateDetail


class PlannedPrompts:
    """Renders prompts from the benchmark and the items that the store holds."""

    def __init__(self, run: Run) -> None:
        self._spec = validate_spec(BenchmarkSpec, dict(run.benchmark), source=run.run_id)
        self._slices = {part.slice_id: part for part in self._spec.slices}
        self._compiled: dict[str, CompiledPrompt] = {
            variant.id: compile_variant(variant) for variant in self._spec.prompt_variants
        }
        self._scored = {
            variant.id: compile_continuations(variant) for variant in self._spec.prompt_variants
        }

    def of(self, candidate: CandidateDetail) -> list[dict[str, str]] | None:
        """Return the messages of a candidate: role and content of each.

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
        except SpecValidationError:
            return None
        asked = prompt_hash(messages, continuations)
        return messages if asked == candidate.prompt_hash else None
