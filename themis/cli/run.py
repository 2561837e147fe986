"""`themis run`: the whole job with one command."""

from pathlib import Path

import click

from themis.cli.options import (
    engine_options,
    finish,
    json_option,
    parse_engine_options,
    parse_pairs,
    print_json,
    project_option,
    say,
)


@click.command()
@click.argument("benchmark")
@project_option
@click.option("--profile", help="A cluster profile; without one the work is done in this process.")
@click.option("--shard-items", type=click.IntRange(min=1), default=512, show_default=True)
@engine_options
@json_option
def command(
    benchmark: str,
    project: Path | None,
    profile: str | None,
    shard_items: int,
    models: tuple[str, ...],
    engine_settings: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Plan BENCHMARK, generate, import and score what is open, and show the scores.

    The same command continues after any interruption, and does nothing when all is done.

    \b
    Example:
        themis run my-eval/benchmark.toml --model SmolLM2-135M-Instruct=models/smollm2
    """
    from themis.cli.dispatching import choose_dispatch
    from themis.cli.tables import print_scores
    from themis.orchestration.run import run_benchmark
    from themis.orchestration.sessions import open_session
    from themis.results.reporting import default_aggregates
    from themis.storage.tables import read_scores

    with open_session(benchmark, project) as session:
        dispatch = choose_dispatch(
            profile,
            session,
            model_paths={**session.model_paths, **parse_pairs(models, "--model")},
            engine_options=parse_engine_options(engine_settings),
        )
        outcome = run_benchmark(session, dispatch, shard_items=shard_items, say=say)
        if outcome.did_nothing:
            say("nothing to do: everything was generated and scored before")
        table = read_scores(session.store, outcome.plan.run)
    if as_json:
        print_json(
            {
                "run_id": outcome.plan.run.run_id,
                "candidates": outcome.plan.candidates,
                "generated": outcome.generated,
                "scored": outcome.scored,
                "failed": outcome.failed,
                "rows": [row.to_dict() for row in default_aggregates(table)],
            }
        )
    else:
        print_scores(outcome.plan.run, table)
    if outcome.failed:
        say(
            f"{outcome.failed:,} candidates failed or are missing: `themis failures` lists them, "
            "and the same command continues"
        )
    finish(1 if outcome.failed else 0)
