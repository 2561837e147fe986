"""`themis demo`: the whole job on a real small model and real questions."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from themis.cli.options import DIRECTORY, FILE, finish, say

if TYPE_CHECKING:
    from themis.orchestration.run import Dispatch
    from themis.specs import BenchmarkSpec

MODEL = "SmolLM2-135M-Instruct"

SHARD_ITEMS = 40
"""Small enough that a cluster has something to share out, large enough for full batches."""


@click.command()
@click.option("--dir", "directory", type=DIRECTORY, default="demo-out", show_default=True)
@click.option(
    "--engine",
    type=click.Choice(["hf", "vllm"]),
    default="hf",
    show_default=True,
    help="What runs the model.",
)
@click.option("--gsm8k", type=FILE, help="A GSM8K file, instead of the questions shipped.")
@click.option("--questions", type=click.IntRange(min=1), help="Questions for each slice.")
@click.option("--slurm/--no-slurm", default=None, help="Default: Slurm when it answers.")
def command(
    directory: Path,
    engine: str,
    gsm8k: Path | None,
    questions: int | None,
    *,
    slurm: bool | None,
) -> None:
    """Let SmolLM2-135M-Instruct answer real questions through the whole job.

    It converts the model once, plans, writes a bundle, works on it through Slurm where there
    is one and in local processes otherwise, imports, scores, compares two ways to ask, and
    writes a report. Running it again does nothing, and says so.

    \b
    Example:
        themis demo --questions 8
    """
    from themis.cli.report import write_report
    from themis.cli.scaffold import copy_template
    from themis.cli.tables import print_scores
    from themis.orchestration.run import run_benchmark
    from themis.orchestration.sessions import open_session
    from themis.results.reporting import report_data
    from themis.storage.tables import read_scores

    if not (directory / "benchmark.toml").exists():
        copy_template("demo", directory)
    model = _prepare_model()
    with open_session(str(directory / "benchmark.toml")) as opened:
        benchmark = _adapt(opened.benchmark, engine, gsm8k, questions)
        session = dataclasses.replace(opened, benchmark=benchmark)
        dispatch = _choose_dispatch(model, slurm=slurm)
        outcome = run_benchmark(session, dispatch, shard_items=SHARD_ITEMS, say=say)
        if outcome.did_nothing:
            say("nothing to do: everything was generated and scored before")
        run = outcome.plan.run
        print_scores(run, read_scores(session.store, run))
        for name in ("report.html", "report.md"):
            write_report(report_data(session.store, run), directory / name)
    click.echo(f"report: {directory / 'report.html'}")
    click.echo(f"look at it again with: themis results --project {directory / 'project.toml'}")
    finish(1 if outcome.failed else 0)


def _prepare_model() -> Path:
    """Return the model's directory, converting the checkpoint the first time."""
    from themis.providers.gguf import convert_gguf, packaged_smollm2
    from themis.providers.models import cache_directory

    destination = cache_directory() / "models" / MODEL
    if not destination.exists():
        say(f"converting {MODEL} to {destination} (once, about two minutes)")
    found = convert_gguf(packaged_smollm2(), destination)
    say(f"model {MODEL}, digest {found.digest[:12]}, at {found.path}")
    return found.path


def _adapt(
    benchmark: "BenchmarkSpec", engine: str, gsm8k: Path | None, questions: int | None
) -> "BenchmarkSpec":
    """Return the benchmark with what the options change."""
    from themis.specs import DatasetQuerySpec, DatasetSource

    slices = []
    for part in benchmark.slices:
        changes: dict[str, Any] = {}
        if gsm8k is not None and part.dataset.source is DatasetSource.LOCAL:
            changes["dataset"] = part.dataset.model_copy(update={"data_dir": str(gsm8k.resolve())})
            changes["dataset_query"] = DatasetQuerySpec()
        if questions is not None:
            changes["dataset_query"] = DatasetQuerySpec.subset(questions)
        slices.append(part.model_copy(update=changes))
    models = [model.model_copy(update={"provider": engine}) for model in benchmark.models]
    return benchmark.model_copy(update={"slices": slices, "models": models})


def _choose_dispatch(model: Path, *, slurm: bool | None) -> "Dispatch":
    """Return the dispatch through Slurm when it answers (or is asked for), else a local pool."""
    from themis.cli.dispatching import dispatch_to
    from themis_slurm.profile import ClusterProfile

    # float32: the same text from every engine and batch size (docs/performance.md).
    # A short context keeps vLLM's key-value cache small on a machine without a GPU.
    engine: dict[str, Any] = {"dtype": "float32", "vllm": {"max_model_len": 2048}}
    shared: dict[str, Any] = {"models": {MODEL: str(model)}, "engine": engine}
    if slurm if slurm is not None else _slurm_answers():
        say("working through Slurm")
        return dispatch_to(ClusterProfile(mem_gb=3, walltime=30, signal_margin_s=60, **shared))
    say("working in a process of this machine")
    cores = os.cpu_count() or 1
    return dispatch_to(ClusterProfile(kind="local", slots=1, cpus=cores, **shared))


def _slurm_answers() -> bool:
    """Tell whether there is a Slurm here with at least one partition."""
    from themis_slurm.errors import SchedulerError
    from themis_slurm.scheduler import ask

    try:
        return bool(ask(["sinfo", "-h", "-o", "%P"]).strip())
    except SchedulerError:
        return False
