"""`themis import`: verify a bundle's results and store them."""

from pathlib import Path

import click

from themis.cli.options import (
    DIRECTORY,
    FILE,
    finish,
    json_option,
    print_json,
    project_option,
    project_store,
)


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
    "--allowed-signers",
    type=FILE,
    help="Refuse a bundle that none of these keys signed (man ssh-keygen, ALLOWED SIGNERS).",
)
@project_option
@json_option
def command(
    bundle: Path,
    results: Path | None,
    project: Path | None,
    resolve: str,
    quarantine: Path | None,
    allowed_signers: Path | None,
    *,
    allow_partial: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Prove the results of BUNDLE and write them to the project's store.

    Importing the same results twice does nothing. Exits with 3, storing nothing, when a record
    does not prove what it claims, and with 1 when items are missing.

    \b
    Example:
        themis import my-bundle --project my-eval/project.toml
    """
    from themis.cli.trust import check_signature
    from themis.handoff.importing import import_results

    check_signature(bundle, allowed_signers)
    with project_store(project) as store:
        report = import_results(
            store,
            bundle,
            results=results,
            allow_partial=allow_partial,
            dry_run=dry_run,
            resolve="first" if resolve == "first" else "refuse",
            quarantine=quarantine,
        )
    counts = report.census.counts
    if as_json:
        print_json(
            {
                "bundle": report.bundle,
                "run_id": report.run_id,
                "stage": report.stage,
                "stored": report.stored,
                "held": report.held,
                "dry_run": report.dry_run,
                "conflicts": list(report.conflicts),
                "census": report.census.to_dict(),
            }
        )
    else:
        said = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items() if count)
        click.echo(f"{bundle}: {said}")
        click.echo(
            "dry run: nothing was stored"
            if dry_run
            else f"stored {report.stored:,} records in {report.run_id}; "
            f"{report.held:,} were held already, {report.shards_known} shards imported before"
        )
        for conflict in report.conflicts:
            click.echo(f"differs from the stored answer, which was kept: {conflict}", err=True)
    if report.census.refused and quarantine is not None:
        click.echo(f"refused records and reasons: {quarantine}", err=True)
        finish(3)
    finish(1 if counts["missing"] else 0)
