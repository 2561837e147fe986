"""The tables that several commands print."""

import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from themis.records.score_table import ScoreTable
    from themis.results.report.tables import TextTable
    from themis.storage.plans import Run
    from themis_bundles import Bundle, Census

PROBLEMS_SHOWN = 20
"""Problems listed on a terminal; `--json` has all of them."""


def print_census(bundle: "Bundle", census: "Census") -> None:
    """Print what a bundle and its results hold."""
    manifest = bundle.manifest
    click.echo(
        f"{bundle.path}: {manifest.stage} bundle {bundle.digest[:12]} of {manifest.run_id}, "
        f"{census.items:,} items in {len(bundle.shards)} shards"
    )
    counted = [f"{count:,} {verdict}" for verdict, count in census.counts.items() if count]
    click.echo(f"census: {', '.join(counted) or 'no results yet'}")
    for problem in census.problems[:PROBLEMS_SHOWN]:
        click.echo(f"  {problem}", err=True)
    if len(census.problems) > PROBLEMS_SHOWN:
        click.echo(f"  … and {len(census.problems) - PROBLEMS_SHOWN} more; see --json", err=True)
    if census.refused:
        click.echo("refused: the results do not prove what they claim", err=True)


def print_scores(run: "Run", table: "ScoreTable") -> None:
    """Print the scores of a run, and what differs significantly."""
    import numpy as np

    from themis.records.score_table import ScoreStatus
    from themis.results.report.tables import aggregate_table, paired_table
    from themis.results.reporting import default_aggregates, default_comparisons

    absent = (ScoreStatus.GENERATION_MISSING, ScoreStatus.NOT_EVALUATED)
    scored, missing = int(table.scored.sum()), int(np.isin(table.status, absent).sum())
    click.echo(
        f"{run.benchmark_id} ({run.run_id}): {table.rows:,} scores planned, {scored:,} scored, "
        f"{table.rows - scored - missing:,} failed, {missing:,} missing"
    )
    if not table.rows:
        click.echo("The benchmark asks for no scores; `themis show ITEM` shows answers.")
        return
    tables = [aggregate_table(default_aggregates(table))]
    comparisons = default_comparisons(table)
    if comparisons:
        tables.append(paired_table(comparisons))
    print_tables(tables)


def print_tables(tables: "Sequence[TextTable]") -> None:
    """Print tables as the place they go to can show them."""
    from themis.results.report.terminal import render_terminal

    width = shutil.get_terminal_size().columns
    click.echo(render_terminal(tables, tty=sys.stdout.isatty(), width=width))
