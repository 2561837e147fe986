"""`themis config-report`: what was configured, without secrets."""

import importlib
from pathlib import Path
from typing import Any

import click

from themis.cli.options import FILE, project_option


@click.command()
@click.argument("benchmark", required=False)
@project_option
@click.option("--run", "--run-id", metavar="RUN", help="What this run of the store was made from.")
@click.option(
    "--factory",
    metavar="MODULE:FUNCTION",
    help="Report what this function returns; it is imported and called.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "yaml", "markdown", "latex"]),
    default="markdown",
    show_default=True,
)
@click.option(
    "--verbosity",
    type=click.Choice(["default", "full"]),
    default="default",
    show_default=True,
    help="What was chosen, or every field.",
)
@click.option("--out", "--output", type=FILE, help="A file, instead of the screen.")
def command(
    benchmark: str | None,
    project: Path | None,
    run: str | None,
    factory: str | None,
    form: str,
    verbosity: str,
    out: Path | None,
) -> None:
    """Write what BENCHMARK and its project are configured with, for a paper or a colleague.

    Passwords and keys are never written, those inside database addresses included.

    \b
    Example:
        themis config-report my-eval/benchmark.toml --format latex --out setup.tex
    """
    from typing import cast

    from themis.results.report.config_report import generate_config_report

    if sum(given is not None for given in (benchmark, run, factory)) > 1:
        raise click.UsageError("give one of BENCHMARK, --run and --factory")
    if factory is not None:
        config = _made(factory)
    elif run is not None:
        config = _of_run(run, project)
    else:
        config = _of_files(benchmark, project)
    text = generate_config_report(
        config, form, out, entrypoint="themis config-report", verbosity=cast("Any", verbosity)
    )
    if out is None:
        click.echo(text, nl=False)
    else:
        click.echo(f"{out}: {len(text.encode()) / 1024:,.0f} KB")


def _of_files(benchmark: str | None, project: Path | None) -> dict[str, Any]:
    from themis.orchestration.sessions import find_project
    from themis.specs.loading import load_benchmark, load_project

    if benchmark is None:
        return {"project": load_project(project or find_project(Path.cwd())).spec}
    loaded = load_benchmark(benchmark)
    found = load_project(project or find_project(loaded.base_dir, Path.cwd()))
    return {"project": found.spec, "benchmark": loaded.spec}


def _of_run(run: str, project: Path | None) -> dict[str, Any]:
    from themis.orchestration.sessions import find_project, open_project_store
    from themis.results.reporting import run_config
    from themis.specs.loading import load_project
    from themis.storage.plans import find_run

    loaded = load_project(project or find_project(Path.cwd()))
    with open_project_store(loaded, create=False) as store:
        return run_config(store, find_run(store, run), loaded.spec)


def _made(factory: str) -> Any:
    from themis.errors import SpecValidationError

    module, _, name = factory.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SpecValidationError(f"--factory {factory}: {error}") from error
