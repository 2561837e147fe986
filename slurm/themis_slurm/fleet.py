"""Everything that may work on a bundle: the profile's cluster, and whatever came before.

A bundle can have shards in Slurm's queue and others in a local pool, because somebody changed
the profile on the way. Questions go to each kind that the records name, and to no other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from themis_slurm.dispatcher import Dispatcher, LiveShard
from themis_slurm.evidence import Verdict
from themis_slurm.local_pool import LocalPool
from themis_slurm.plain_sbatch import PlainSbatch
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord
from themis_slurm.slurm_arrays import SlurmArrays
from themis_slurm.workspace import Workspace

V = TypeVar("V")


class Fleet:
    """The dispatchers of one bundle.

    Attributes:
        active: The one that new work goes to.
    """

    def __init__(self, active: Dispatcher, by_kind: Mapping[str, Dispatcher]) -> None:
        self.active = active
        self._by_kind = by_kind

    def alive(self, records: Sequence[SubmissionRecord]) -> dict[int, LiveShard]:
        """Give the shards that need no new submission. See `Dispatcher.alive`."""
        return self._merged(records, lambda dispatcher, own: dispatcher.alive(own))

    def evidence(
        self, records: Sequence[SubmissionRecord], shards: Sequence[int]
    ) -> dict[int, Verdict]:
        """Say what became of shards. See `Dispatcher.evidence`."""
        return self._merged(records, lambda dispatcher, own: dispatcher.evidence(own, shards))

    def cancel(self, records: Sequence[SubmissionRecord], shards: Sequence[int]) -> None:
        """Stop shards wherever they are."""
        for kind, own in _by_kind(records).items():
            self._by_kind[kind].cancel(own, shards)

    def release(self, record: SubmissionRecord) -> None:
        """Let a held submission start."""
        self._by_kind[record.kind].release(record)

    def find(self, record: SubmissionRecord) -> str | None:
        """Look for a submission whose answer was lost."""
        return self._by_kind[record.kind].find(record)

    def _merged(
        self,
        records: Sequence[SubmissionRecord],
        ask: Callable[[Dispatcher, Sequence[SubmissionRecord]], Mapping[int, V]],
    ) -> dict[int, V]:
        merged: dict[int, V] = {}
        for kind, own in _by_kind(records).items():
            merged |= ask(self._by_kind[kind], own)
        return merged


def _by_kind(records: Sequence[SubmissionRecord]) -> dict[str, list[SubmissionRecord]]:
    sorted_out: dict[str, list[SubmissionRecord]] = {}
    for record in records:
        sorted_out.setdefault(record.kind, []).append(record)
    return sorted_out


@contextmanager
def fleet_for(workspace: Workspace, profile: ClusterProfile | None = None) -> Iterator[Fleet]:
    """Give the dispatchers of a bundle; a local pool ends, in order, with the block.

    Args:
        workspace: The bundle.
        profile: Where new work goes; None when there will be none.
    """
    profile = profile or ClusterProfile()
    local = profile if profile.kind == "local" else ClusterProfile(kind="local")
    pool = LocalPool(workspace, local)
    own = profile.submission == "sbatch"
    arrays = PlainSbatch(workspace, profile) if own else SlurmArrays(workspace, profile)
    by_kind: dict[str, Dispatcher] = {"local": pool, "slurm": arrays}
    try:
        yield Fleet(by_kind[profile.kind], by_kind)
    finally:
        pool.close()
