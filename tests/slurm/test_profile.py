"""The cluster profile: what it takes, and how it says what it does not take."""

from pathlib import Path

import pytest

from themis_slurm.errors import ProfileError
from themis_slurm.profile import ClusterProfile, load_profile

PROFILES = Path(__file__).parents[2] / "slurm" / "profiles"

BROKEN = {
    "unknown field": ('partitoin = "gpu"', "partitoin: is not a field of a cluster profile"),
    "wrong type": ('gpus = "many"', "gpus: Input should be a valid integer"),
    "clock": ('walltime = "2h"', 'walltime: must be minutes (90) or "HH:MM:SS"'),
    "negative": ("cpus = 0", "cpus: Input should be greater than or equal to 1"),
    "nested": ("[models]\nx = 3", "models.x: Input should be a valid string"),
    "secret": ('environment = ["HF_TOKEN"]', "environment: HF_TOKEN looks like a secret"),
    "secret option": ('[engine]\napi_key = "x"', "engine.api_key: looks like a secret"),
    "variable name": ('environment = ["A=B"]', "environment.0: String should match pattern"),
    "margin": ("walltime = 2\nsignal_margin_s = 120", "signal_margin_s: must be shorter"),
    "gpu type": ('gpu_type = "h100"', "gpu_type: needs gpus of at least 1"),
    "own option": ("[sbatch]\narray = 3", "sbatch.array: Themis sets this one itself"),
    "own option, other spelling": ("[sbatch]\njob_name = 'x'", "sbatch.job_name: Themis sets"),
    "slurm field, local": ('kind = "local"\nqos = "x"', 'qos: means nothing when kind = "local"'),
    "local field, slurm": ("slots = 2", 'slots: means nothing when kind = "slurm"'),
    "secret variable": ('[variables]\nHF_TOKEN = "x"', "variables.HF_TOKEN: looks like a secret"),
    "variable value": ("[variables]\nA = 1", "variables.A: Input should be a valid string"),
    "container": ('[container]\nruntime = "docker"', "container.runtime: Input should be 'apptai"),
    "no image": ('[container]\nruntime = "enroot"', "container.image: Field required"),
    "enroot, local": (
        'kind = "local"\n[container]\nruntime = "enroot"\nimage = "i"',
        "container.runtime: enroot needs Slurm",
    ),
    "not toml": ("gpus = ", "is not TOML"),
}


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads(path: Path) -> None:
    assert load_profile(path).walltime >= 1


def test_there_are_shipped_profiles() -> None:
    assert {path.stem for path in PROFILES.glob("*.toml")} == {"local", "devcluster", "generic-gpu"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_names_file_key_and_rule(name: str, tmp_path: Path) -> None:
    text, words = BROKEN[name]
    path = tmp_path / "site.toml"
    path.write_text(text)

    with pytest.raises(ProfileError) as caught:
        load_profile(path)

    assert str(path) in str(caught.value)
    assert any(problem.startswith(words) for problem in caught.value.problems)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('cpus = 0\nnope = 1\nwalltime = "x"\n')

    with pytest.raises(ProfileError) as caught:
        load_profile(path)

    assert {problem.partition(":")[0] for problem in caught.value.problems} == {
        "cpus",
        "nope",
        "walltime",
    }


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("00:30:00", 30),
        ("2:00:00", 120),
        ("1-00:00:00", 1440),
        ("00:00:30", 1),
        ("100:00:01", 6001),
    ],
)
def test_a_walltime_is_minutes_rounded_up(written: str, minutes: int) -> None:
    assert ClusterProfile(walltime=written, signal_margin_s=10).walltime == minutes


def test_relative_results_are_taken_from_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text('results = "out"\n')

    assert load_profile(path).results == tmp_path / "out"
