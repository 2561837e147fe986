"""`themis slurm status`, `watch`, `logs` and `retry`: look at a bundle's shards, and ask again."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import DIRECTORY, finish, json_option, print_json, say

if TYPE_CHECKING:
    from themis_slurm.fleet import Fleet
    from themis_slurm.status import ClusterStatus, ShardRow
    from themis_slurm.workspace import Workspace

bundle_argument = click.argument("bundle", type=DIRECTORY)
profile_option = click.option(
    "--profile", help="The cluster profile, when it puts results outside the bundle."
)

# What ended is asked about soon, and then the command ends.
LAST_LOOK_S = 2.0
FOLLOW_S = 0.5
# Between two questions to Slurm while a log is followed.
ASK_S = 15.0


def workspace_of(bundle: Path, profile: str | None) -> "Workspace":
    """Open a bundle where a profile puts its results."""
    from themis.cli.dispatching import read_profile
    from themis_slurm.workspace import open_for_profile, open_workspace

    if profile is None:
        return open_workspace(bundle)
    return open_for_profile(bundle, read_profile(profile))


@click.command()
@bundle_argument
@profile_option
@json_option
def status(bundle: Path, profile: str | None, *, as_json: bool) -> None:
    """Show what is done, what runs, and why the rest does not.

    Exits with 1 while BUNDLE is incomplete.

    \b
    Example:
        themis slurm status my-bundle
    """
    from themis.cli.slurm_view import print_status

    found = _read_status(bundle, profile)
    if as_json:
        print_json(found.to_dict())
    else:
        print_status(found)
    finish(0 if found.complete else 1)


@click.command()
@bundle_argument
@profile_option
@click.option("--every", type=click.FloatRange(min=2), default=30.0, show_default=True)
def watch(bundle: Path, profile: str | None, every: float) -> None:
    """Show the status every few seconds until BUNDLE is complete or nothing moves.

    Asks the scheduler at most one question each time. Off a terminal it prints a line whenever
    something changed. Ctrl-C ends the watching and leaves the jobs running. Exits with 0 when
    BUNDLE is complete, with 1 otherwise.

    \b
    Example:
        themis slurm watch my-bundle --every 60
    """
    from themis_slurm.fleet import fleet_for
    from themis_slurm.status import StatusReader

    workspace = workspace_of(bundle, profile)
    with fleet_for(workspace) as fleet:
        reader = StatusReader(workspace, fleet, one_question=True)
        show = _watch_terminal if sys.stdout.isatty() else _watch_lines
        try:
            found = show(reader.read, every)
        except KeyboardInterrupt:
            say(
                "No longer watching. The jobs go on; the same command shows them again, and "
                "`themis slurm cancel` stops them."
            )
            finish(1)
            return
    finish(0 if found.complete else 1)


def _watch_terminal(read: Callable[[], "ClusterStatus"], every: float) -> "ClusterStatus":
    from rich.live import Live

    from themis.cli.slurm_view import picture

    footer = f"Looks every {every:g} s. Ctrl-C leaves the jobs running."
    with Live(auto_refresh=False) as live:
        while True:
            found = read()
            ended = _has_ended(found)
            live.update(picture(found, "" if ended else footer), refresh=True)
            if ended:
                return found
            time.sleep(_pause(found, every))


def _watch_lines(read: Callable[[], "ClusterStatus"], every: float) -> "ClusterStatus":
    from themis.cli.dispatching import complaints, status_line

    last = ""
    while True:
        found = read()
        line = status_line(found)
        if line != last:
            click.echo(line)
        last = line
        if _has_ended(found):
            for complaint in complaints(found):
                click.echo(complaint)
            return found
        time.sleep(_pause(found, every))


def _has_ended(found: "ClusterStatus") -> bool:
    from themis_slurm.evidence import Cause

    moving = found.with_cause(Cause.RUNNING, Cause.PENDING, Cause.UNKNOWN)
    return found.complete or not moving


def _pause(found: "ClusterStatus", every: float) -> float:
    """Give how long to wait; briefly when only the words for what ended are missing."""
    from themis_slurm.evidence import Cause

    alive = found.with_cause(Cause.RUNNING, Cause.PENDING)
    return every if alive or found.scheduler_error else min(every, LAST_LOOK_S)


@click.command()
@bundle_argument
@profile_option
@click.option("--shard", type=click.IntRange(min=0), help="The shard; default: the first failed.")
@click.option("--lines", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--follow", is_flag=True, help="Go on printing until the shard has ended.")
def logs(bundle: Path, profile: str | None, shard: int | None, lines: int, *, follow: bool) -> None:
    """Show the end of a shard's last log, of the first failed one unless --shard names another.

    \b
    Example:
        themis slurm logs my-bundle --shard 7 --follow
    """
    from themis.errors import SpecValidationError
    from themis.results.report.terminal import printable
    from themis_slurm.submit import logs_of

    workspace = workspace_of(bundle, profile)
    if shard is None:
        row = _first_failed(_read_status(bundle, profile))
        if row is None:
            say("no shard has failed; name one with --shard")
            return
        shard = row.shard
        say(printable(f"shard {shard}: {row.cause.value}: {row.detail or row.cause.advice}"))
    found = logs_of(workspace, shard)
    if not found:
        raise SpecValidationError(
            f"shard {shard} has no log: it was never submitted, or not started"
        )
    click.echo(f"# {found[-1]}")
    content = found[-1].read_bytes()
    for line in content.decode("utf-8", "replace").splitlines()[-lines:]:
        click.echo(printable(line))
    if follow:
        _follow(workspace, shard, found[-1], len(content))


def _first_failed(found: "ClusterStatus") -> "ShardRow | None":
    return next((row for row in found.rows if row.cause.advice), None)


def _follow(workspace: "Workspace", shard: int, log: Path, offset: int) -> None:
    """Print what a log grows by, until its shard is neither running nor waiting."""
    from themis.results.report.terminal import printable
    from themis_slurm.fleet import fleet_for

    with fleet_for(workspace) as fleet:
        asked_at = time.monotonic()
        alive = _is_alive(workspace, fleet, shard)
        while True:
            with log.open("rb") as stream:
                stream.seek(offset)
                grown = stream.read()
            # Half a line waits for its other half, unless nobody will write it.
            whole = grown[: grown.rfind(b"\n") + 1] if alive else grown
            for line in whole.decode("utf-8", "replace").splitlines():
                click.echo(printable(line))
            offset += len(whole)
            if not alive:
                return
            time.sleep(FOLLOW_S)
            if _is_done(workspace, shard):
                alive = False
            elif time.monotonic() - asked_at >= ASK_S:
                asked_at = time.monotonic()
                alive = _is_alive(workspace, fleet, shard)


def _is_done(workspace: "Workspace", shard: int) -> bool:
    from themis_bundles import shard_state

    return shard_state(workspace.bundle, shard).done


def _is_alive(workspace: "Workspace", fleet: "Fleet", shard: int) -> bool:
    """Tell whether somebody works on a shard; a Slurm that does not answer ends nothing."""
    from themis_slurm.errors import SchedulerError
    from themis_slurm.submit import alive_shards

    try:
        return not _is_done(workspace, shard) and shard in alive_shards(workspace, fleet)
    except SchedulerError:
        return True


@click.command()
@bundle_argument
@click.option("--profile", required=True, help="The cluster profile.")
@click.option("--shard", "shards", type=click.IntRange(min=0), multiple=True)
@click.option("--failed", is_flag=True, help="Every shard that ended incomplete.")
@click.option(
    "--exclude-bad-nodes/--any-node",
    default=True,
    help="Whether to keep away from nodes that tasks found unfit; by default it does.",
)
@json_option
def retry(
    bundle: Path,
    profile: str,
    shards: tuple[int, ...],
    *,
    failed: bool,
    exclude_bad_nodes: bool,
    as_json: bool,
) -> None:
    """Submit shards again that failed, were cancelled, or were given up.

    Their tries count anew. A shard that is complete, runs or waits is refused when --shard
    names it.

    \b
    Example:
        themis slurm retry my-bundle --profile cluster.toml --failed
    """
    from themis.cli.dispatching import read_profile
    from themis_slurm.fleet import fleet_for
    from themis_slurm.retry import retry as retry_shards
    from themis_slurm.workspace import open_for_profile

    if failed == bool(shards):
        raise click.UsageError("give either --shard, once or more, or --failed")
    loaded = read_profile(profile)
    if loaded.kind != "slurm":
        raise click.UsageError("a profile of kind local: `themis slurm submit` tries all again")
    workspace = open_for_profile(bundle, loaded)
    with fleet_for(workspace, loaded) as fleet:
        made = retry_shards(
            workspace,
            loaded,
            fleet,
            shards=shards or None,
            avoid_unfit_nodes=exclude_bad_nodes,
        )
    if as_json:
        jobs = [record.job_id for record in made.records]
        chosen = sorted(shard for record in made.records for shard in record.shards)
        print_json({"jobs": jobs, "shards": chosen, "refused": made.refused})
        return
    for record in made.records:
        away = ", away from " + ", ".join(record.excluded_nodes) if record.excluded_nodes else ""
        click.echo(f"submitted {len(record.shards)} shards as job {record.job_id}{away}")
    if made.refused:
        click.echo(f"the scheduler took no more: {made.refused}", err=True)
    if not made.records:
        click.echo("nothing to submit: no shard ended incomplete")


def _read_status(bundle: Path, profile: str | None) -> "ClusterStatus":
    from themis_slurm.fleet import fleet_for
    from themis_slurm.status import StatusReader

    workspace = workspace_of(bundle, profile)
    with fleet_for(workspace) as fleet:
        return StatusReader(workspace, fleet).read()
