"""`themis verify`: prove a bundle and take the census of its results."""

from pathlib import Path

import click

from themis.cli.options import DIRECTORY, finish, json_option, print_json
from themis.cli.trust import allowed_signers_option, check_results_signed, check_signature


@click.command()
@click.argument("bundle", type=DIRECTORY)
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
@click.option("--quick", is_flag=True, help="Check sizes and receipts only.")
@allowed_signers_option
@click.option("--signed-results", is_flag=True, help="Refuse records that none of them signed.")
@json_option
def command(
    bundle: Path,
    results: Path | None,
    allowed_signers: Path | None,
    *,
    quick: bool,
    signed_results: bool,
    as_json: bool,
) -> None:
    """Prove every byte of BUNDLE and count what came back.

    Exits with 3 when a record is foreign, altered or unreadable, and with 1 when items have no
    result yet.

    \b
    Example:
        themis verify my-bundle
    """
    from themis.cli.tables import print_census
    from themis_bundles import Bundle, verify

    opened = Bundle.open(bundle, results=results)
    signer = check_signature(bundle, allowed_signers)
    vouched = check_results_signed(opened, allowed_signers) if signed_results else ()
    census = verify(opened, quick=quick)
    if as_json:
        signed = {"signed_by": signer, "results_signed_by": list(vouched)}
        print_json({"bundle": opened.digest, **signed, **census.to_dict()})
    else:
        print_census(opened, census)
        if signer:
            click.echo(f"signed by {signer}")
        if vouched:
            click.echo(f"results signed by {', '.join(vouched)}")
    finish(3 if census.refused else 0 if census.complete else 1)
