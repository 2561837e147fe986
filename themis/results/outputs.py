"""Find the outputs of chosen items without reading the others."""

from collections.abc import Collection
from dataclasses import dataclass

from themis.results.compare import CompareKey
from themis.storage.plans import Run
from themis.storage.records import trials_of_items
from themis.storage.store import Store
from themis.storage.tables import iter_candidates


@dataclass(frozen=True, slots=True)
class OutputOf:
    """What an output is asked for by.

    Attributes:
        compare: Whether `arm` is a model or a prompt.
        arm: The model or the prompt.
        slice_id: The item's slice.
        item_id: The item.
    """

    compare: CompareKey
    arm: str
    slice_id: str
    item_id: str


def find_outputs(
    store: Store, run: Run, wanted: Collection[OutputOf]
) -> dict[OutputOf, list[str | None]]:
    """Return the texts of all candidates of the wanted items, in plan order.

    Args:
        store: The store.
        run: The run.
        wanted: Which outputs; only these are read.
    """
    found: dict[OutputOf, list[str | None]] = {}
    items = {(entry.slice_id, entry.item_id) for entry in wanted}
    for trial in trials_of_items(store, run, items):
        for candidate in iter_candidates(store, run, trial=trial):
            arms: tuple[tuple[CompareKey, str], ...] = (
                ("model_id", candidate.model["model_id"]),
                ("prompt_variant_id", candidate.prompt_variant_id),
            )
            text = None if candidate.output is None else candidate.output.get("text")
            for compare, arm in arms:
                key = OutputOf(compare, arm, candidate.slice_id, candidate.item_id)
                if key in wanted:
                    found.setdefault(key, []).append(text)
    return found
