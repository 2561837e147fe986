"""What a job is given: its script, its environment, and no secret."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from themis.errors import SpecValidationError
from themis_slurm import scheduler
from themis_slurm.errors import SchedulerError, SubmissionRefusedError
from themis_slurm.evidence import Cause
from themis_slurm.import_path import importable
from themis_slurm.processes import this_process
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord
from themis_slurm.sbatch_array import passed_environment
from themis_slurm.slurm_arrays import SlurmArrays
from themis_slurm.workspace import Workspace, open_workspace


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the PATH, with an srun and an sbatch that take everything."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    command(folder, "srun", "exit 0")
    command(folder, "sbatch", "echo Submitted batch job 4711")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def record(
    workspace: Workspace, shards: tuple[int, ...] = (1, 3), **changes: object
) -> SubmissionRecord:
    fields: dict[str, object] = {
        "number": 7,
        "kind": "slurm",
        "state": "prepared",
        "name": "themis-abc-0007-ff",
        "bundle": workspace.bundle.digest,
        "group": 0,
        "shards": shards,
        "items_done": (0,) * len(shards),
        "options": "/x/options.json",
        "submitter": this_process(),
        "prepared": 1_700_000_000.0,
    }
    return SubmissionRecord.model_validate(fields | changes)


class TestScript:
    """The exact sbatch script, without a Slurm."""

    @pytest.fixture
    def arrays(self, workspace: Workspace, commands: Path) -> SlurmArrays:
        assert commands.is_dir()
        profile = ClusterProfile(
            partition="gpu",
            account="lab",
            qos="fast",
            gpus=2,
            gpu_type="h100",
            cpus=6,
            mem_gb=1.5,
            walltime="01:30:00",
            array_parallelism=4,
            requeue=False,
            setup=("module load cuda",),
            sbatch={"constraint": "ib", "exclusive": True},
        )
        return SlurmArrays(workspace, profile)

    def test_an_array_asks_for_what_the_profile_says(
        self, arrays: SlurmArrays, workspace: Workspace
    ) -> None:
        lines = arrays.script(record(workspace, excluded_nodes=("n1", "n2"))).splitlines()

        wanted = {
            "account=lab", "array=0-1%2", "constraint=ib", "cpus-per-task=6", "exclude=n1,n2",
            "exclusive", "gpus-per-node=h100:2", "job-name=themis-abc-0007-ff", "mem=1536M",
            "no-requeue", "nodes=1", "ntasks-per-node=1", "partition=gpu", "qos=fast",
            "signal=USR2@180", "time=90", f"chdir={workspace.dispatch}",
        }  # fmt: skip
        assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
        assert "module load cuda" in lines
        assert not [line for line in lines if "wckey" in line or "--error" in line]
        (srun,) = [line for line in lines if line.startswith("srun ")]
        assert "--cpus-per-task=6" in srun

    def test_one_shard_is_no_array(self, arrays: SlurmArrays, workspace: Workspace) -> None:
        assert "--array" not in arrays.script(record(workspace, shards=(2,)))

    def test_a_path_that_slurm_would_rewrite_is_refused(
        self, write_generation_bundle: Callable[..., Path]
    ) -> None:
        workspace = open_workspace(write_generation_bundle(["a"], name="100%A"))

        with pytest.raises(SpecValidationError, match="holds a %"):
            SlurmArrays(workspace, ClusterProfile()).script(record(workspace, shards=(0,)))


class TestSubmit:
    """One sbatch call, and nothing left behind when it is refused."""

    def test_the_array_id_comes_back(self, workspace: Workspace, commands: Path) -> None:
        assert commands.is_dir()
        done = SlurmArrays(workspace, ClusterProfile()).submit(record(workspace))

        assert (done.state, done.job_id) == ("submitted", "4711")
        folder = workspace.jobs(7) / "4711"
        assert len(list(folder.glob("4711_*_submitted.pkl"))) == 2

    def test_a_pickle_holds_strings_and_numbers_only(
        self, workspace: Workspace, commands: Path
    ) -> None:
        assert commands.is_dir()
        SlurmArrays(workspace, ClusterProfile()).submit(record(workspace))

        for path in workspace.dispatch.rglob("*.pkl"):
            assert path.stat().st_size < 1000
            assert b"run_array_task" in path.read_bytes()  # by reference, not by value

    def test_a_refusal_holds_slurms_words_and_leaves_nothing(
        self, workspace: Workspace, commands: Path
    ) -> None:
        command(commands, "sbatch", "echo 'sbatch: error: no such account' >&2; exit 1")

        with pytest.raises(SubmissionRefusedError, match="no such account"):
            SlurmArrays(workspace, ClusterProfile()).submit(record(workspace))

        assert not list(workspace.dispatch.rglob("*.pkl"))

    def test_a_machine_without_sbatch_says_what_to_do(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "which", lambda _name: None)

        with pytest.raises(SchedulerError, match="sbatch is not on the PATH"):
            SlurmArrays(workspace, ClusterProfile()).submit(record(workspace))

    def test_sbatch_sees_no_secret(
        self, workspace: Workspace, commands: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = commands / "environment"
        command(commands, "sbatch", f"env > {seen}; echo Submitted batch job 1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-jobs")
        monkeypatch.setenv("SITE_SCRATCH", "/scratch")

        SlurmArrays(workspace, ClusterProfile(environment=("SITE_SCRATCH",))).submit(
            record(workspace)
        )

        assert "sk-not-for-jobs" not in seen.read_text()
        assert "SITE_SCRATCH=/scratch" in seen.read_text()


class TestEnvironment:
    """Variables go by name."""

    def test_a_list_goes_and_everything_else_stays(self) -> None:
        given = {
            "PATH": "/bin",
            "HF_TOKEN": "x",
            "SLURM_JOB_ID": "7",
            "SLURM_CONF": "/c",
            "SBATCH_ACCOUNT": "lab",
            "SBATCH_EXPORT": "NONE",
            "LC_ALL": "C",
            "OTHER": "o",
            "NAMED": "n",
            "THEMIS_MODELS": "/m",
            "THEMIS_API_KEY": "k",
            "BASH_FUNC_module%%": "() { :; }",
        }

        chosen = passed_environment(given, ("NAMED",))

        assert set(given) - set(chosen) == {
            "HF_TOKEN",
            "SLURM_JOB_ID",
            "SBATCH_EXPORT",
            "OTHER",
            "THEMIS_API_KEY",
        }

    def test_a_checkout_is_importable_from_another_folder(self) -> None:
        path = importable({"PYTHONPATH": "relative:/abs"})["PYTHONPATH"].split(os.pathsep)

        assert path[:2] == [str(Path("relative").absolute()), "/abs"]
        for name in ("themis", "themis_bundles", "themis_slurm"):
            file = sys.modules[name].__file__
            assert file is not None
            home = Path(file).parent.parent
            assert home.name == "site-packages" or str(home) in path


class TestEvidence:
    """Accounting rows are matched by id and name."""

    @staticmethod
    def judged(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, text: str) -> Cause:
        rows = tuple(scheduler.parse_accounting(text))
        monkeypatch.setattr(scheduler, "accounting", lambda *_a: rows)
        submitted = record(workspace, state="submitted", job_id="7")
        return SlurmArrays(workspace, ClusterProfile()).evidence([submitted], [3])[3].cause

    def test_an_element_is_found_by_its_place(
        self, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        text = (
            "7_0|themis-abc-0007-ff|COMPLETED|0:0|0:0|a|b|9|c1|None\n"
            "7_1|themis-abc-0007-ff|TIMEOUT|0:0|0:0|a|b|9|c1|None\n"
        )

        assert self.judged(monkeypatch, workspace, text) is Cause.TIME_LIMIT

    def test_an_older_job_with_the_same_id_is_not_ours(
        self, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        text = (
            "7_1|somebody|TIMEOUT|0:0|0:0|a|b|9|c1|None\n"
            "7_1.0|python|OUT_OF_MEMORY|0:125||a|b|9|c1|\n"
        )

        assert self.judged(monkeypatch, workspace, text) is Cause.LOST

    def test_without_accounting_a_shard_is_lost(
        self, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        monkeypatch.setattr(scheduler, "accounting", lambda *_a: None)
        submitted = record(workspace, state="submitted", job_id="7")

        verdict = SlurmArrays(workspace, ClusterProfile()).evidence([submitted], [3])[3]

        assert (verdict.cause, verdict.detail) == (Cause.LOST, "no accounting on this cluster")


def test_the_queue_names_shards_by_their_place(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    rows = tuple(
        scheduler.parse_queue(
            "7|1|themis-abc-0007-ff|RUNNING|n1|None\n9|N/A|themis-abc-0008-ff|PENDING||Priority\n"
        )
    )
    monkeypatch.setattr(scheduler, "queue", lambda _names: rows)
    records = [
        record(workspace, state="submitted", job_id="7"),
        record(workspace, (5,), name="themis-abc-0008-ff", state="submitted", job_id="9"),
    ]

    alive = SlurmArrays(workspace, ClusterProfile()).alive(records)

    assert {shard: (live.running, live.job) for shard, live in alive.items()} == {
        3: (True, "7_1"),
        5: (False, "9"),
    }


def test_whole_arrays_are_cancelled_in_one_word(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(scheduler, "cancel", asked.extend)
    records = [
        record(workspace, (0, 1), state="submitted", job_id="7"),
        record(workspace, (2, 3, 4), state="submitted", job_id="8"),
    ]

    SlurmArrays(workspace, ClusterProfile()).cancel(records, [0, 1, 3])

    assert asked == ["7", "8_1"]
