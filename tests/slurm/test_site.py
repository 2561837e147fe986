"""A profile to start from, for clusters of several kinds."""

import tomllib
from pathlib import Path

import pytest

from themis_slurm.first_profile import profile_text
from themis_slurm.profile import ClusterProfile
from themis_slurm.site import (
    Account,
    Site,
    parse_accounts,
    parse_config,
    parse_partitions,
)

SINFO = """\
cpu*|up|2-00:00:00|100|128|515000|(null)
gpu|up|1-00:00:00|12|64+|1031000+|gpu:h100:4(S:0-1)
old|down|infinite|3|32|257000|gpu:v100:2,nvme:1
"""


def site(sinfo: str = SINFO, *accounts: Account, requeue: bool = True) -> Site:
    return Site("ember", "24.05.3", 1001, requeue, tuple(parse_partitions(sinfo)), accounts)


def test_partitions_are_read_with_limits_and_gpus() -> None:
    cpu, gpu, old = parse_partitions(SINFO)

    assert (cpu.default, cpu.minutes, cpu.gpus) == (True, 2880, 0)
    assert (gpu.cpus, gpu.memory_mb, gpu.gpu_type, gpu.gpus) == (64, 1031000, "h100", 4)
    assert (old.up, old.minutes, old.gpu_type, old.gpus) == (False, None, "v100", 2)


def test_gpus_without_a_name_are_counted() -> None:
    (found,) = parse_partitions("gpu|up|30:00|1|8|32000|gpu:2\n")

    assert (found.gpu_type, found.gpus, found.minutes) == ("", 2, 30)


def test_limits_and_accounts_are_read() -> None:
    config = dict(parse_config("Configuration data\nMaxArraySize            = 1001\nX = a=b\n"))
    accounts = list(parse_accounts("lab|normal,long|500\n|x|\nother||\n"))

    assert config == {"MaxArraySize": "1001", "X": "a=b"}
    assert accounts == [Account("lab", ("normal", "long"), 500), Account("other", (), None)]


def test_the_profile_is_valid_and_gives_a_shard_its_share_of_a_gpu_node() -> None:
    text = profile_text(site(SINFO, Account("lab", ("normal",), 500), Account("b", (), None)))

    profile = ClusterProfile.model_validate(tomllib.loads(text))

    assert (profile.partition, profile.account) == ("gpu", "lab")
    assert (profile.gpus, profile.gpu_type, profile.cpus, profile.mem_gb) == (1, "h100", 16, 226)
    assert (profile.walltime, profile.max_submit) == (120, 250)
    assert "# cpu*               100   128  503 GiB   -             2-00:00:00" in text
    assert '# account = "b"' in text


@pytest.mark.parametrize(
    ("sinfo", "requeue"),
    [
        ("", True),
        ("tiny|up|1:00|1|1|512|(null)\n", False),
        ("a|down|5:00|1|4|900|gpu:2\n", True),
    ],
)
def test_a_small_or_strange_cluster_gives_a_valid_profile_too(sinfo: str, *, requeue: bool) -> None:
    text = profile_text(Site("", "22.05", None, requeue, tuple(parse_partitions(sinfo)), None))

    profile = ClusterProfile.model_validate(tomllib.loads(text))

    assert profile.requeue is requeue
    assert "keeps no accounts" in text


def test_the_shipped_h100_profile_builds_on_the_generic_one() -> None:
    shipped = Path(__file__).parents[2] / "slurm" / "profiles" / "h100-apptainer.toml"

    assert tomllib.loads(shipped.read_text())["extends"] == "generic-gpu.toml"
