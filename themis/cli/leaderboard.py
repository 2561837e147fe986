"""`themis leaderboard`: models in order, with the doubt that belongs to the order."""

from pathlib import Path

import click

from themis.cli.options import json_option, print_json, project_option, project_store


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
@json_option
def command(
    run: str,
    by: tuple[str, ...],
    metric: str | None,
    weights: str,
    project: Path | None,
    *,
    as_json: bool,
) -> None:
    """Rank the models of RUN; those that the data cannot tell from the first are marked.

    \b
    Example:
        themis leaderboard my-eval --by slice_id
    """
    from themis.cli.tables import print_tables
    from themis.errors import SpecValidationError
    from themis.results.leaderboard import leaderboard
    from themis.results.report.tables import leaderboard_table
    from themis.storage.plans import find_run
    from themis.storage.tables import read_scores

    with project_store(project) as store:
        found = find_run(store, run)
        table = read_scores(store, found)
    try:
        rows = leaderboard(
            table,
            metric_id=metric,
            group_by=by,
            weights="macro" if weights == "macro" else "micro",
        )
    except ValueError as error:
        raise SpecValidationError(str(error)) from error
    if as_json:
        print_json({"run_id": found.run_id, "rows": [row.to_dict() for row in rows]})
        return
    print_tables([leaderboard_table(rows)])
