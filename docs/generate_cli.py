"""Write docs/cli.md from the commands themselves: `python docs/generate_cli.py`.

A test compares the file with what this gives, so the reference cannot drift.
"""

from pathlib import Path

import click

from themis.cli import main
from themis.cli.main import COMMANDS, HELP_OPTIONS

HEAD = """# Command line

This page is made from the commands' own help: `python docs/generate_cli.py`.

Exit codes: 0 done; 1 the work ran and something failed or is incomplete; 2 bad usage or an invalid
input file; 3 verification refused (tampered, foreign, corrupt); 4 the environment lacks something
(a library, Slurm, a model directory).

"""


def reference() -> str:
    """Return the whole page."""
    top = click.Context(main, info_name="themis")
    parts = [HEAD]
    for name in COMMANDS:
        if command := main.get_command(top, name):
            parts.extend(_pages(command, f"themis {name}"))
    return "".join(parts)


def _pages(command: click.Command, path: str) -> list[str]:
    context = click.Context(
        command, info_name=path, terminal_width=96, help_option_names=HELP_OPTIONS
    )
    level = "#" * (path.count(" ") + 1)
    pages = [f"{level} {path}\n\n```text\n{command.get_help(context).strip()}\n```\n\n"]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            pages.extend(_pages(child, f"{path} {name}"))
    return pages


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference().rstrip() + "\n")
