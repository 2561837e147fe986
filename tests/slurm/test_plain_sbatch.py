"""Arrays with scripts of our own: what sbatch gets, and that nothing starts unrecorded."""

import os
from pathlib import Path
from typing import Any

import pytest

from themis_slurm.errors import SchedulerError, SubmissionRefusedError
from themis_slurm.fleet import fleet_for
from themis_slurm.plain_sbatch import PlainSbatch
from themis_slurm.processes import this_process
from themis_slurm.profile import ClusterProfile
from themis_slurm.records import SubmissionRecord, read_records, update_record
from themis_slurm.submit import logs_of, submit
from themis_slurm.workspace import Workspace

PROFILE = ClusterProfile(
    submission="sbatch",
    partition="gpu",
    account="lab",
    gpus=2,
    gpu_type="h100",
    cpus=6,
    mem_gb=1.5,
    walltime="01:30:00",
    array_parallelism=4,
    requeue=False,
    setup=("module load cuda",),
    python="/opt/python",
    sbatch={"constraint": "ib", "exclusive": True},
    max_array_size=1000,
)

GOLDEN = """\
#!/bin/bash
#SBATCH --partition=gpu
#SBATCH --account=lab
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=6
#SBATCH --mem=1536M
#SBATCH --gpus-per-node=h100:2
#SBATCH --constraint=ib
#SBATCH --exclusive
#SBATCH --job-name=themis-abc-0007-ff
#SBATCH '--comment=themis RUN'
#SBATCH --array=1,3-5%4
#SBATCH --time=90
#SBATCH --signal=USR2@180
#SBATCH --output=DISPATCH/jobs/0007/%A_%a.log
#SBATCH --open-mode=append
#SBATCH --export=ALL
#SBATCH --exclude=n1,n2
#SBATCH --chdir=DISPATCH
#SBATCH --no-requeue

module load cuda
exec srun --unbuffered --cpus-per-task=6 --export=ALL /opt/python -m themis_slurm.task \
BUNDLE $((SLURM_ARRAY_TASK_ID + 2000)) --options /x/options.json
"""


def record(workspace: Workspace, **changes: Any) -> SubmissionRecord:
    fields: dict[str, Any] = {
        "number": 7,
        "kind": "slurm",
        "state": "prepared",
        "name": "themis-abc-0007-ff",
        "bundle": workspace.bundle.digest,
        "group": 0,
        "shards": (2001, 2003, 2004, 2005),
        "items_done": (0, 0, 0, 0),
        "options": "/x/options.json",
        "submitter": this_process(),
        "prepared": 1_700_000_000.0,
        "method": "sbatch",
        "offset": 2000,
        "excluded_nodes": ("n1", "n2"),
    }
    return SubmissionRecord.model_validate(fields | changes)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of the PATH, with a Slurm that takes everything and writes a diary."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    records = f"{tmp_path}/*/dispatch/submissions/0001.json"
    command(
        folder,
        "sbatch",
        f'echo "sbatch $*" >> {folder}/diary; env > {folder}/environment; echo "4711;cluster"',
    )
    command(
        folder,
        "scontrol",
        f'echo "scontrol $* $(grep -o \'"state": *"[a-z]*"\' {records})" >> {folder}/diary',
    )
    command(folder, "squeue", "exit 0")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def diary(commands: Path) -> list[str]:
    return (commands / "diary").read_text().splitlines()


def test_the_script_is_exactly_this(workspace: Workspace) -> None:
    script = PlainSbatch(workspace, PROFILE).script(record(workspace))

    shown = (
        script.replace(str(workspace.dispatch), "DISPATCH")
        .replace(str(workspace.bundle.path), "BUNDLE")
        .replace(f"themis {workspace.bundle.manifest.run_id}", "themis RUN")
    )
    assert shown == GOLDEN


def test_the_id_is_on_record_before_anything_may_start(
    workspace: Workspace, commands: Path
) -> None:
    with fleet_for(workspace, PROFILE) as fleet:
        made = submit(workspace, PROFILE, fleet)

    script = workspace.jobs(1) / "submission.sh"
    held, released = diary(commands)
    assert held == f"sbatch --parsable --hold {script}"
    assert released.startswith('scontrol release 4711 "state":')
    assert released.endswith('"held"')
    assert [(r.state, r.job_id) for r in made.records] == [("submitted", "4711")]
    assert read_records(workspace.submissions) == made.records


def test_what_a_dead_submitter_left_held_is_released(workspace: Workspace, commands: Path) -> None:
    with fleet_for(workspace, PROFILE) as fleet:
        (made,) = submit(workspace, PROFILE, fleet).records
        update_record(workspace.submissions, made.model_copy(update={"state": "held"}))

        submit(workspace, PROFILE, fleet)

    assert diary(commands)[2].startswith("scontrol release 4711")
    assert read_records(workspace.submissions)[0].state == "submitted"


def test_what_was_held_without_a_record_of_its_id_is_found_and_released(
    workspace: Workspace, commands: Path
) -> None:
    with fleet_for(workspace, PROFILE) as fleet:
        (made,) = submit(workspace, PROFILE, fleet).records
        forgotten = made.model_copy(update={"state": "prepared", "job_id": None})
        update_record(workspace.submissions, forgotten)
        rows = "\\n".join(f"4712|{n}|{made.name}|PENDING||JobHeldUser" for n in range(6))
        command(commands, "squeue", f"printf '{rows}\\n'")

        again = submit(workspace, PROFILE, fleet)

    assert again.shards == 0
    assert diary(commands)[-1].startswith("scontrol release 4712")
    assert [(r.state, r.job_id) for r in read_records(workspace.submissions)] == [
        ("submitted", "4712")
    ]


def test_an_element_has_the_number_of_its_shard_in_its_window(
    workspace: Workspace, commands: Path
) -> None:
    assert commands.is_dir()
    narrow = PROFILE.model_copy(update={"max_array_size": 4})
    with fleet_for(workspace, narrow) as fleet:
        first, second = submit(workspace, narrow, fleet).records

    assert (first.shards, first.offset, first.element(3)) == ((0, 1, 2, 3), 0, "4711_3")
    assert (second.shards, second.offset, second.element(5)) == ((4, 5), 4, "4711_1")
    assert second.shard_of(1) == 5


def test_a_log_is_found_under_the_elements_name(workspace: Workspace, commands: Path) -> None:
    assert commands.is_dir()
    with fleet_for(workspace, PROFILE) as fleet:
        submit(workspace, PROFILE, fleet)
    log = workspace.jobs(1) / "4711_3.log"
    log.write_text("words")

    assert logs_of(workspace, 3) == (log,)


def test_sbatch_sees_no_secret(
    workspace: Workspace, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-jobs")
    monkeypatch.setenv("SITE_SCRATCH", "/scratch")
    profile = PROFILE.model_copy(update={"environment": ("SITE_SCRATCH",)})

    PlainSbatch(workspace, profile).submit(record(workspace))

    seen = (commands / "environment").read_text()
    assert "sk-not-for-jobs" not in seen
    assert "SITE_SCRATCH=/scratch" in seen


def test_a_refusal_holds_slurms_words_and_leaves_nothing(
    workspace: Workspace, commands: Path
) -> None:
    command(commands, "sbatch", "echo 'sbatch: error: no such account' >&2; exit 1")

    with pytest.raises(SubmissionRefusedError, match="no such account"):
        PlainSbatch(workspace, PROFILE).submit(record(workspace))

    assert not list(workspace.dispatch.rglob("*.sh"))


def test_a_machine_without_sbatch_says_what_to_do(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SchedulerError, match="sbatch is not on the PATH"):
        PlainSbatch(workspace, PROFILE).submit(record(workspace))
