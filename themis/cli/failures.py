"""`themis failures`: what failed, and why."""

from pathlib import Path

import click

from themis.cli.options import project_option, project_store
from themis.cli.rows import format_options, print_rows


@click.command()
@click.argument("run", default="latest")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@project_option
@format_options
def command(run: str, limit: int, project: Path | None, *, as_json: bool, as_csv: bool) -> None:
    """List what has no score in RUN, and why: candidates first, then metrics that failed.

    RUN is a run's id, the start of one, a benchmark's id, or `latest`.

    \b
    Example:
        themis failures my-eval --limit 50
    """
    from itertools import islice

    from themis.results.report.terminal import printable
    from themis.results.result import BenchmarkResult
    from themis.storage.plans import find_run

    with project_store(project) as store:
        result = BenchmarkResult(store, find_run(store, run))
        rows = list(islice(result.iter_failures(), limit + 1))
    head = {"run_id": result.run_id, "more": len(rows) > limit}
    if print_rows(rows[:limit], head, as_json=as_json, as_csv=as_csv):
        return
    for row in rows[:limit]:
        why = f"{row['code']}: {row['message']}" if row["code"] else row["message"]
        what = f" {row['metric_id']}" if row["metric_id"] else ""
        click.echo(
            f"{row['status']:<13} {row['slice_id']}/{row['item_id']} {row['model_id']} "
            f"{row['prompt_variant_id']} #{row['sample']}{what}: {printable(why)}"
        )
    if len(rows) > limit:
        click.echo(f"… and more; raise --limit {limit}")
    if not rows:
        click.echo("Nothing failed and nothing is missing.")
