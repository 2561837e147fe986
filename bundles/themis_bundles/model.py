"""The one base class for everything that is written to, or read from, a bundle."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from themis_bundles.canonical import MAX_INTEGER

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

Count = Annotated[int, Field(strict=True, ge=0, le=MAX_INTEGER)]
"""A number of things, or a place among them."""


def _not_done(name: str) -> str:
    if name == "done":
        raise ValueError("no attempt may be called done")
    return name


AttemptId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"),
    AfterValidator(_not_done),
]
"""The name of an attempt; it is also a file name, so it is plain ASCII."""


class Frozen(BaseModel):
    """An immutable record that refuses fields it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
