"""`themis leaderboard`: models in order, with the doubt that belongs to the order."""

from pathlib import Path

import click

from themis.cli.options import project_option, project_store
from themis.cli.rows import as_usage, format_options, print_rows


@click.command()
@click.argument("run", default="latest")
@click.option("--by", multiple=True, help="One ranking for each value of this key.")
@click.option("--metric", help="Only this metric.")
@click.option(
    "--weights",
    type=click.Choice(["micro", "macro"]),
    default="micro",
    show_default=True,
    help="Every item counts the same, or every slice.",
)
@project_option
@format_options
def command(
    run: str,
    by: tuple[str, ...],
    metric: str | None,
    weights: str,
    project: Path | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Rank the models of RUN; those that the data cannot tell from the first are marked.

    \b
    Example:
        themis leaderboard my-eval --by slice_id
    """
    from themis.cli.tables import print_tables
    from themis.results.leaderboard import leaderboard
    from themis.results.reading import read_table
    from themis.results.report.tables import leaderboard_table
    from themis.storage.plans import find_run

    with project_store(project) as store, as_usage():
        found = find_run(store, run)
        rows = leaderboard(
            read_table(store, found, by),
            metric_id=metric,
            group_by=by,
            weights="macro" if weights == "macro" else "micro",
        )
    flat = [row.to_dict() for row in rows]
    if not print_rows(flat, {"run_id": found.run_id}, as_json=as_json, as_csv=as_csv):
        print_tables([leaderboard_table(rows)])
