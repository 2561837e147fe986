"""`themis import`: prove a bundle's results and store them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from themis.cli.options import (
    DIRECTORY,
    finish,
    json_option,
    print_json,
    project_option,
    project_store,
)
from themis.cli.trust import allowed_signers_option

if TYPE_CHECKING:
    from themis.handoff.importing import ImportReport


@click.command("import")
@click.argument("bundle", type=DIRECTORY)
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
@click.option("--allow-partial", is_flag=True, help="Store what is there; the rest stays open.")
@click.option("--dry-run", is_flag=True, help="Verify and count, store nothing.")
@click.option(
    "--resolve",
    type=click.Choice(["refuse", "first"]),
    default="refuse",
    show_default=True,
    help="For items with several different answers.",
)
@click.option(
    "--quarantine",
    type=DIRECTORY,
    help="Put result files with refused records here, and import what proves itself.",
)
@click.option(
    "--require-signature",
    is_flag=True,
    help="Refuse to import when no list of allowed signers is given.",
)
@allowed_signers_option
@click.option("--signed-results", is_flag=True, help="Refuse records that none of them signed.")
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    help="Refuse a bundle that has more bytes with its results.",
)
@click.option(
    "--max-ratio",
    type=click.IntRange(min=1),
    help="Refuse a compressed frame that inflates to more than so many times its size.",
)
@click.option(
    "--in-place",
    is_flag=True,
    help="Copy nothing first; only for a place where nobody else can write.",
)
@project_option
@json_option
def command(
    bundle: Path, project: Path | None, results: Path | None, *, as_json: bool, **policy: Any
) -> None:
    """Prove the results of BUNDLE and write them to the project's store.

    The bundle and its results are copied to a private folder and proved there, so nobody can
    change what was proved. Importing the same results twice does nothing. Exits with 3, storing
    nothing, when a record does not prove what it claims, and with 1 when items are missing.

    \b
    Example:
        themis import my-bundle --project my-eval/project.toml
        themis import my-bundle --allow-partial --json
        themis import my-bundle --allowed-signers signers --signed-results --max-bytes 10000000000
    """
    from themis.errors import ImportRefusedError
    from themis.handoff.importing import ImportOptions, IncompleteResultsError, import_results

    options = ImportOptions(**policy)
    try:
        with project_store(project) as store:
            report = import_results(store, bundle, results=results, options=options)
    except (ImportRefusedError, IncompleteResultsError) as error:
        if not as_json:
            raise
        print_json({"error": str(error), "stored": 0, **error.details})
        finish(error.exit_code)
        return
    if as_json:
        print_json(_facts(report))
    else:
        _say(bundle, report)
    if report.census.refused and options.quarantine is not None:
        click.echo(f"refused records and reasons: {options.quarantine}", err=True)
        finish(3)
    finish(1 if report.census.counts["missing"] else 0)


def _facts(report: "ImportReport") -> dict[str, Any]:
    return {
        "bundle": report.bundle,
        "run_id": report.run_id,
        "stage": report.stage,
        "signed_by": report.signer,
        "results_signed_by": list(report.results_signers),
        "stored": report.stored,
        "held": report.held,
        "shards_imported": report.shards_imported,
        "shards_known": report.shards_known,
        "dry_run": report.dry_run,
        "conflicts": list(report.conflicts),
        "census": report.census.to_dict(),
    }


def _say(bundle: Path, report: "ImportReport") -> None:
    counts = report.census.counts
    said = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count)
    click.echo(f"{bundle}: {said}")
    if report.signer is not None:
        click.echo(f"signed by {report.signer}")
    if report.results_signers:
        click.echo(f"results signed by {', '.join(report.results_signers)}")
    click.echo(
        "dry run: nothing was stored"
        if report.dry_run
        else f"stored {report.stored:,} records in {report.run_id}; "
        f"{report.held:,} were held already, {report.shards_known} shards imported before"
    )
    for conflict in report.conflicts:
        click.echo(f"differs from the stored answer, which was kept: {conflict}", err=True)
