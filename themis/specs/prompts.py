"""What a model is asked: prompt variants made of message templates."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from themis.specs.base import JsonDict, Name, SpecBase


class PromptRole(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class PromptMessage(SpecBase):
    """One message template."""

    role: Annotated[PromptRole, Field(strict=False)]
    """Who speaks."""

    content: str
    """The template; fields such as `{item.question}` are filled for each item."""


class PromptVariantSpec(SpecBase):
    """One way to ask, applied to every item of the slices that use it."""

    id: Name
    """Its name, unique in the benchmark."""

    family: str | None = None
    """A name that several variants share, so that a slice can ask for all of them."""

    messages: Annotated[list[PromptMessage], Field(min_length=1)]
    """The conversation to render."""

    variables: JsonDict = Field(default_factory=dict)
    """Values for the templates, under `{prompt.variables.NAME}`."""
