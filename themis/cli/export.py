"""`themis export`: write open work as a bundle."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from themis.cli.options import DIRECTORY, json_option, print_json, project_option
from themis.cli.rates import calibration_option, planning_rate
from themis.cli.trust import refuse_missing_key, sign_option, signed

if TYPE_CHECKING:
    from themis.handoff.arrangement import Arrangement, Order

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Write open work as a bundle that a machine without internet can work on.

    \b
    Example:
        themis export generation my-eval/benchmark.toml --out my-bundle
    """


_out = click.option(
    "--out", type=DIRECTORY, required=True, help="Where the bundle goes; new or empty."
)
_shard_items = click.option(
    "--shard-items",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="The most items of a shard, which is the work of one array task.",
)


def _arranged(function: F) -> F:
    """Add the options that order items and cut shards, as one `arrangement`."""

    @click.option(
        "--order",
        type=click.Choice(["plan", "longest", "prefix"]),
        default="plan",
        show_default=True,
        help="The order of items: of the plan, longest first inside a shard, or prompts that "
        "begin alike together.",
    )
    @click.option(
        "--shard-minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Cut shards by time instead: the most minutes of one, if every answer is as long "
        "as it may be.",
    )
    @click.option(
        "--tokens-per-second",
        type=click.FloatRange(min=0, min_open=True),
        help="What one GPU generates; with --shard-minutes this or --calibration is needed.",
    )
    @calibration_option
    @functools.wraps(function)
    def wrapped(
        *args: Any,
        order: "Order",
        shard_minutes: float | None,
        tokens_per_second: float | None,
        calibration: Path | None,
        **options: Any,
    ) -> Any:
        from themis.handoff.arrangement import Arrangement

        rate = planning_rate(calibration, tokens_per_second)
        arrangement = Arrangement(order, rate.without_start(shard_minutes), rate.per_engine)
        return function(*args, arrangement=arrangement, **options)

    return cast("F", wrapped)


@command.command()
@click.argument("benchmark")
@_out
@_shard_items
@_arranged
@click.option("--failed", is_flag=True, help="Also write items that failed by their own fault.")
@sign_option
@project_option
@json_option
def generation(
    benchmark: str,
    out: Path,
    shard_items: int,
    arrangement: "Arrangement",
    key: Path | None,
    project: Path | None,
    *,
    failed: bool,
    as_json: bool,
) -> None:
    """Write the candidates of BENCHMARK that are still to be generated.

    \b
    Example:
        themis export generation my-eval/benchmark.toml --out my-bundle --shard-items 2000
        themis export generation my-eval/benchmark.toml --out my-bundle --order longest
        themis export generation my-eval/benchmark.toml --out my-bundle --sign ~/.ssh/id_ed25519
    """
    from themis.handoff.export import plan_and_export
    from themis.orchestration.sessions import open_session

    refuse_missing_key(key)
    with open_session(benchmark, project) as session:
        _, exported = plan_and_export(
            session, out, shard_items=shard_items, arrangement=arrangement, include_failed=failed
        )
    _tell(exported, key, as_json=as_json)


@command.command()
@click.argument("benchmark")
@_out
@_shard_items
@sign_option
@project_option
@json_option
def evaluation(
    benchmark: str,
    out: Path,
    shard_items: int,
    key: Path | None,
    project: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write the scores of BENCHMARK that are still to be computed.

    \b
    Example:
        themis export evaluation my-eval/benchmark.toml --out my-scores
    """
    from themis.handoff.export import export_evaluation
    from themis.handoff.register import register_plan
    from themis.orchestration.sessions import open_session

    refuse_missing_key(key)
    with open_session(benchmark, project) as session:
        run = register_plan(session).run
        exported = export_evaluation(session, run, out, shard_items=shard_items)
    _tell(exported, key, as_json=as_json)


@command.command()
@click.argument("bundle", type=DIRECTORY)
@_out
@_shard_items
@_arranged
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
@sign_option
@json_option
def remaining(
    bundle: Path,
    out: Path,
    shard_items: int,
    arrangement: "Arrangement",
    results: Path | None,
    key: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write the items of BUNDLE that have no final result as a new bundle.

    Use it to spread a slow shard over more tasks. The results of both bundles can be imported,
    in any order; each item counts once. No project is needed.

    \b
    Example:
        themis export remaining my-bundle --out my-rest --shard-items 50
        themis export remaining my-bundle --out my-rest --shard-minutes 30 --tokens-per-second 900
    """
    from themis.handoff.export import export_remaining

    refuse_missing_key(key)
    exported = export_remaining(
        bundle, out, results=results, shard_items=shard_items, arrangement=arrangement
    )
    _tell(exported, key, as_json=as_json)


def _tell(exported: object, key: Path | None, *, as_json: bool) -> None:
    from themis.handoff.export import Exported

    if not isinstance(exported, Exported):
        if as_json:
            print_json({"items": 0, "shards": 0, "path": None, "digest": None})
        else:
            click.echo("Nothing is open, so no bundle was written.")
        return
    signature = signed(exported.path, key)
    if as_json:
        print_json(
            {
                "items": exported.items,
                "shards": exported.shards,
                "path": str(exported.path),
                "digest": exported.digest,
                "signature": str(signature) if signature else None,
            }
        )
        return
    click.echo(
        f"{exported.path}: {exported.items:,} items in {exported.shards} shards, "
        f"bundle {exported.digest[:12]}"
    )
    if signature:
        click.echo(f"signed: {signature}")
