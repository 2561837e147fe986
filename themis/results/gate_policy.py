"""What a gate asks: a TOML file of rules.

confidence = 0.95
correction = "holm"

[[rules]]
check = "non_inferior"
metric = "exact_match"
margin = 0.02
group_by = ["slice_id"]

[[rules]]
check = "max_share"
of = "failed"
value = 0.01
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from themis.specs.base import Name
from themis.specs.loading import read_document, validate_spec
from themis.statistics.multiplicity import Correction


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class _About(_Strict):
    """What a rule is about."""

    name: Name | None = None
    """What the verdict calls it; its check and metric when not given."""

    evaluation: Name | None = None
    """Only this score of the benchmark; every one that has the metric when not given."""

    slices: Annotated[list[Name], Field(min_length=1)] | None = None
    """Only these slices."""

    models: Annotated[list[Name], Field(min_length=1)] | None = None
    """Only these models."""

    group_by: list[Name] = []
    """Keys whose values are judged one by one; models always are."""


class _OfScores(_About):
    metric: Name
    """The metric."""

    cluster_by: Name | None = None
    """A key whose value groups items that resemble each other."""

    absent: Literal["bound", "ignore"] = "bound"
    """"bound": a rule does not pass while scores that are absent could overturn it."""


class NonInferior(_OfScores):
    """NEW is not worse than BASE by the margin or more: this must be shown."""

    check: Literal["non_inferior"]
    margin: Annotated[float, Field(gt=0)]
    """The smallest loss that matters."""


class Superior(_OfScores):
    """NEW is better than BASE by more than the margin: this must be shown."""

    check: Literal["superior"]
    margin: Annotated[float, Field(ge=0)] = 0.0
    """The gain that is not enough."""


class NoRegression(_OfScores):
    """NEW is not shown to be worse than BASE by more than the margin."""

    check: Literal["no_regression"]
    margin: Annotated[float, Field(ge=0)] = 0.0
    """The loss that is tolerated."""


class MinValue(_OfScores):
    """The mean of NEW is at least this value: this must be shown."""

    check: Literal["min_value"]
    value: float
    """The value."""


class MaxShare(_About):
    """At most this share of what was planned for NEW is failed, missing or unreadable."""

    check: Literal["max_share"]
    of: Literal["failed", "missing", "absent", "unreadable"]
    """Failed for good; not there yet; either; or answered in a way that no parse could read."""

    value: Annotated[float, Field(ge=0, le=1)]
    """The largest share."""

    metric: Name | None = None
    """Only the scores of this metric."""


Compared: TypeAlias = NonInferior | Superior | NoRegression
Rule: TypeAlias = Annotated[
    NonInferior | Superior | NoRegression | MinValue | MaxShare, Field(discriminator="check")
]


class GatePolicy(_Strict):
    """What must hold before NEW may take the place of BASE."""

    rules: Annotated[list[Rule], Field(min_length=1)]
    """All of them must hold."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """One minus the level of each one-sided test."""

    correction: Correction = "holm"
    """How failing allows for the number of tests; passing needs none, as all rules must pass."""

    comparability: Literal["comparable", "caution", "any"] = "caution"
    """The worst verdict on the provenance of the runs with which a gate may pass or fail."""

    expected_differences: list[Name] = []
    """Fields of the provenance that are meant to differ, such as `weights`."""


def load_policy(path: Path) -> GatePolicy:
    """Read a policy.

    Raises:
        SpecValidationError: The file is missing, malformed or breaks a rule; every problem is
            named with its key.
    """
    return validate_spec(GatePolicy, read_document(path), source=str(path))
