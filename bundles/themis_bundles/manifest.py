"""The manifest: what a bundle says about itself.

`data/manifest.json` lists every item shard with its size and digest. The SHA-256 of its bytes
is the bundle's identity, so two bundles are the same exactly when their manifests are the same
bytes. `plan_digest` is weaker on purpose: it does not depend on sharding or compression, so two
bundles of one plan share it.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from themis_bundles.canonical import canonical_json, sha256_hex
from themis_bundles.model import Count, Frozen, Sha256

FORMAT = "themis-bundle"
VERSION = "1.0"
CANONICAL = "themis-canonical-1"
COMPONENTS = "components.jsonl.zst"

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class ComponentsEntry(Frozen):
    """The file of everything that items refer to."""

    path: Literal["components.jsonl.zst"]
    """Where it lies, relative to the manifest."""

    sha256: Sha256
    """The digest of its bytes."""

    bytes: Count
    """Its length."""

    count: Count
    """How many components it holds."""


class Cost(Frozen):
    """What a shard is expected to ask of an engine."""

    prompt_tokens: Count
    """The tokens of all prompts, as the planner estimated them."""

    max_new_tokens: Count
    """The most tokens that the answers may have."""


class ShardEntry(Frozen):
    """One item shard."""

    index: Count
    """Its place among the shards of the bundle, from 0."""

    path: str
    """Where it lies, relative to the manifest: always `items/<index>.jsonl.zst`."""

    sha256: Sha256
    """The digest of the file's bytes."""

    bytes: Count
    """The length of the file."""

    frames: Count
    """How many frames of items it holds."""

    items: Annotated[Count, Field(ge=1)]
    """How many items it holds."""

    first_seq: Count
    """The sequence number of its first item; the others follow without a gap."""

    items_digest: Sha256
    """SHA-256 over the concatenated item digests, so of the shard's `.ids` file."""

    cost: Cost
    """What it is expected to ask of an engine."""

    @property
    def ids_path(self) -> str:
        """Where the digests of its items lie, relative to the manifest."""
        return ids_path(self.index)


class GroupEntry(Frozen):
    """The shards of one model with one set of engine settings: one job array."""

    model: Count
    """The component that describes the model."""

    model_sha256: Sha256
    """The digest of that component's body."""

    provider: Text
    """The engine that is to answer."""

    model_id: Text
    """The model's name, as its provider knows it."""

    requirements: dict[str, JsonValue]
    """What the engine must be able to do, such as its context length."""

    shards: Annotated[tuple[ShardEntry, ...], Field(min_length=1)]
    """Its shards, in order."""


class Plugin(Frozen):
    """A plugin that the worker must have, in this version."""

    id: Text
    """The plugin's name."""

    version: Text
    """The version that it declares."""


class Totals(Frozen):
    """Sums over all shards."""

    items: Count
    """How many items there are."""

    shards: Count
    """How many shards there are."""

    bytes: Count
    """The length of all shard files."""

    cost: Cost
    """What all shards are expected to ask of engines."""


class CreatedFor(Frozen):
    """What the work is for; for people, not for programs."""

    project: str
    """The project's name."""

    benchmark: str
    """The benchmark's name."""


class Manifest(Frozen):
    """What a bundle holds."""

    format: Literal["themis-bundle"]
    """Tells a bundle from anything else."""

    version: Literal["1.0"]
    """The version of the format. Readers refuse versions they do not know."""

    stage: Literal["generation", "evaluation"]
    """What is to be done with the items."""

    run_id: Text
    """The run that planned the items."""

    plan_digest: Sha256
    """Identifies the planned items whatever the sharding; see `plan_digest`."""

    created_for: CreatedFor
    """What the work is for."""

    date: Day
    """The day of the plan, never of the clock that wrote the bundle."""

    canonical: Literal["themis-canonical-1"]
    """The rule that made lines out of values."""

    line_limit: Annotated[Count, Field(ge=1024, le=2**26)]
    """The longest line of any file, in bytes."""

    components: ComponentsEntry
    """Everything that items refer to."""

    groups: tuple[GroupEntry, ...]
    """The shards, by model and engine settings."""

    totals: Totals
    """Sums over all shards."""

    required_plugins: tuple[Plugin, ...]
    """The plugins that an evaluation needs."""

    def to_bytes(self) -> bytes:
        """Return the one byte string that stands for this manifest."""
        return canonical_json(self.model_dump(mode="json"))

    def problems(self) -> Iterator[str]:
        """Say where the manifest contradicts itself."""
        shards = sorted((s for g in self.groups for s in g.shards), key=lambda s: s.index)
        seq = 0
        for place, shard in enumerate(shards):
            where = f"shard {shard.index}"
            if shard.index != place:
                yield f"{where}: shards must be numbered from 0 without a gap"
                return
            if shard.path != items_path(shard.index):
                yield f"{where}: path must be {items_path(shard.index)}"
            if shard.first_seq != seq:
                yield f"{where}: first_seq is {shard.first_seq}, not {seq}"
            if not 0 < shard.frames <= shard.items:
                yield f"{where}: {shard.frames} frames cannot hold {shard.items} items"
            seq += shard.items
        if self.totals != total(shards):
            yield "totals: not the sums over the shards"
        for place, group in enumerate(self.groups):
            if group.model >= self.components.count:
                yield f"groups.{place}.model: there is no component {group.model}"


def items_path(index: int) -> str:
    """Return where a shard's items lie, relative to the manifest."""
    return f"items/{index:05d}.jsonl.zst"


def ids_path(index: int) -> str:
    """Return where the digests of a shard's items lie, relative to the manifest."""
    return f"items/{index:05d}.ids"


def total(shards: Sequence[ShardEntry]) -> Totals:
    """Return the sums over shards."""
    return Totals(
        items=sum(s.items for s in shards),
        shards=len(shards),
        bytes=sum(s.bytes for s in shards),
        cost=Cost(
            prompt_tokens=sum(s.cost.prompt_tokens for s in shards),
            max_new_tokens=sum(s.cost.max_new_tokens for s in shards),
        ),
    )


def plan_digest(stage: str, run_id: str, items: int, ids: str, components: Sequence[str]) -> str:
    """Return the digest of what was planned, whatever the sharding or compression.

    Args:
        stage: Generation or evaluation.
        run_id: The run that planned the items.
        items: How many items there are.
        ids: SHA-256 over the digests of all items, in order.
        components: The digests of all components, in order.
    """
    return sha256_hex(
        canonical_json(
            {
                "components": list(components),
                "ids": ids,
                "items": items,
                "run_id": run_id,
                "stage": stage,
            }
        )
    )
