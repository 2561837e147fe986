"""`themis results`: the scores of a run."""

from pathlib import Path

import click

from themis.cli.options import json_option, print_json, project_option, project_store


@click.command()
@click.argument("run", default="latest")
@click.option("--by", multiple=True, help="Group by this key or dimension; may be repeated.")
@click.option("--metric", help="Only this metric.")
@click.option("--cluster-by", help="A key whose items resemble each other (standard errors).")
@click.option("--estimator", default="mean", show_default=True, help="mean, pass@K, maj@K …")
@project_option
@json_option
def command(
    run: str,
    by: tuple[str, ...],
    metric: str | None,
    cluster_by: str | None,
    estimator: str,
    project: Path | None,
    *,
    as_json: bool,
) -> None:
    """Show the scores of RUN with their intervals and everything that was planned.

    RUN is a run's id, the start of one, a benchmark's id, or `latest`.

    \b
    Example:
        themis results my-eval --by slice_id --by skill
    """
    from themis.cli.tables import print_scores, print_tables
    from themis.errors import SpecValidationError
    from themis.orchestration.reporting import KEYS
    from themis.results.aggregate import aggregate
    from themis.results.report.tables import aggregate_table
    from themis.storage.plans import find_run
    from themis.storage.tables import read_scores

    with project_store(project) as store:
        found = find_run(store, run)
        table = read_scores(store, found)
    if not (by or metric or cluster_by or as_json or estimator != "mean"):
        print_scores(found, table)
        return
    try:
        rows = aggregate(
            table, by or KEYS, metric_id=metric, cluster_by=cluster_by, estimator=estimator
        )
    except ValueError as error:
        raise SpecValidationError(str(error)) from error
    if as_json:
        print_json({"run_id": found.run_id, "rows": [row.to_dict() for row in rows]})
        return
    print_tables([aggregate_table(rows)])
