"""`themis sign` and `themis repair`: vouch for a bundle, and save what a bad disk left of one."""

from pathlib import Path

import click

from themis.cli.options import DIRECTORY, FILE, finish, json_option, print_json


@click.command("sign")
@click.argument("bundle", type=DIRECTORY)
@click.option("--key", type=FILE, required=True, help="An ssh key; it is used where it lies.")
def sign_command(bundle: Path, key: Path) -> None:
    """Sign BUNDLE with an ssh key, so that a receiver can tell that it is yours.

    `ssh-keygen -Y` makes the signature; `themis verify --allowed-signers` and `ssh-keygen -Y
    verify` check it.

    \b
    Example:
        themis sign my-bundle --key ~/.ssh/id_ed25519
    """
    from themis.errors import SpecValidationError
    from themis_bundles import Bundle
    from themis_bundles.signatures import sign

    Bundle.open(bundle)
    if not key.is_file():
        raise SpecValidationError(f"{key}: no such key")
    click.echo(f"signed: {sign(bundle, key)}")


@click.command("repair")
@click.argument("bundle", type=DIRECTORY)
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
@click.option("--dry-run", is_flag=True, help="Only say what is damaged.")
@json_option
def repair_command(bundle: Path, results: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Take every sound record out of damaged result files of BUNDLE into new attempts.

    The damaged files are set aside beside the results. Items that were lost are open again.

    \b
    Example:
        themis repair my-bundle --dry-run
    """
    from themis_bundles import Bundle
    from themis_bundles.repair import repair

    done = repair(Bundle.open(bundle, results=results), dry_run=dry_run)
    if as_json:
        print_json(
            [
                {
                    "shard": entry.shard,
                    "problems": [problem.to_dict() for problem in entry.problems],
                    "salvaged": [list(part) for part in entry.salvaged],
                    "moved": list(entry.moved),
                }
                for entry in done
            ]
        )
        return
    for entry in done:
        for problem in entry.problems:
            click.echo(f"  {problem}", err=True)
        kept = sum(records for _, _, records in entry.salvaged)
        verb = "can be kept" if dry_run else "kept"
        click.echo(f"shard {entry.shard}: {kept:,} records {verb}")
    if not done:
        click.echo("nothing is damaged")
    finish(1 if done and dry_run else 0)


def check_signature(bundle: Path, allowed_signers: Path | None) -> str | None:
    """Refuse a bundle that no allowed signer signed; return who did.

    Args:
        bundle: The bundle.
        allowed_signers: The verifier's list of keys; None asks for no signature.
    """
    from themis.errors import SpecValidationError
    from themis_bundles.signatures import require_signature

    if allowed_signers is None:
        return None
    try:
        return require_signature(bundle, allowed_signers).principal
    except (OSError, ValueError) as error:
        raise SpecValidationError(f"{bundle}: {error}") from error
