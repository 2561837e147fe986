"""The base of every spec: frozen, strict, and hashed through one canonical form."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from themis_bundles import canonical_json, sha256_hex

Name = Annotated[str, Field(min_length=1)]
"""An identifier that a person chose; never empty."""

JsonDict = dict[str, JsonValue]
"""A JSON object; numbers are finite."""


class SpecBase(BaseModel):
    """An immutable description that refuses unknown keys and wrong types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    schema_version: Annotated[str, Field(exclude=True)] = "1.0"
    """The version of this shape; never part of a hash."""

    def canonical_dict(self) -> dict[str, Any]:
        """Return the JSON value that identity is made from.

        Fields that are null are left out, so that a later optional field does not change
        the identity of what was there before.
        """
        return self.model_dump(mode="json", exclude_none=True)

    def compute_hash(self, *, short: bool = False) -> str:
        """Return SHA-256 over the canonical JSON, 64 hex characters (12 when `short`)."""
        digest = sha256_hex(canonical_json(self.canonical_dict()))
        return digest[:12] if short else digest

    @property
    def canonical_hash(self) -> str:
        """The identity of this spec, 64 hex characters."""
        return self.compute_hash()

    @property
    def spec_hash(self) -> str:
        """The first 12 characters of the identity, for screens."""
        return self.compute_hash(short=True)
