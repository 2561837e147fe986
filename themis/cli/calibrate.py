"""`themis calibrate`: measure how fast the models of a bundle answer here."""

from pathlib import Path

import click

from themis.cli.options import (
    DIRECTORY,
    FILE,
    engine_options,
    json_option,
    parse_engine_options,
    parse_pairs,
    print_json,
)


@click.command()
@click.argument("bundle", type=DIRECTORY)
@click.option(
    "--items",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="How many items of each model to time; fewer than fill a batch give too low a rate.",
)
@click.option("--model-id", help="Only this model of the bundle.")
@click.option("--out", type=FILE, help="Where to write the measurements, for plan and export.")
@engine_options
@json_option
def command(
    bundle: Path,
    items: int,
    model_id: str | None,
    out: Path | None,
    models: tuple[str, ...],
    engine_settings: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Answer a sample of BUNDLE and throw the answers away: tokens per second, and start-up.

    Run it on the kind of node that will do the work, with the same engine options.

    \b
    Example:
        themis calibrate my-bundle --items 256 --out h100.json
        themis export generation my-eval/benchmark.toml --out my-bundle --shard-minutes 60 \\
            --calibration h100.json
    """
    from themis.generation.calibration import calibrate, write_calibration
    from themis.generation.worker import WorkOptions

    options = WorkOptions(
        model_paths=parse_pairs(models, "--model"),
        engine_options=parse_engine_options(engine_settings),
    )
    measured = calibrate(bundle, options, items=items, model_id=model_id)
    if out is not None:
        write_calibration(out, measured)
    if as_json:
        print_json({"models": [each.to_dict() for each in measured]})
        return
    for each in measured:
        click.echo(
            f"{each.model_id}: {each.tokens_per_second:,.1f} tokens/s of answers over "
            f"{each.items} items ({each.failed} failed), start-up {each.start_seconds:,.1f} s"
        )
