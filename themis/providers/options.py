"""Read an engine's options: typed, with unknown names refused.

Options come from a project or a cluster profile, written by hand. A misspelt one that were
ignored would show up as a slow night on a cluster.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from themis.providers.protocol import EngineInitError

OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)


def read_options(kind: type[OptionsT], engine: str, options: Mapping[str, Any]) -> OptionsT:
    """Return `options` as a `kind`.

    Raises:
        EngineInitError: An option is unknown or of the wrong type; the message lists them all.
    """
    try:
        return msgspec.convert(dict(options), kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__)
        raise EngineInitError(
            f"Options of the {engine} engine: {error}. It knows {known}.",
            details={"engine": engine, "known": list(kind.__struct_fields__)},
        ) from error
