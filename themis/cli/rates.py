"""How fast engines are, as plans and exports are told: a rate, or a calibration's file."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from themis.cli.options import FILE
from themis.errors import SpecValidationError

if TYPE_CHECKING:
    from themis.handoff.estimate import CostEstimate

F = TypeVar("F", bound=Callable[..., Any])


def calibration_option(function: F) -> F:
    """Add `--calibration`."""
    return click.option(
        "--calibration",
        type=FILE,
        help="What `themis calibrate` measured, instead of --tokens-per-second; of several "
        "models the slowest counts.",
    )(function)


@dataclass(frozen=True)
class PlanningRate:
    """How fast the slowest engine is, and how long it takes to start."""

    per_engine: float | None
    """Tokens that answers may have, in a second of one engine; None when nothing is known."""

    gpus: int = 1
    """GPUs of one engine."""

    start_seconds: float | None = None
    """From nothing to the first answer; None when it was not measured."""

    @property
    def tokens_per_second(self) -> float | None:
        """What one GPU does."""
        return None if self.per_engine is None else self.per_engine / self.gpus

    @property
    def counted(self) -> str:
        """`also` or `not`: whether start-up is part of what is said."""
        return "not" if self.start_seconds is None else "also"

    def with_start(self, estimate: "CostEstimate") -> "CostEstimate":
        """Add the start of an engine for each shard, and count the time of whole engines."""
        if estimate.gpu_hours is None or estimate.shard_minutes is None:
            return estimate
        start = self.start_seconds or 0.0
        return dataclasses.replace(
            estimate,
            gpu_hours=estimate.gpu_hours + estimate.shards * start * self.gpus / 3600,
            shard_minutes=estimate.shard_minutes / self.gpus + start / 60,
        )

    def without_start(self, minutes: float | None) -> float | None:
        """Return what is left of a shard's minutes when the engine has started.

        Raises:
            SpecValidationError: Nothing is left.
        """
        if minutes is None or self.start_seconds is None:
            return minutes
        left = minutes - self.start_seconds / 60
        if left <= 0:
            raise SpecValidationError(
                f"--shard-minutes {minutes:g} is less than the {self.start_seconds / 60:.1f} "
                "minutes that the engine takes to start"
            )
        return left


def planning_rate(calibration: Path | None, tokens_per_second: float | None) -> PlanningRate:
    """Return the rate of a calibration, or the one that was given.

    Raises:
        SpecValidationError: Both were given, or the file is no calibration.
    """
    if calibration is None:
        return PlanningRate(tokens_per_second)
    if tokens_per_second is not None:
        raise SpecValidationError("give --calibration or --tokens-per-second, not both")
    from themis.generation.calibration import read_calibration

    models = read_calibration(calibration)
    if not models:
        raise SpecValidationError(f"{calibration} has measured no model")
    slowest = min(models, key=lambda each: each.planned_per_second)
    start = max(each.start_seconds for each in models)
    return PlanningRate(slowest.planned_per_second, max(1, slowest.gpus), start)
