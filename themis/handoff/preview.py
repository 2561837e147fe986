"""See prompts before anything is planned: the first of each slice and variant."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from themis.handoff.session import Session


@dataclass(frozen=True)
class PromptPreview:
    """One prompt, as a model would be asked."""

    slice_id: str
    prompt_variant_id: str
    item_id: str
    messages: list[dict[str, str]]
    """The rendered messages: `role` and `content`."""
    continuations: list[str] | None
    """The texts that would be scored; None when an answer is generated."""
    follow_ups: list[dict[str, str]] | None
    """What would be said after each answer; None when there is one turn."""


def preview_prompts(session: Session, count: int) -> Iterator[PromptPreview]:
    """Yield the first prompts of each slice and variant; nothing is stored.

    Only as much of a dataset is read as is shown. Models and parameters do not change a prompt.

    Args:
        session: The benchmark.
        count: How many of each.

    Raises:
        SpecValidationError: A dataset, a query or a prompt is wrong.
    """
    benchmark = session.benchmark
    params = benchmark.inference_grid.expand()[:1]
    for part in benchmark.slices:
        for variant in benchmark.variants_of(part):
            alone = benchmark.model_copy(
                update={
                    "models": benchmark.models[:1],
                    "slices": [part],
                    "prompt_variants": [variant],
                    "inference_grid": benchmark.inference_grid.model_copy(
                        update={"params": params, "overrides": {}}
                    ),
                }
            )
            for trial in islice(dataclasses.replace(session, benchmark=alone).trials(), count):
                yield PromptPreview(
                    part.slice_id,
                    variant.id,
                    trial.item.item_id,
                    json.loads(trial.messages),
                    trial.continuations,
                    trial.follow_ups,
                )
