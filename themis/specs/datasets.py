"""Which items a slice asks: where a dataset comes from and which part of it is taken."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from themis.specs.base import JsonDict, Name, SpecBase


class DatasetSource(StrEnum):
    """Where the items of a dataset come from."""

    HUGGINGFACE = "huggingface"
    LOCAL = "local"
    MEMORY = "memory"


class SamplingKind(StrEnum):
    """Which items a query takes."""

    ALL = "all"
    SUBSET = "subset"
    STRATIFIED = "stratified"


class RenameTransform(SpecBase):
    """Move a field to another name."""

    kind: Literal["rename"] = "rename"
    field: Name
    """The field to write."""
    source_field: Name
    """The field to read; it is removed."""
    config: JsonDict = Field(default_factory=dict)


class JinjaTransform(SpecBase):
    """Fill a field from a Jinja template over the item, in a sandbox."""

    kind: Literal["jinja"] = "jinja"
    field: Name
    """The field to write."""
    template: str
    """The template; the item's fields are its variables."""
    config: JsonDict = Field(default_factory=dict)


class PythonTransform(SpecBase):
    """Fill a field by a Python function."""

    kind: Literal["python"] = "python"
    field: Name
    """The field to write."""
    config: JsonDict = Field(default_factory=dict)
    """`function` names it, as `module:function` or as registered; the rest is handed to it."""


Transform = Annotated[
    RenameTransform | JinjaTransform | PythonTransform, Field(discriminator="kind")
]


class DatasetSpec(SpecBase):
    """One dataset."""

    source: Annotated[DatasetSource, Field(strict=False)] = DatasetSource.HUGGINGFACE
    """`huggingface`, `local` (files) or `memory` (a provider in Python)."""

    dataset_id: str | None = None
    """Its name at the source; for `memory`, the provider's."""

    data_dir: str | None = None
    """The file or directory, for `local`; relative to the benchmark's file."""

    split: str = "test"
    """The part of the dataset."""

    revision: str | None = None
    """The pinned revision."""

    transforms: list[Transform] = Field(default_factory=list)
    """Changes made to each item before it is used, in order."""

    options: JsonDict = Field(default_factory=dict)
    """Settings for the provider, for example the size and seed of a generated dataset."""

    @model_validator(mode="after")
    def _source_is_named(self) -> Self:
        if self.source is DatasetSource.HUGGINGFACE and not self.dataset_id:
            raise ValueError("a huggingface dataset needs dataset_id")
        if self.source is DatasetSource.LOCAL and not (self.data_dir or self.dataset_id):
            raise ValueError("a local dataset needs data_dir (a file or directory)")
        if self.source is DatasetSource.MEMORY and not self.dataset_id:
            raise ValueError("a memory dataset needs dataset_id (the provider's name)")
        return self


class DatasetQuerySpec(SpecBase):
    """Which items of a dataset a slice takes."""

    kind: Annotated[SamplingKind, Field(strict=False)] = SamplingKind.ALL
    """`all`, `subset` or `stratified`."""

    count: Annotated[int, Field(gt=0)] | None = None
    """How many items a subset or stratified query takes."""

    seed: int | None = None
    """The seed of the draw. Without one, a subset is the first items, and a stratified draw uses
    the project's `global_seed`."""

    strata_field: str | None = None
    """The field whose values are the strata."""

    item_ids: list[str] = Field(default_factory=list)
    """Only these items."""

    metadata_filters: dict[str, str] = Field(default_factory=dict)
    """Only items whose fields have exactly these values."""

    projected_fields: list[str] = Field(default_factory=list)
    """Only these fields of each item; all when empty."""

    @classmethod
    def all(cls) -> Self:
        """Take every item."""
        return cls()

    @classmethod
    def subset(cls, count: int, *, seed: int | None = None) -> Self:
        """Take the first `count` items, or with a seed `count` at random, in their order."""
        return cls(kind=SamplingKind.SUBSET, count=count, seed=seed)

    @classmethod
    def stratified(cls, count: int, *, strata_field: str, seed: int | None = None) -> Self:
        """Take `count` items at random, each stratum in proportion."""
        return cls(kind=SamplingKind.STRATIFIED, count=count, strata_field=strata_field, seed=seed)

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if self.kind is not SamplingKind.ALL and self.count is None:
            raise ValueError(f"a {self.kind} query needs count")
        if self.kind is SamplingKind.STRATIFIED and not self.strata_field:
            raise ValueError("a stratified query needs strata_field")
        if self.kind is not SamplingKind.ALL and self.item_ids:
            raise ValueError(f"item_ids cannot be combined with a {self.kind} query")
        return self
