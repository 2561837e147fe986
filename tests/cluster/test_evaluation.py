"""Scores dispatched as shards, with a metric that only the user's own module has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from themis_bundles import Bundle, verify
from themis_slurm.evidence import Cause
from themis_slurm.fleet import fleet_for
from themis_slurm.status import StatusReader
from themis_slurm.workspace import open_workspace

pytestmark = pytest.mark.cluster

PLUGIN = """
from themis.evaluation import MetricResult

class Ends:
    def score(self, *, text, answer, payload, reference_field):
        return MetricResult(float(text.rstrip().endswith("7")))

def register(registry):
    registry.register_metric("ends_with_seven", Ends, version="VERSION")
"""
PROFILE = """
partition = "main"
account = "dev"
mem_gb = 0.9
walltime = 10
signal_margin_s = 60
"""


def themis(folder: Path, *words: str, code: int = 0) -> str:
    program = "from themis.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Generated answers that two metrics, one of them the user's own, have not scored yet."""
    themis(tmp_path, "init", ".")
    (tmp_path / "own_metrics.py").write_text(PLUGIN.replace("VERSION", "1.0"))
    settings = tmp_path / "project.toml"
    settings.write_text('plugins = ["own_metrics"]\n' + settings.read_text())
    benchmark = tmp_path / "benchmark.toml"
    text = benchmark.read_text()
    assert text.count("metrics = [") == 1
    benchmark.write_text(text.replace("metrics = [", 'metrics = ["ends_with_seven", '))
    themis(tmp_path, "export", "generation", "benchmark.toml", "--out", "answers")
    themis(tmp_path, "work", "answers", "--all")
    themis(tmp_path, "import", "answers")
    themis(
        *(tmp_path, "export", "evaluation", "benchmark.toml", "--out", "scores"),
        *("--shard-items", "20"),
    )
    (tmp_path / "cluster.toml").write_text(PROFILE + 'plugins = ["own_metrics"]\n')
    return tmp_path


def wait(bundle: Path) -> None:
    themis(bundle.parent, "slurm", "watch", bundle.name, "--every", "2")


def test_scores_of_a_users_own_metric_come_from_the_nodes(cluster: object, project: Path) -> None:
    assert cluster
    themis(project, "slurm", "submit", "scores", "--profile", "cluster.toml")
    wait(project / "scores")

    assert verify(Bundle.open(project / "scores"), require_results=True).complete
    themis(project, "import", "scores")
    assert "ends_with_seven" in themis(project, "results")


def test_a_node_with_another_version_of_the_metric_refuses_the_shard(
    cluster: object, project: Path
) -> None:
    assert cluster
    (project / "own_metrics.py").write_text(PLUGIN.replace("VERSION", "2.0"))
    themis(project, "slurm", "submit", "scores", "--profile", "cluster.toml")
    themis(project, "slurm", "watch", "scores", "--every", "2", code=1)

    workspace = open_workspace(project / "scores")
    with fleet_for(workspace) as fleet:
        rows = StatusReader(workspace, fleet).read().rows
    assert {row.cause for row in rows} == {Cause.BAD_INPUT}
    assert all("ends_with_seven" in row.detail for row in rows)
