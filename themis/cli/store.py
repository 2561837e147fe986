"""`themis store`: look after the store."""

from pathlib import Path

import click

from themis.cli.options import finish, project_option, project_store


@click.group()
def command() -> None:
    """Check the store, and rebuild what follows from its events.

    \b
    Example:
        themis store check --project my-eval/project.toml
    """


@command.command()
@project_option
def rebuild(project: Path | None) -> None:
    """Drop the tables that follow from the events, and make them anew from the events.

    \b
    Example:
        themis store rebuild
    """
    from themis.storage.projections import rebuild as rebuild_projections

    with project_store(project) as store:
        count = rebuild_projections(store)
    click.echo(f"rebuilt the projections from {count:,} events")


@command.command()
@project_option
def check(project: Path | None) -> None:
    """Read every event and payload, and compare the projections with a fresh replay.

    Exits with 3 when anything differs.

    \b
    Example:
        themis store check
    """
    from themis.storage.checking import check_store

    with project_store(project) as store:
        report = check_store(store)
    for problem in report.problems:
        click.echo(problem, err=True)
    click.echo(f"checked {report.events:,} events: {len(report.problems)} problems")
    finish(3 if report.problems else 0)
