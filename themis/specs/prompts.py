"""What a model is asked: prompt variants made of message templates."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

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


class ContinuationsSpec(SpecBase):
    """Texts whose likelihood after the prompt is measured; no answer is generated."""

    field: Name | None = None
    """The item's field that holds them: a list of texts, such as the choices of a question, or
    one text. Dots lead into objects: `choices.text`."""

    texts: list[str] = Field(default_factory=list)
    """The texts themselves, as templates like those of messages."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.field is None) == (not self.texts):
            raise ValueError("continuations need either a field or texts")
        return self


class FewShotSpec(SpecBase):
    """Worked examples that stand before each question, after the system message."""

    count: Annotated[int, Field(gt=0)]
    """How many; they are the same for every item."""

    messages: Annotated[list[PromptMessage], Field(min_length=1)]
    """How one example is shown, as a rule a user's and an assistant's message. `{item.…}` reads the
    example."""

    split: str = "train"
    """The part of the slice's dataset that they are taken from."""

    data_dir: str | None = None
    """The file or directory that they are taken from, when not the dataset's own."""

    seed: int | None = None
    """The seed of the draw; without one, the first examples are taken."""


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

    continuations: ContinuationsSpec | None = None
    """Texts to score as the model's answer instead of generating one."""

    few_shot: FewShotSpec | None = None
    """Worked examples to show before each question."""

    follow_ups: Annotated[list[PromptMessage], Field(min_length=1)] | None = None
    """What the user says after each answer, one turn each; the last answer is the one that is
    scored."""

    @model_validator(mode="after")
    def _turns_need_answers(self) -> Self:
        if self.follow_ups is None:
            return self
        if self.continuations is not None:
            raise ValueError("follow_ups need answers, and continuations ask for none")
        if any(message.role is not PromptRole.USER for message in self.follow_ups):
            raise ValueError("follow_ups are what the user says: their role is 'user'")
        return self
