"""Expand a benchmark into trials, as a stream.

Trials come model by model, and within a model slice by slice and variant by variant, so that
one group of a bundle holds one model and neighbouring prompts share their beginning. A
slice's items are read once when there are at most `KEEP_ITEMS`, and again for each variant
otherwise, so memory does not grow with the benchmark.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from themis.identity import prompt_hash, slice_hash, trial_hasher, variant_hash
from themis.planning.continuations import compile_continuations
from themis.planning.datasets import Provider, load_items
from themis.planning.few_shot import Examples, compile_examples
from themis.planning.items import DataItem
from themis.planning.prompts import compile_follow_ups, compile_variant, item_namespace
from themis.planning.transforms import Function
from themis.specs import BenchmarkSpec, InferenceParamsSpec, ModelSpec, PromptVariantSpec, SliceSpec
from themis_bundles import canonical_json, sha256_hex

KEEP_ITEMS = 20_000
"""Slices of up to so many items are kept in memory between variants and models."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English text, used for estimates only."""


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """What neighbouring trials share: all but their items."""

    model: ModelSpec
    slice: SliceSpec
    variant: PromptVariantSpec
    params: InferenceParamsSpec
    examples: Examples | None = None
    """What stands before each question."""


class PlannedTrial(msgspec.Struct, frozen=True, gc=False):
    """One trial, with its rendered prompt."""

    hash: str
    cell: PlannedCell
    """One object for all trials of a cell."""
    item: DataItem
    place: int
    """The place of the item among those of its slice."""
    messages: bytes
    """The rendered messages as canonical JSON."""
    prompt_hash: str
    prompt_tokens: int
    """An estimate of the tokens to read; each continuation is read with the prompt."""
    continuations: list[str] | None = None
    """The texts to score; None when an answer is generated."""
    follow_ups: list[dict[str, str]] | None = None
    """What is said after each answer, one turn each."""

    @property
    def max_new_tokens(self) -> int:
        """The most tokens that may be generated, in all turns."""
        if self.continuations is not None:
            return 0
        return self.cell.params.max_tokens * (1 + len(self.follow_ups or ()))


def plan_trials(
    benchmark: BenchmarkSpec,
    *,
    base_dir: Path,
    global_seed: int,
    providers: Mapping[str, Provider],
    functions: Mapping[str, Function] | None = None,
) -> Iterator[PlannedTrial]:
    """Yield every trial of a benchmark, always in the same order.

    Slices without generation are planned too: candidates may be imported for them.

    Args:
        benchmark: What to expand.
        base_dir: The directory that dataset paths are relative to.
        global_seed: The seed of queries that name none.
        providers: Datasets made in Python, by name.
        functions: The functions that `python` transforms name.

    Raises:
        SpecValidationError: A dataset cannot be read, a query cannot be met, or a prompt names
            a field that an item does not have.
    """
    grid = [(params, params.canonical_hash) for params in benchmark.inference_grid.expand()]
    sources = {
        part.slice_id: _ItemSource(
            partial(
                load_items,
                part,
                base_dir=base_dir,
                global_seed=global_seed,
                providers=providers,
                functions=functions,
            )
        )
        for part in benchmark.slices
    }
    uses = {
        part.slice_id: len(benchmark.models) * len(benchmark.variants_of(part))
        for part in benchmark.slices
    }
    for model in benchmark.models:
        model_hash = model.canonical_hash
        for part in benchmark.slices:
            part_hash = slice_hash(benchmark.benchmark_id, part.slice_id)
            part_names = slice_namespace(benchmark, part)
            for variant in benchmark.variants_of(part):
                compiled = compile_variant(variant)
                scored = compile_continuations(variant)
                later = compile_follow_ups(variant)
                shots = compile_examples(
                    variant,
                    part,
                    part_names,
                    base_dir=base_dir,
                    load=partial(
                        load_items,
                        base_dir=base_dir,
                        global_seed=global_seed,
                        providers=providers,
                        functions=functions,
                    ),
                )
                cells = [
                    (
                        PlannedCell(model, part, variant, params, shots),
                        trial_hasher(
                            slice_=part_hash,
                            model=model_hash,
                            variant=variant_hash(variant.id),
                            params=params_hash,
                        ),
                    )
                    for params, params_hash in grid
                ]
                uses[part.slice_id] -= 1
                items = sources[part.slice_id].items(keep=uses[part.slice_id] > 0)
                for place, item in enumerate(items):
                    names = item_namespace(item.item_id, item.payload, item.metadata)
                    messages = compiled.render(names, part_names)
                    if shots is not None:
                        messages = shots.before(messages, item.hash)
                    continuations = None if scored is None else scored.of(names, part_names)
                    follow_ups = None if later is None else later.render(names, part_names)
                    rendered = canonical_json(messages)
                    asked = (
                        sha256_hex(rendered)
                        if continuations is None and follow_ups is None
                        else prompt_hash(messages, continuations, follow_ups)
                    )
                    tokens = _prompt_tokens(messages, continuations, follow_ups)
                    for cell, hash_of in cells:
                        yield PlannedTrial(
                            hash_of(item.hash, asked),
                            cell,
                            item,
                            place,
                            rendered,
                            asked,
                            tokens,
                            continuations,
                            follow_ups,
                        )


def _prompt_tokens(
    messages: list[dict[str, str]],
    continuations: list[str] | None,
    follow_ups: list[dict[str, str]] | None,
) -> int:
    characters = sum([len(message["content"]) for message in messages])
    if continuations is not None:
        characters *= len(continuations)
        characters += sum(map(len, continuations))
    elif follow_ups is not None:
        # Every turn reads what was said before; the answers' lengths are not known.
        turns = len(follow_ups)
        characters *= turns + 1
        characters += sum(len(said["content"]) * (turns - n) for n, said in enumerate(follow_ups))
    return -(-characters // CHARACTERS_PER_TOKEN)


def slice_namespace(benchmark: BenchmarkSpec, part: SliceSpec) -> Mapping[str, Any]:
    """Return what prompt templates see under `slice`."""
    return {
        "benchmark_id": benchmark.benchmark_id,
        "slice_id": part.slice_id,
        "dimensions": part.dimensions,
    }


class _ItemSource:
    """A slice's items, read again only when they are too many to keep."""

    def __init__(self, load: Callable[[], Iterator[DataItem]]) -> None:
        self._load = load
        self._kept: list[DataItem] | None = None

    def items(self, *, keep: bool) -> Iterator[DataItem]:
        """Yield the items; `keep` says that they will be asked for again."""
        if self._kept is not None:
            yield from self._kept
            return
        if not keep:
            yield from self._load()
            return
        keeping: list[DataItem] | None = []
        for item in self._load():
            if keeping is not None:
                keeping.append(item)
                if len(keeping) > KEEP_ITEMS:
                    keeping = None
            yield item
        self._kept = keeping
