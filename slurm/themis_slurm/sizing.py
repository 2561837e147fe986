"""How long shards should be, and what a bundle costs: from a calibration, or from what was done.

A shard should work for so long that starting the engine is a small part of it, and end long
before the time limit. Both sources give the same two numbers: tokens that answers may have, per
second of one engine, and the seconds that the engine takes to start. Since answers are seldom as
long as they may be, what follows from the first is an upper bound before anything was measured
on the bundle itself, and an estimate after.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from themis.generation.calibration import Measured, read_calibration
from themis_bundles import shard_state
from themis_bundles.results import read_statuses
from themis_slurm.profile import ClusterProfile
from themis_slurm.workspace import Workspace

SHORTEST_MINUTES = 30
# Starting the engine may take a tenth of a shard.
LARGEST_START_SHARE = 0.1
# Machines differ, and so do prompts: the time limit leaves a quarter more than was planned.
SLACK = 1.25
ROUND_TO_MINUTES = 5


@dataclass(frozen=True)
class Pace:
    """How fast one model is on the profile's nodes.

    Attributes:
        model_id: The model.
        planned_per_second: Tokens that answers may have, in a second of one engine.
        tokens_per_second: Tokens that answers really had, likewise.
        start_seconds: From nothing to the first answer.
        source: What this was learned from.
    """

    model_id: str
    planned_per_second: float
    tokens_per_second: float
    start_seconds: float
    source: str


@dataclass(frozen=True)
class Sizing:
    """What a pace means for a bundle and its profile.

    Attributes:
        pace: The pace.
        shard_minutes: How long a shard should work, start-up included.
        walltime_minutes: The time limit that fits such shards.
        longest_shard_minutes: How long the longest shard of the bundle works at that pace.
        gpu_hours: What all shards of the model cost, start-up included; 0 without GPUs.
    """

    pace: Pace
    shard_minutes: int
    walltime_minutes: int
    longest_shard_minutes: float
    gpu_hours: float

    def to_dict(self) -> dict[str, Any]:
        """Give the facts as JSON."""
        return asdict(self)


def paces_of_calibration(measured: Sequence[Measured]) -> list[Pace]:
    """Read the pace of each model from a calibration."""
    return [
        Pace(
            each.model_id,
            each.planned_per_second,
            each.tokens_per_second,
            each.start_seconds,
            f"{each.items} items of a calibration",
        )
        for each in measured
    ]


def paces_of_finished(workspace: Workspace) -> list[Pace]:
    """Learn the pace of each model from the complete shards of a bundle; none where none is."""
    done: dict[str, list[int]] = {}
    for entry in workspace.bundle.shards:
        if shard_state(workspace.bundle, entry.index).done:
            model = workspace.bundle.group_of(entry.index).model_id
            done.setdefault(model, []).append(entry.index)
    found = (_pace_of(workspace, model, shards) for model, shards in done.items())
    return [pace for pace in found if pace is not None]


def known_paces(workspace: Workspace) -> list[Pace]:
    """Give the paces of finished shards; before there are any, those of the last calibration."""
    found = paces_of_finished(workspace)
    calibrations = sorted(
        workspace.calibrations.glob("*.json"), key=lambda path: path.stat().st_mtime_ns
    )
    if found or not calibrations:
        return found
    return paces_of_calibration(read_calibration(calibrations[-1]))


def size(workspace: Workspace, profile: ClusterProfile, pace: Pace) -> Sizing:
    """Say what a pace means for the shards of its model."""
    minutes = shard_minutes(pace.start_seconds)
    gpus = profile.gpus_per_shard
    seconds = [
        pace.start_seconds + _planned_tokens(workspace, entry.index) / pace.planned_per_second
        for entry in workspace.bundle.shards
        if workspace.bundle.group_of(entry.index).model_id == pace.model_id
    ]
    return Sizing(
        pace=pace,
        shard_minutes=minutes,
        walltime_minutes=walltime_minutes(minutes, profile.signal_margin_s),
        longest_shard_minutes=round(max(seconds, default=0.0) / 60, 1),
        gpu_hours=round(sum(seconds) * gpus / 3600, 2),
    )


def shard_minutes(start_seconds: float) -> int:
    """Give the minutes of a shard of which starting the engine is at most a tenth.

    >>> shard_minutes(20), shard_minutes(600)
    (30, 100)
    """
    needed = start_seconds / 60 / LARGEST_START_SHARE
    return _rounded_up(max(SHORTEST_MINUTES, needed))


def walltime_minutes(minutes: float, margin_s: int) -> int:
    """Give the time limit for shards that are planned to work for so long.

    >>> walltime_minutes(60, 180)
    80
    """
    return _rounded_up(minutes * SLACK + margin_s / 60)


def _rounded_up(minutes: float) -> int:
    return math.ceil(minutes / ROUND_TO_MINUTES) * ROUND_TO_MINUTES


def _planned_tokens(workspace: Workspace, shard: int) -> int:
    """Give the tokens that a shard's answers may have, or those of its prompts if none are made."""
    cost = workspace.bundle.shard(shard).cost
    return cost.max_new_tokens or cost.prompt_tokens


def _pace_of(workspace: Workspace, model: str, shards: Sequence[int]) -> Pace | None:
    planned = tokens = working = 0.0
    starts = []
    for shard in shards:
        planned += _planned_tokens(workspace, shard)
        for status in read_statuses(workspace.bundle, shard):
            more = status.model_extra or {}
            start = float(more.get("loading_s") or 0.0)
            starts.append(start)
            # An attempt's clock begins when its engine is loaded.
            working += max(0.0, status.updated - status.started)
            tokens += float(more.get("tokens") or 0.0)
    if working <= 0 or planned <= 0:
        return None
    return Pace(
        model_id=model,
        planned_per_second=planned / working,
        tokens_per_second=tokens / working,
        start_seconds=round(sum(starts) / len(starts), 3),
        source=f"{len(shards)} finished shards",
    )
