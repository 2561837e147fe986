"""`themis init`: write a benchmark, a project and a cluster profile that run as they are."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import click

from themis.cli.options import DIRECTORY
from themis.errors import SpecValidationError


@click.command("init")
@click.argument("directory", type=DIRECTORY)
def command(directory: Path) -> None:
    """Write commented examples of all three files into DIRECTORY; they run as they are.

    \b
    Example:
        themis init my-eval
        themis run my-eval/benchmark.toml
    """
    copy_template("init", directory)
    click.echo(f"{directory}: wrote benchmark.toml, project.toml, profile.toml and data/")
    click.echo(f"Next: themis run {directory / 'benchmark.toml'}")


def copy_template(name: str, directory: Path) -> None:
    """Copy a template into a new or empty directory.

    Raises:
        SpecValidationError: The directory holds something already.
    """
    if directory.exists() and any(directory.iterdir()):
        raise SpecValidationError(f"{directory}: not empty; nothing was written")
    with as_file(files("themis.cli") / "templates" / name) as template:
        shutil.copytree(template, directory, dirs_exist_ok=True)
