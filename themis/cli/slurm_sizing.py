"""`themis slurm calibrate`, `suggest` and `usage`: what shards will cost, and what they did."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import DIRECTORY, FILE, json_option, print_json

if TYPE_CHECKING:
    from themis_slurm.sizing import Sizing

_bundle = click.argument("bundle", type=DIRECTORY)
_profile = click.option("--profile", required=True, help="The cluster profile.")


@click.command()
@_bundle
@_profile
@click.option("--items", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--minutes",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="The time limit of the job.",
)
@click.option("--out", type=FILE, help="Where to copy the calibration, for plan and export.")
@json_option
def calibrate(
    bundle: Path, profile: str, items: int, minutes: int, out: Path | None, *, as_json: bool
) -> None:
    """Measure on a node how fast the models of BUNDLE answer, and suggest sizes of shards.

    Runs a short job with the profile's resources, and waits for it. The answers are thrown away.

    \b
    Example:
        themis slurm calibrate my-bundle --profile cluster.toml --out h100.json
        themis export generation my-eval/benchmark.toml --out new --shard-minutes 60 \\
            --calibration h100.json
    """
    from themis.cli.dispatching import read_profile
    from themis_slurm.calibrating import calibrate_on_node
    from themis_slurm.sizing import paces_of_calibration, size
    from themis_slurm.workspace import open_for_profile

    loaded = read_profile(profile)
    workspace = open_for_profile(bundle, loaded)
    file, measured = calibrate_on_node(workspace, loaded, items=items, minutes=minutes)
    if out is not None:
        out.write_bytes(file.read_bytes())
        file = out
    sizings = [size(workspace, loaded, pace) for pace in paces_of_calibration(measured)]
    _show(sizings, as_json=as_json)
    if not as_json:
        click.echo(f"measured: {file}")


@click.command()
@_bundle
@_profile
@json_option
def suggest(bundle: Path, profile: str, *, as_json: bool) -> None:
    """Suggest sizes of shards from those of BUNDLE that are complete, or its last calibration.

    \b
    Example:
        themis slurm suggest my-bundle --profile cluster.toml
    """
    from themis.cli.dispatching import read_profile
    from themis.errors import SpecValidationError
    from themis_slurm.sizing import known_paces, size
    from themis_slurm.workspace import open_for_profile

    loaded = read_profile(profile)
    workspace = open_for_profile(bundle, loaded)
    sizings = [size(workspace, loaded, pace) for pace in known_paces(workspace)]
    if not sizings:
        raise SpecValidationError(
            f"no shard of {bundle} is complete yet; `themis slurm calibrate` measures a sample"
        )
    _show(sizings, as_json=as_json)


@click.command()
@_bundle
@click.option("--profile", help="The cluster profile, when it puts results outside the bundle.")
@json_option
def usage(bundle: Path, profile: str | None, *, as_json: bool) -> None:
    """Show what Slurm's accounting says the jobs of BUNDLE used, every attempt counted.

    \b
    Example:
        themis slurm usage my-bundle
    """
    from themis.cli.dispatching import read_profile
    from themis_slurm.billing import billed
    from themis_slurm.records import read_records
    from themis_slurm.workspace import open_for_profile, open_workspace

    if profile is None:
        workspace = open_workspace(bundle)
    else:
        workspace = open_for_profile(bundle, read_profile(profile))
    found = billed(read_records(workspace.submissions))
    if as_json:
        print_json(found.to_dict())
        return
    click.echo(
        f"{found.gpu_hours:,.2f} GPU-hours and {found.cpu_hours:,.2f} CPU-hours in "
        f"{found.attempts:,} attempts of {found.hours:,.2f} hours"
    )


def _show(sizings: "list[Sizing]", *, as_json: bool) -> None:
    if as_json:
        print_json([sizing.to_dict() for sizing in sizings])
        return
    for sizing in sizings:
        pace = sizing.pace
        click.echo(
            f"{pace.model_id}: {pace.tokens_per_second:,.1f} tokens/s, start-up "
            f"{pace.start_seconds:,.1f} s, from {pace.source}"
        )
        hours, minutes = divmod(sizing.walltime_minutes, 60)
        click.echo(
            f"  suggested: --shard-minutes {sizing.shard_minutes}, "
            f'walltime = "{hours:02}:{minutes:02}:00"'
        )
        cost = f", {sizing.gpu_hours:,.2f} GPU-hours" if sizing.gpu_hours else ""
        click.echo(
            f"  this bundle: shards of up to {sizing.longest_shard_minutes:,.1f} minutes{cost}"
        )
