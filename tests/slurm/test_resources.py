"""What one shard asks for."""

from themis_slurm.profile import ClusterProfile
from themis_slurm.resources import flags, resource_options


def test_resources_become_flags_of_srun_and_sbatch() -> None:
    profile = ClusterProfile(
        partition="gpu", gpus=2, gpu_type="h100", mem_gb=8, sbatch={"gpu_cmode": "shared"}
    )

    assert set(flags(resource_options(profile))) == {
        "--partition=gpu",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--mem=8192M",
        "--gpus-per-node=h100:2",
        "--gpu-cmode=shared",
    }
