"""`themis compare`: models or prompts, item by item."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from themis.cli.options import project_option, project_store
from themis.cli.rows import as_usage, format_options, print_rows

if TYPE_CHECKING:
    from themis.results.comparability import Comparability
    from themis.results.compare import CompareKey, PairedRow
    from themis.results.report.tables import TextTable
    from themis.results.two_runs import ModelPair
    from themis.storage import Store
    from themis.storage.plans import Run


@click.command()
@click.argument("run", default="latest")
@click.argument("new", required=False)
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
@click.option(
    "--flips",
    type=click.IntRange(min=1),
    help="Also list so many items of each comparison that changed most, with both outputs.",
)
@project_option
@format_options
def command(
    run: str,
    new: str | None,
    what: str,
    baseline: str | None,
    treatment: tuple[str, ...],
    by: tuple[str, ...],
    metric: str | None,
    cluster_by: str | None,
    correction: str,
    margin: float | None,
    flips: int | None,
    project: Path | None,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Compare the models or prompts of RUN on the items that both answered.

    With NEW, compare that later run with RUN, model by model. Either way the verdict on the
    provenance says whether the difference may have another cause.

    \b
    Example:
        themis compare my-eval --what prompt_variant_id --baseline plain
        themis compare run_5b97 run_a41c
    """
    from themis.cli.tables import print_tables
    from themis.results.compare import paired_compare
    from themis.results.reading import read_table
    from themis.results.report.tables import paired_table
    from themis.results.two_runs import compare_runs
    from themis.storage.plans import find_run

    keys = (*by, *((cluster_by,) if cluster_by else ()))
    options: dict[str, Any] = {
        "metric_id": metric,
        "group_by": by,
        "p_value_correction": correction,
        "cluster_by": cluster_by,
        "margin": margin,
    }
    with project_store(project) as store, as_usage():
        runs = [find_run(store, name) for name in (run, new) if name is not None]
        tables = [read_table(store, found, keys) for found in runs]
        models = _model_pairs(baseline, treatment) if new else None
        if new:
            rows = compare_runs(*tables, models=models, **options)
        else:
            rows = paired_compare(
                tables[0],
                compare=cast("CompareKey", what),
                baseline=baseline,
                treatment=list(treatment) or None,
                **options,
            )
        verdicts = _verdicts(store, runs, what, rows)
        chosen = {"metric_id": metric, "limit": flips}
        flipped = _flips(store, runs, what, rows, models, chosen) if flips else []
    head = {
        "run_id": runs[0].run_id,
        "new_run_id": runs[-1].run_id if new else None,
        "comparability": [verdict.to_dict() for verdict in verdicts],
        **({"flips": flipped} if flips else {}),
    }
    if print_rows([row.to_dict() for row in rows], head, as_json=as_json, as_csv=as_csv):
        return
    if not rows:
        click.echo(f"nothing to compare: the run has one {what}")
        return
    print_tables([paired_table(rows)])
    for verdict in verdicts:
        click.echo(f"{verdict.left} and {verdict.right}: {verdict.verdict}")
        if verdict.differences:
            print_tables([_difference_table(verdict)])
    for flip in flipped:
        _print_flip(flip)


def _model_pairs(baseline: str | None, treatment: tuple[str, ...]) -> "list[ModelPair] | None":
    """Return which models of two runs to pair; None pairs equal names.

    Raises:
        click.UsageError: Only the new run's models are named.
    """
    if baseline is None:
        if treatment:
            raise click.UsageError("with two runs, --treatment needs --baseline, to pair models")
        return None
    return [(baseline, model) for model in treatment or (baseline,)]


def _verdicts(
    store: "Store", runs: "list[Run]", what: str, rows: "list[PairedRow]"
) -> "list[Comparability]":
    """Judge the runs, or each pair of models; two prompts of one model come about alike."""
    from themis.results.comparability import compare_models, compare_provenance
    from themis.storage.origins import origins

    if len(runs) > 1:
        return [compare_provenance(store, *runs)]
    if what != "model_id":
        return []
    found = origins(store, runs[0])
    return [
        compare_models(runs[0], found, a, b)
        for a, b in dict.fromkeys((row.baseline, row.treatment) for row in rows)
    ]


def _flips(
    store: "Store",
    runs: "list[Run]",
    what: str,
    rows: "list[PairedRow]",
    models: "list[ModelPair] | None",
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """List the items that changed most, with the outputs of both sides."""
    from themis.results.result import BenchmarkResult

    results = [BenchmarkResult(store, run) for run in runs]
    if len(results) > 1:
        return results[0].flips_with(results[1], models=models, **options)
    arms: dict[str, Any] = {"compare": what, **options}
    return [
        {"baseline": a, "treatment": b, **flip}
        for a, b in dict.fromkeys((row.baseline, row.treatment) for row in rows)
        for flip in results[0].flips(baseline=a, treatment=b, **arms)
    ]


def _print_flip(flip: dict[str, Any]) -> None:
    from themis.results.report.terminal import printable

    a, b = flip["baseline_value"], flip["treatment_value"]
    sides = flip.get("baseline", "base"), flip.get("treatment", "new")
    item = f"{flip['slice_id']}/{flip['item_id']}"
    click.echo(f"{item} {flip['metric_id']}: {a:g} → {b:g} ({flip['change']})")
    for side, key in zip(sides, ("baseline_outputs", "treatment_outputs"), strict=True):
        for output in flip[key]:
            click.echo(f"  {printable(side)}: {printable(output or 'no output')}")


def _difference_table(verdict: "Comparability") -> "TextTable":
    from themis.results.report.tables import Column, TextTable

    columns = [Column(name) for name in ("field", "left", "right", "severity")]
    return TextTable(
        "Differences in provenance",
        (*columns, Column("why", optional=True)),
        tuple((d.field, d.left, d.right, d.severity, d.why) for d in verdict.differences),
    )
