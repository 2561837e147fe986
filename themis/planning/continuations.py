"""Texts to score: what a variant's continuations are for each item."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from themis.errors import ErrorCode, SpecValidationError
from themis.planning.items import text_of
from themis.planning.prompts import CompiledPrompt, compile_variant
from themis.specs import PromptMessage, PromptRole, PromptVariantSpec


@dataclass(frozen=True)
class CompiledContinuations:
    """A variant's continuations; make it with `compile_continuations`."""

    variant_id: str
    """The variant's id, for errors."""

    source: CompiledPrompt | tuple[str, ...]
    """The templates of the texts, or the names that lead to the item's field."""

    def of(self, item: Mapping[str, Any], slice: Mapping[str, Any]) -> list[str]:  # noqa: A002
        """Return the continuations for an item.

        Args:
            item: What `{item.…}` reads in templates.
            slice: What `{slice.…}` reads.

        Raises:
            SpecValidationError: The item has no such field, or what is there is not text, or is
                empty; the message names the slice, the item and the variant.
        """
        if isinstance(self.source, CompiledPrompt):
            texts = [turn["content"] for turn in self.source.render(item, slice)]
        else:
            texts = self._read(self.source, item, slice)
        for number, text in enumerate(texts, start=1):
            if not text:
                raise self._refusal(item, slice, f"continuation {number} is empty")
        return texts

    def _read(
        self, path: tuple[str, ...], item: Mapping[str, Any], part: Mapping[str, Any]
    ) -> list[str]:
        value: Any = item
        for name in path:
            if not isinstance(value, Mapping) or name not in value:
                raise self._refusal(item, part, f"there is no field {'.'.join(path)!r}")
            value = value[name]
        texts = value if isinstance(value, list) else [value]
        if not texts or any(not isinstance(text, str | int | float) for text in texts):
            raise self._refusal(
                item, part, f"the field {'.'.join(path)!r} holds neither text nor a list of texts"
            )
        return [text_of(text) for text in texts]

    def _refusal(
        self, item: Mapping[str, Any], part: Mapping[str, Any], reason: str
    ) -> SpecValidationError:
        where = {
            "slice_id": part.get("slice_id"),
            "item_id": item.get("item_id"),
            "prompt_variant_id": self.variant_id,
        }
        return SpecValidationError(
            f"Slice {where['slice_id']!r}, item {where['item_id']!r}, continuations of prompt "
            f"variant {self.variant_id!r}: {reason}",
            code=ErrorCode.ITEM_LOAD,
            details=where,
        )


def compile_continuations(variant: PromptVariantSpec) -> CompiledContinuations | None:
    """Prepare the continuations of a variant, once for all items; None when it has none.

    Raises:
        SpecValidationError: A template holds a field that can never be filled.
    """
    asked = variant.continuations
    if asked is None:
        return None
    if asked.field is not None:
        return CompiledContinuations(variant.id, tuple(asked.field.split(".")))
    answers = [PromptMessage(role=PromptRole.ASSISTANT, content=text) for text in asked.texts]
    return CompiledContinuations(
        variant.id, compile_variant(variant.model_copy(update={"messages": answers}))
    )
