"""`themis compare`: models or prompts, item by item."""

from pathlib import Path

import click

from themis.cli.options import json_option, print_json, project_option, project_store


@click.command()
@click.argument("run", default="latest")
@click.option(
    "--what",
    type=click.Choice(["model_id", "prompt_variant_id"]),
    default="model_id",
    show_default=True,
    help="What differs between the two sides.",
)
@click.option("--baseline", help="The side compared against; default: all pairs.")
@click.option("--treatment", multiple=True, help="The side in question; may be repeated.")
@click.option("--by", multiple=True, default=["slice_id"], show_default=True)
@click.option("--metric", help="Only this metric.")
@click.option("--cluster-by", help="A key whose items resemble each other (standard errors).")
@click.option(
    "--correction",
    type=click.Choice(["none", "holm", "bh", "bonferroni"]),
    default="holm",
    show_default=True,
    help="For all comparisons of this call together.",
)
@click.option("--margin", type=float, help="A difference that does not matter: tests equivalence.")
@project_option
@json_option
def command(
    run: str,
    what: str,
    baseline: str | None,
    treatment: tuple[str, ...],
    by: tuple[str, ...],
    metric: str | None,
    cluster_by: str | None,
    correction: str,
    margin: float | None,
    project: Path | None,
    *,
    as_json: bool,
) -> None:
    """Compare the models or prompts of RUN on the items that both answered.

    \b
    Example:
        themis compare my-eval --what prompt_variant_id --baseline plain
    """
    from typing import Any, cast

    from themis.cli.tables import print_tables
    from themis.errors import SpecValidationError
    from themis.results.compare import paired_compare
    from themis.results.report.tables import paired_table
    from themis.storage.plans import find_run
    from themis.storage.tables import read_scores

    with project_store(project) as store:
        found = find_run(store, run)
        table = read_scores(store, found)
    try:
        rows = paired_compare(
            table,
            compare=cast("Any", what),
            baseline=baseline,
            treatment=list(treatment) or None,
            metric_id=metric,
            group_by=by,
            p_value_correction=cast("Any", correction),
            cluster_by=cluster_by,
            margin=margin,
        )
    except ValueError as error:
        raise SpecValidationError(str(error)) from error
    if as_json:
        print_json({"run_id": found.run_id, "rows": [row.to_dict() for row in rows]})
        return
    if not rows:
        click.echo(f"nothing to compare: the run has one {what}")
        return
    print_tables([paired_table(rows)])
