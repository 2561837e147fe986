"""Which model answers, and how: models, inference parameters and their grid."""

import itertools
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from themis.specs.base import JsonDict, Name, SpecBase


class ResponseFormat(StrEnum):
    """What an answer must look like."""

    TEXT = "text"
    JSON = "json"


class ModelSpec(SpecBase):
    """One model, as identity knows it."""

    model_id: Name
    """Its name, for example `HuggingFaceTB/SmolLM2-135M-Instruct`; where its files lie is the
    business of the project or the cluster profile (`[models]`), never of identity."""

    provider: Name
    """The engine that runs it: `hf`, `vllm`, `openai`, `litellm`, `replay` or `demo`, or one of
    your own as `module:object`."""

    revision: str | None = None
    """The pinned revision of the weights, if the name alone is not exact."""

    extras: JsonDict = Field(default_factory=dict)
    """Whatever else distinguishes this model from others of its name."""


class InferenceParamsSpec(SpecBase):
    """How to sample an answer."""

    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy decoding."""

    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Nucleus sampling: keep the likeliest tokens that together have this probability."""

    top_k: Annotated[int, Field(ge=0)] | None = None
    """Keep the `k` likeliest tokens; 0 keeps all."""

    max_tokens: Annotated[int, Field(gt=0)] = 1024
    """The most tokens an answer may have."""

    stop_sequences: list[str] = Field(default_factory=list)
    """Texts that end an answer; they are not part of it."""

    logprobs: Annotated[int, Field(ge=0)] | None = None
    """How many alternatives to report for each token; null reports none."""

    response_format: Annotated[ResponseFormat, Field(strict=False)] | None = None
    """`text` or `json`; null leaves it to the model."""

    seed: int | None = None
    """The base of the candidates' seeds, instead of the project's `global_seed`."""

    extras: JsonDict = Field(default_factory=dict)
    """Parameters that only some engines know."""

    def canonical_dict(self) -> dict[str, Any]:
        """Return the canonical form; the order of stop sequences does not matter."""
        body = super().canonical_dict()
        body["stop_sequences"] = sorted(set(self.stop_sequences))
        return body


def params_label(temperature: float, max_tokens: int) -> str:
    """Name a parameter set on screen; sets that differ elsewhere may share a name."""
    return f"t={temperature:g} max={max_tokens}"


GridValue = str | int | float | bool


class InferenceGridSpec(SpecBase):
    """The parameter sets of a benchmark, listed or spanned by overrides."""

    params: Annotated[list[InferenceParamsSpec], Field(min_length=1)]
    """The base parameter sets."""

    overrides: dict[str, Annotated[list[GridValue], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Values to try for a field of the parameters, or for a key of their `extras`."""

    def expand(self) -> list[InferenceParamsSpec]:
        """Return every base set with every combination of the overrides, without repeats.

        >>> grid = InferenceGridSpec(
        ...     params=[InferenceParamsSpec()], overrides={"temperature": [0.0, 0.7]}
        ... )
        >>> [params.temperature for params in grid.expand()]
        [0.0, 0.7]
        """
        keys = sorted(self.overrides)
        expanded: dict[str, InferenceParamsSpec] = {}
        for base in self.params:
            for values in itertools.product(*(self.overrides[key] for key in keys)):
                params = _override(base, dict(zip(keys, values, strict=True)))
                expanded.setdefault(params.canonical_hash, params)
        return list(expanded.values())

    @model_validator(mode="after")
    def _overrides_make_valid_params(self) -> Self:
        self.expand()
        return self


def _override(base: InferenceParamsSpec, values: dict[str, GridValue]) -> InferenceParamsSpec:
    """Replace fields of `base`; a key that is no field goes into its extras."""
    body = base.model_dump()
    for key, value in values.items():
        if key in InferenceParamsSpec.model_fields and key not in ("extras", "schema_version"):
            body[key] = value
        else:
            body["extras"] = {**body["extras"], key: value}
    return InferenceParamsSpec.model_validate(body)


class GenerationSpec(SpecBase):
    """A marker: a slice that has one takes part in generation."""
