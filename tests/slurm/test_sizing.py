"""How long shards should be, from a calibration and from what was done."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from themis.errors import SpecValidationError
from themis_bundles.results import read_statuses
from themis_slurm.calibrating import calibrate_on_node
from themis_slurm.profile import ClusterProfile
from themis_slurm.sizing import Pace, paces_of_finished, shard_minutes, size, walltime_minutes
from themis_slurm.workspace import Workspace

PACE = Pace("another", planned_per_second=2.0, tokens_per_second=1.0, start_seconds=60, source="x")


@given(st.floats(0, 20_000))
def test_starting_is_at_most_a_tenth_and_a_shard_is_never_tiny(start: float) -> None:
    minutes = shard_minutes(start)

    assert minutes >= 30
    assert start <= minutes * 60 * 0.1 + 1e-6


@given(st.integers(30, 600), st.integers(10, 3600))
def test_the_walltime_leaves_a_quarter_and_the_margin(minutes: int, margin: int) -> None:
    assert walltime_minutes(minutes, margin) * 60 >= minutes * 75 + margin


def test_a_bundle_costs_its_tokens_and_the_start_of_each_shard(workspace: Workspace) -> None:
    tokens = [shard.cost.max_new_tokens for shard in workspace.bundle.shards]
    model = workspace.bundle.group_of(0).model_id
    pace = Pace(model, 2.0, 1.0, 60, "x")

    sizing = size(workspace, ClusterProfile(gpus=2), pace)

    assert sum(tokens) > 0
    assert sizing.gpu_hours == pytest.approx(2 * (sum(tokens) / 2 + 6 * 60) / 3600, abs=0.01)
    assert sizing.longest_shard_minutes == round((60 + max(tokens) / 2) / 60, 1)
    assert size(workspace, ClusterProfile(), pace).gpu_hours == 0


def test_shards_of_another_model_cost_nothing_here(workspace: Workspace) -> None:
    assert size(workspace, ClusterProfile(gpus=8), PACE).gpu_hours == 0


def test_finished_shards_tell_their_pace(
    workspace: Workspace, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert paces_of_finished(workspace) == []
    for shard in (0, 2):
        answer(workspace.bundle, shard)
    answer(workspace.bundle, 1, count=2)

    def slow(_bundle: object, shard: int) -> list[object]:
        (status,) = read_statuses(workspace.bundle, shard)
        changes = {"started": 100.0, "updated": 108.0, "loading_s": 5.0, "tokens": 16}
        return [status.model_validate(status.model_dump() | changes)]

    monkeypatch.setattr("themis_slurm.sizing.read_statuses", slow)
    (pace,) = paces_of_finished(workspace)

    planned = sum(workspace.bundle.shard(shard).cost.max_new_tokens for shard in (0, 2))
    assert pace.planned_per_second == pytest.approx(planned / 16)
    assert (pace.tokens_per_second, pace.start_seconds) == (2.0, 5.0)
    assert pace.source == "2 finished shards"


def test_a_local_profile_is_sent_to_the_command_for_this_machine(workspace: Workspace) -> None:
    with pytest.raises(SpecValidationError, match="`themis calibrate` measures on this machine"):
        calibrate_on_node(workspace, ClusterProfile(kind="local"), items=1, minutes=1)
    assert not (workspace.calibrations).exists()
