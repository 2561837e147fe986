"""The command line reference is what the commands say of themselves."""

import importlib.util
from pathlib import Path
from typing import Any

import click
import pytest

from themis.cli import main
from themis.cli.main import COMMANDS, HELP_OPTIONS

DOCS = Path(__file__).parents[2] / "docs"


def _commands() -> list[tuple[str, click.Command]]:
    context = click.Context(main)
    found: list[tuple[str, click.Command]] = []

    def collect(path: str, command: click.Command | None) -> None:
        assert command is not None
        found.append((path, command))
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                collect(f"{path} {name}", child)

    for name in COMMANDS:
        collect(f"themis {name}", main.get_command(context, name))
    return found


def test_the_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", DOCS / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    generate: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    assert (DOCS / "cli.md").read_text() == generate.reference().rstrip() + "\n"


@pytest.mark.parametrize(("path", "command"), _commands(), ids=str)
def test_every_command_says_what_it_does_and_shows_an_example(
    path: str, command: click.Command
) -> None:
    context = click.Context(command, info_name=path, help_option_names=HELP_OPTIONS)
    text = command.get_help(context)

    assert "Example:" in text
    assert path.split()[1] in text
