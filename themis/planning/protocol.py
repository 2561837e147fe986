"""What a dataset provider in Python is asked, and what it must do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from themis.specs import DatasetQuerySpec, DatasetSpec


@dataclass(frozen=True)
class DatasetSliceSpec:
    """What a provider is asked for."""

    slice_id: str
    """The slice."""

    dataset: DatasetSpec
    """Its dataset, with the `options` meant for the provider."""

    dimensions: Mapping[str, str]
    """The slice's labels."""


@runtime_checkable
class DatasetProvider(Protocol):
    """A source of items in Python."""

    def scan(self, slice_spec: DatasetSliceSpec, query: DatasetQuerySpec) -> Iterable[Any]:
        """Return the items, each an object or a JSON scalar.

        The same call must give the same items in the same order. The query is a hint that may
        save work; it is applied to whatever is returned, so it can be ignored.
        """
        ...
