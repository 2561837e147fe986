"""Asking for shards by name: those that failed, were cancelled, or were given up.

`submit` takes whatever is left, and a waiting run gives a shard up after some tries that
finished nothing. Whoever asks for a shard by name has changed something, so its tries count
anew.
"""

from collections.abc import Collection

from themis.errors import SpecValidationError
from themis_slurm.errors import SchedulerError, ShardsBusyError
from themis_slurm.evidence import Cause
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.status import ShardRow, StatusReader
from themis_slurm.submit import Submitted, Wish, submit
from themis_slurm.workspace import Workspace

_NOT_ENDED = (
    Cause.COMPLETE,
    Cause.RUNNING,
    Cause.PENDING,
    Cause.NOT_SUBMITTED,
)


def retry(
    workspace: Workspace,
    profile: ClusterProfile,
    fleet: Fleet,
    *,
    shards: Collection[int] | None,
    avoid_unfit_nodes: bool = True,
) -> Submitted:
    """Submit shards again that ended incomplete.

    Args:
        workspace: The bundle.
        profile: The resources.
        fleet: From `fleet_for`, with the same profile.
        shards: Which; None is every shard that ended incomplete, for whatever reason.
        avoid_unfit_nodes: Whether to keep away from nodes that tasks found unfit.

    Raises:
        SpecValidationError: The bundle has no such shard.
        ShardsBusyError: One of `shards` is alive or complete; nothing was submitted.
        SchedulerError: Slurm did not answer.
        SubmissionRefusedError: Slurm refused, and took nothing.
    """
    everything = {shard.index for shard in workspace.bundle.shards}
    unknown = sorted(set(shards or ()).difference(everything))
    if unknown:
        raise SpecValidationError(f"the bundle has no shard {unknown[0]}; it has {len(everything)}")
    status = StatusReader(workspace, fleet).read()
    if status.scheduler_error is not None:
        raise SchedulerError(status.scheduler_error)
    if shards is None:
        wanted = {row.shard for row in status.rows if row.cause not in _NOT_ENDED}
    else:
        wanted = set(shards)
        _refuse_busy([row for row in status.rows if row.shard in wanted])
    wish = Wish(asked=True, avoid_unfit_nodes=avoid_unfit_nodes)
    return submit(workspace, profile, fleet, leave=everything - wanted, wish=wish)


def _refuse_busy(rows: list[ShardRow]) -> None:
    busy = [row for row in rows if row.cause in {Cause.RUNNING, Cause.PENDING, Cause.COMPLETE}]
    if busy:
        names = "; ".join(f"shard {row.shard} is {row.cause.value}" for row in busy)
        raise ShardsBusyError(f"{names}. Nothing was submitted; cancel first what is to end.")
