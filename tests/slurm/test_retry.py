"""Asking for shards by name: what ended is submitted again, what is alive is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from themis.errors import SpecValidationError
from themis_slurm.errors import SchedulerError, ShardsBusyError
from themis_slurm.evidence import Cause, Verdict
from themis_slurm.failures import leave_failure
from themis_slurm.fleet import Fleet
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import read_records, tries_without_progress
from themis_slurm.retry import retry
from themis_slurm.submit import submit
from themis_slurm.workspace import Workspace

PROFILE = ClusterProfile()


@pytest.fixture
def ended(workspace: Workspace, fleet: Fleet, fake: Any, answer: Callable[..., None]) -> Workspace:
    """Six shards: 0 complete, 1 runs, 2 crashed, 3 cancelled, 4 and 5 wait."""
    submit(workspace, PROFILE, fleet)
    answer(workspace.bundle, 0)
    for shard in (0, 2, 3):
        del fake.live[shard]
    fake.ended = {2: Verdict(Cause.CRASHED), 3: Verdict(Cause.CANCELLED)}
    fake.submitted.clear()
    return workspace


def asked(fake: Any) -> list[int]:
    return [shard for record in fake.submitted for shard in record.shards]


def test_all_that_ended_incomplete_is_submitted_again(
    ended: Workspace, fleet: Fleet, fake: Any
) -> None:
    made = retry(ended, PROFILE, fleet, shards=None)

    assert asked(fake) == [2, 3]
    assert made.shards == 2


def test_a_shard_can_be_named_and_only_that_is_submitted(
    ended: Workspace, fleet: Fleet, fake: Any
) -> None:
    retry(ended, PROFILE, fleet, shards=[3])

    assert asked(fake) == [3]


@pytest.mark.parametrize(("shard", "words"), [(0, "shard 0 is complete"), (4, "4 is pending")])
def test_a_shard_that_is_alive_or_complete_is_refused_and_nothing_is_submitted(
    ended: Workspace, fleet: Fleet, fake: Any, shard: int, words: str
) -> None:
    with pytest.raises(ShardsBusyError, match=words):
        retry(ended, PROFILE, fleet, shards=[2, shard])

    assert asked(fake) == []


def test_a_shard_that_the_bundle_does_not_have_is_refused(ended: Workspace, fleet: Fleet) -> None:
    with pytest.raises(SpecValidationError, match="no shard 6"):
        retry(ended, PROFILE, fleet, shards=[6])


def test_nothing_is_submitted_while_slurm_does_not_answer(
    ended: Workspace, fleet: Fleet, fake: Any
) -> None:
    fake.down = SchedulerError("squeue failed")

    with pytest.raises(SchedulerError, match="squeue failed"):
        retry(ended, PROFILE, fleet, shards=None)


def test_tries_count_anew(workspace: Workspace, fleet: Fleet, fake: Any) -> None:
    for _ in range(3):
        submit(workspace, PROFILE, fleet)
        fake.live.clear()
    assert tries_without_progress(read_records(workspace.submissions), 2, 0) == 3

    retry(workspace, PROFILE, fleet, shards=[2])

    records = read_records(workspace.submissions)
    assert tries_without_progress(records, 2, 0) == 1
    assert tries_without_progress(records, 3, 0) == 3


@pytest.mark.parametrize(("avoid", "excluded"), [(True, ("n7",)), (False, ())])
def test_unfit_nodes_are_kept_away_from_unless_told_otherwise(
    ended: Workspace, fleet: Fleet, fake: Any, *, avoid: bool, excluded: tuple[str, ...]
) -> None:
    environment = {"SLURMD_NODENAME": "n7", "SLURM_JOB_ID": "101"}
    leave_failure(ended.failures, 2, Cause.BAD_NODE, "no GPU", environment)

    retry(ended, PROFILE, fleet, shards=[2], avoid_unfit_nodes=avoid)

    assert fake.submitted[0].excluded_nodes == excluded
