"""`themis slurm profile`: write a cluster profile."""

from pathlib import Path

import click

from themis.cli.options import FILE, say


@click.group()
def command() -> None:
    """Write a cluster profile.

    \b
    Example:
        themis slurm profile init --out cluster.toml
    """


@command.command()
@click.option("--out", type=FILE, help="Where the profile goes; default: the terminal.")
def init(out: Path | None) -> None:
    """Write a commented profile from what the cluster of this machine says about itself.

    It asks `sinfo`, `scontrol show config` and `sacctmgr show assoc`, once each: partitions with
    their limits and GPUs, your accounts, and the largest array. An existing file is left alone.

    \b
    Example:
        themis slurm profile init --out cluster.toml
    """
    from themis.errors import SpecValidationError
    from themis_slurm.first_profile import profile_text
    from themis_slurm.site import inspect

    text = profile_text(inspect())
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecValidationError(f"{out} exists; name another file with --out") from None
    say(f"wrote {out}; read it, then run `themis slurm doctor --profile {out}`")
