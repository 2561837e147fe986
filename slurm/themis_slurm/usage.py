"""What the attempts at a shard used and how fast they are, from the status files they write.

An attempt counts from when it began to load its engine to its last status. What is missing is
little: the start of Python before that, and at most ten seconds of an attempt that was killed.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from themis_bundles.receipts import Status


@dataclass(frozen=True)
class Usage:
    """What a shard used so far.

    Attributes:
        seconds: Time in which attempts worked on it, loading of the engine included.
        gpu_seconds: The same times the GPUs that each attempt had.
        tokens: Tokens generated.
        items_per_s: Items that its running attempt finishes per second; 0 when none runs.
        tokens_per_s: Tokens likewise.
        errors: How many items failed, by kind and code. Failures of the machine are those of
            the latest attempt, since each attempt tries them again.
    """

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    tokens: int = 0
    items_per_s: float = 0.0
    tokens_per_s: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)


def usage_of(statuses: Sequence[Status], gpus_of: Callable[[str], int], *, runs: bool) -> Usage:
    """Add up the attempts at one shard.

    Args:
        statuses: Their status files.
        gpus_of: The GPUs of an attempt, by its name.
        runs: Whether the cluster says that one of them runs.
    """
    if not statuses:
        return Usage()
    newest = max(statuses, key=lambda status: status.started)
    live = newest if runs and newest.state == "running" else None
    return Usage(
        seconds=sum(_seconds(status) for status in statuses),
        gpu_seconds=sum(_seconds(status) * gpus_of(status.attempt) for status in statuses),
        tokens=round(sum(_number(status, "tokens") for status in statuses)),
        items_per_s=0.0 if live is None else _rate(live, live.records),
        tokens_per_s=0.0 if live is None else _rate(live, _number(live, "tokens")),
        errors=_errors(statuses, newest),
    )


def _seconds(status: Status) -> float:
    """Give how long an attempt took; both times are of the same clock, the node's."""
    return max(0.0, status.updated - status.started) + _number(status, "loading_s")


def _rate(status: Status, amount: float) -> float:
    elapsed = status.updated - status.started
    return amount / elapsed if elapsed > 0 else 0.0


def _errors(statuses: Sequence[Status], newest: Status) -> dict[str, int]:
    errors: Counter[str] = Counter()
    for status in statuses:
        told: Any = (status.model_extra or {}).get("errors")
        for name, count in told.items() if isinstance(told, dict) else ():
            if isinstance(count, int) and (status is newest or not name.startswith("infra")):
                errors[name] += count
    return dict(errors)


def _number(status: Status, name: str) -> float:
    found = (status.model_extra or {}).get(name)
    return float(found) if isinstance(found, int | float) else 0.0
