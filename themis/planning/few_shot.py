"""Worked examples before a question: drawn once for a slice, and never the question itself.

One example more than asked for is drawn, so that an item that is itself among the examples, as
happens where a train split repeats test items, is left out of its own prompt and the next takes
its place.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from themis.errors import SpecValidationError
from themis.planning.items import DataItem
from themis.planning.prompts import item_namespace, render_messages
from themis.specs import (
    DatasetQuerySpec,
    DatasetSource,
    DatasetSpec,
    FewShotSpec,
    PromptVariantSpec,
    SliceSpec,
)

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Examples:
    """The examples of a variant for a slice; make them with `compile_examples`."""

    count: int
    """How many stand in a prompt."""

    drawn: tuple[tuple[str, Messages], ...]
    """The hash of each example's item, and its messages; one more than `count` where there is."""

    where: str
    """The slice and the variant, for errors."""

    def to_body(self) -> dict[str, Any]:
        """Return the JSON form that a store keeps."""
        drawn = [{"item": digest, "messages": turns} for digest, turns in self.drawn]
        return {"count": self.count, "drawn": drawn}

    @classmethod
    def from_body(cls, body: Mapping[str, Any], where: str) -> Self:
        """Return the examples that a store kept."""
        drawn = tuple((entry["item"], entry["messages"]) for entry in body["drawn"])
        return cls(body["count"], drawn, where)

    def before(self, messages: Messages, item_hash: str) -> Messages:
        """Return a prompt with the examples after its system messages.

        Args:
            messages: The rendered prompt.
            item_hash: The item that it asks about.

        Raises:
            SpecValidationError: Without the item itself there are too few examples.
        """
        shown = [turns for digest, turns in self.drawn if digest != item_hash][: self.count]
        if len(shown) < self.count:
            raise SpecValidationError(
                f"{self.where}: item {item_hash[:12]} is one of the {len(self.drawn)} examples, "
                f"and without it there are fewer than {self.count}"
            )
        system = 0
        while system < len(messages) and messages[system]["role"] == "system":
            system += 1
        return [
            *messages[:system],
            *(turn for turns in shown for turn in turns),
            *messages[system:],
        ]


def compile_examples(
    variant: PromptVariantSpec,
    part: SliceSpec,
    part_names: Mapping[str, Any],
    *,
    base_dir: Path,
    load: Callable[[SliceSpec], Iterator[DataItem]],
) -> Examples | None:
    """Draw and render the examples of a variant for a slice; None when it shows none.

    Args:
        variant: The prompt variant.
        part: The slice.
        part_names: What `{slice.…}` reads.
        base_dir: The directory that dataset paths are relative to.
        load: Gives the items of a slice.

    Raises:
        SpecValidationError: The examples would come from the questions, there are too few, or
            a template does not fit them.
    """
    shots = variant.few_shot
    if shots is None:
        return None
    where = f"Slice {part.slice_id!r}, prompt variant {variant.id!r}, few_shot"
    dataset = _dataset(shots, part.dataset, base_dir, where)
    query = DatasetQuerySpec.subset(shots.count + 1, seed=shots.seed)
    prompt = {"id": variant.id, "family": variant.family, "variables": variant.variables}
    drawn = tuple(
        (
            item.hash,
            render_messages(
                shots.messages,
                item=item_namespace(item.item_id, item.payload, item.metadata),
                slice=part_names,
                prompt=prompt,
            ),
        )
        for item in load(part.model_copy(update={"dataset": dataset, "dataset_query": query}))
    )
    if len(drawn) < shots.count:
        raise SpecValidationError(
            f"{where}: there are {len(drawn)} examples, and count is {shots.count}"
        )
    return Examples(shots.count, drawn, where)


def _dataset(shots: FewShotSpec, asked: DatasetSpec, base_dir: Path, where: str) -> DatasetSpec:
    """Return where the examples come from, which must not be where the questions do."""
    changes = {"split": shots.split, "data_dir": shots.data_dir or asked.data_dir}
    dataset = asked.model_copy(update=changes)
    one_file = (
        asked.source is DatasetSource.LOCAL
        and asked.data_dir is not None
        and dataset.data_dir == asked.data_dir
        and (base_dir / asked.data_dir).is_file()
    )
    if dataset == asked or one_file:
        raise SpecValidationError(
            f"{where}: the examples would be the questions themselves; name another split, or "
            "where they lie with data_dir"
        )
    return dataset
