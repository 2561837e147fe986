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
    assert {path.stem for path in PROFILES.glob("*.toml")} == {
        "cpu",
        "devcluster",
        "generic-gpu",
        "h100-apptainer",
        "local",
        "workstation",
    }


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


class TestExtends:
    """A profile on top of another."""

    @staticmethod
    def write(folder: Path, **files: str) -> Path:
        for name, text in files.items():
            (folder / f"{name}.toml").write_text(text)
        return folder / "mine.toml"

    def test_tables_merge_lists_replace_and_the_nearer_file_wins(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            site='partition = "gpu"\ncpus = 2\nsetup = ["a", "b"]\n[variables]\nA = "1"\nB = "1"\n',
            team='extends = "site.toml"\ncpus = 4\n[variables]\nB = "2"\n',
            mine='extends = "team.toml"\nsetup = ["c"]\n[variables]\nC = "3"\n',
        )

        profile = load_profile(path)

        assert (profile.partition, profile.cpus, profile.setup) == ("gpu", 4, ("c",))
        assert profile.variables == {"A": "1", "B": "2", "C": "3"}

    def test_relative_paths_belong_to_the_file_that_holds_them(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "site.toml").write_text(
            'results = "../out"\n[models]\na = "models/a"\nb = "~/b"\n'
            '[container]\nruntime = "apptainer"\nimage = "./themis.sif"\n'
        )
        path = self.write(tmp_path, mine='extends = "etc/site.toml"\n[models]\nc = "models/c"\n')

        profile = load_profile(path)

        assert profile.results == tmp_path / "out"
        assert profile.models == {
            "a": str(tmp_path / "etc" / "models" / "a"),
            "b": "~/b",
            "c": str(tmp_path / "models" / "c"),
        }
        assert profile.container is not None
        assert profile.container.image == str(tmp_path / "etc" / "themis.sif")

    def test_a_problem_names_the_file_that_it_is_in(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            site='cpus = 0\ngpu_type = "h100"\n[models]\nx = 3\n',
            mine='extends = "site.toml"\nnope = 1\n',
        )

        with pytest.raises(ProfileError) as caught:
            load_profile(path)

        site = f"(set in {tmp_path / 'site.toml'})"
        own, cpus, model = sorted(caught.value.problems, key=lambda text: "cm".find(text[0]))
        assert own == "nope: is not a field of a cluster profile"
        assert (cpus[:5], model[:9]) == ("cpus:", "models.x:")
        assert cpus.endswith(site)
        assert model.endswith(site)

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({"mine": 'extends = "mine.toml"'}, "the files extend each other: mine.toml"),
            (
                {"mine": 'extends = "b.toml"', "b": 'extends = "mine.toml"'},
                "mine.toml -> b.toml -> mine.toml",
            ),
            ({"mine": 'extends = "none.toml"'}, "extends: there is no "),
            ({"mine": "extends = 3"}, "extends: must be the path of another profile"),
        ],
    )
    def test_what_cannot_be_extended_is_refused(
        self, tmp_path: Path, files: dict[str, str], words: str
    ) -> None:
        with pytest.raises(ProfileError, match=words):
            load_profile(self.write(tmp_path, **files))
