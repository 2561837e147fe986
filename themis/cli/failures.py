"""`themis failures`: what failed, and why."""

from pathlib import Path

import click

from themis.cli.options import (
    json_option,
    print_json,
    project_option,
    project_store,
)


@click.command()
@click.argument("run", default="latest")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@project_option
@json_option
def command(run: str, limit: int, project: Path | None, *, as_json: bool) -> None:
    """List the candidates of RUN that failed or have not come back.

    RUN is a run's id, the start of one, a benchmark's id, or `latest`.

    \b
    Example:
        themis failures my-eval --limit 50
    """
    from itertools import islice

    from themis.results.report.terminal import printable
    from themis.storage.plans import find_run
    from themis.storage.tables import iter_candidates

    with project_store(project) as store:
        found = iter_candidates(store, find_run(store, run), failed_only=True)
        rows = list(islice(found, limit + 1))
    if as_json:
        print_json(
            [
                {
                    "trial": row.trial_hash,
                    "sample": row.sample,
                    "model_id": row.model["model_id"],
                    "slice_id": row.slice_id,
                    "prompt_variant_id": row.prompt_variant_id,
                    "item_id": row.item_id,
                    "status": row.status,
                    "error": None if row.output is None else row.output.get("error"),
                }
                for row in rows[:limit]
            ]
        )
        return
    for row in rows[:limit]:
        error = {} if row.output is None else row.output.get("error", {})
        why = f"{error['code']}: {error['message']}" if error else "no result yet"
        click.echo(
            f"{row.status:<12} {row.slice_id}/{row.item_id} {row.model['model_id']} "
            f"{row.prompt_variant_id} #{row.sample}: {printable(why)}"
        )
    if len(rows) > limit:
        click.echo(f"… and more; raise --limit {limit}")
    if not rows:
        click.echo("Nothing failed and nothing is missing.")
