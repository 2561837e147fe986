"""Expand a benchmark into trials, as a stream.

Trials come model by model, and within a model slice by slice and variant by variant, so that
one group of a bundle holds one model and neighbouring prompts share their beginning. A
slice's items are read once when there are at most `KEEP_ITEMS`, and again for each variant
otherwise, so memory does not grow with the benchmark.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from themis.identity import prompt_hash, slice_hash, trial_hash, variant_hash
from themis.planning.continuations import compile_continuations
from themis.planning.datasets import Provider, load_items
from themis.planning.items import DataItem
from themis.planning.prompts import compile_variant, item_namespace
from themis.specs import BenchmarkSpec, InferenceParamsSpec, ModelSpec, PromptVariantSpec, SliceSpec

KEEP_ITEMS = 20_000
"""Slices of up to so many items are kept in memory between variants and models."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English text, used for estimates only."""


@dataclass(frozen=True, slots=True)
class PlannedTrial:
    """One trial, with its rendered prompt."""

    hash: str
    model: ModelSpec
    slice: SliceSpec
    variant: PromptVariantSpec
    params: InferenceParamsSpec
    item: DataItem
    messages: list[dict[str, str]]
    prompt_hash: str
    continuations: list[str] | None = None
    """The texts to score; None when an answer is generated."""

    @property
    def prompt_tokens(self) -> int:
        """An estimate of the tokens to read; each continuation is read with the prompt."""
        characters = sum(len(message["content"]) for message in self.messages)
        if self.continuations is not None:
            characters *= len(self.continuations)
            characters += sum(map(len, self.continuations))
        return -(-characters // CHARACTERS_PER_TOKEN)

    @property
    def max_new_tokens(self) -> int:
        """The most tokens that may be generated."""
        return self.params.max_tokens if self.continuations is None else 0


def plan_trials(
    benchmark: BenchmarkSpec,
    *,
    base_dir: Path,
    global_seed: int,
    providers: Mapping[str, Provider],
) -> Iterator[PlannedTrial]:
    """Yield every trial of a benchmark, always in the same order.

    Slices without generation are planned too: candidates may be imported for them.

    Args:
        benchmark: What to expand.
        base_dir: The directory that dataset paths are relative to.
        global_seed: The seed of queries that name none.
        providers: Datasets made in Python, by name.

    Raises:
        SpecValidationError: A dataset cannot be read, a query cannot be met, or a prompt names
            a field that an item does not have.
    """
    grid = [(params, params.canonical_hash) for params in benchmark.inference_grid.expand()]
    sources = {
        part.slice_id: _ItemSource(part, base_dir, global_seed, providers)
        for part in benchmark.slices
    }
    for model in benchmark.models:
        model_hash = model.canonical_hash
        for part in benchmark.slices:
            part_hash = slice_hash(benchmark.benchmark_id, part.slice_id)
            part_names = slice_namespace(benchmark, part)
            for variant in benchmark.variants_of(part):
                name_hash = variant_hash(variant.id)
                compiled = compile_variant(variant)
                scored = compile_continuations(variant)
                for item in sources[part.slice_id]:
                    names = item_namespace(item.item_id, item.payload, item.metadata)
                    messages = compiled.render(names, part_names)
                    continuations = None if scored is None else scored.of(names, part_names)
                    rendered = prompt_hash(messages, continuations)
                    for params, params_hash in grid:
                        yield PlannedTrial(
                            hash=trial_hash(
                                slice_=part_hash,
                                model=model_hash,
                                variant=name_hash,
                                params=params_hash,
                                item=item.hash,
                                prompt=rendered,
                            ),
                            model=model,
                            slice=part,
                            variant=variant,
                            params=params,
                            item=item,
                            messages=messages,
                            prompt_hash=rendered,
                            continuations=continuations,
                        )


def slice_namespace(benchmark: BenchmarkSpec, part: SliceSpec) -> Mapping[str, Any]:
    """Return what prompt templates see under `slice`."""
    return {
        "benchmark_id": benchmark.benchmark_id,
        "slice_id": part.slice_id,
        "dimensions": part.dimensions,
    }


class _ItemSource:
    """A slice's items, read again only when they are too many to keep."""

    def __init__(
        self, part: SliceSpec, base_dir: Path, global_seed: int, providers: Mapping[str, Provider]
    ) -> None:
        self._load: Callable[[], Iterator[DataItem]] = lambda: load_items(
            part, base_dir=base_dir, global_seed=global_seed, providers=providers
        )
        self._kept: list[DataItem] | None = None

    def __iter__(self) -> Iterator[DataItem]:
        if self._kept is not None:
            yield from self._kept
            return
        keeping: list[DataItem] | None = []
        for item in self._load():
            if keeping is not None:
                keeping.append(item)
                if len(keeping) > KEEP_ITEMS:
                    keeping = None
            yield item
        self._kept = keeping
