"""`themis sign` and `themis repair`: vouch for a bundle, and save what a bad disk left of one.

Whose signature counts is the verifier's to say: `--allowed-signers`, or the environment
variable THEMIS_ALLOWED_SIGNERS for everything that a machine takes in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from themis.cli.options import DIRECTORY, FILE, finish, json_option, print_json
from themis.errors import SpecValidationError

if TYPE_CHECKING:
    from themis_bundles import Bundle

F = TypeVar("F", bound=Callable[..., Any])


def allowed_signers_option(function: F) -> F:
    """Add `--allowed-signers`."""
    return click.option(
        "--allowed-signers",
        type=FILE,
        envvar="THEMIS_ALLOWED_SIGNERS",
        show_envvar=True,
        help="Refuse what none of these keys signed (man ssh-keygen, ALLOWED SIGNERS).",
    )(function)


def sign_option(function: F) -> F:
    """Add `--sign`."""
    return click.option("--sign", "key", type=FILE, help="Sign the bundle with this ssh key.")(
        function
    )


def refuse_missing_key(key: Path | None) -> None:
    """Say that a key is missing before any work is done for it."""
    if key is not None and not key.is_file():
        raise SpecValidationError(f"{key}: no such key")


def signed(bundle: Path, key: Path | None) -> Path | None:
    """Sign a bundle that was just written; return the signature.

    Raises:
        SignatureToolError: When ssh-keygen cannot; the bundle is kept, unsigned.
    """
    from themis_bundles import SignatureToolError
    from themis_bundles.signatures import sign

    if key is None:
        return None
    try:
        return sign(bundle, key)
    except SignatureToolError as error:
        raise SignatureToolError(f"{bundle} was written but not signed: {error}") from error


def check_results_signed(bundle: "Bundle", allowed_signers: Path | None) -> tuple[str, ...]:
    """Refuse results that no allowed signer signed; return who did.

    Args:
        bundle: The bundle, with its results.
        allowed_signers: The verifier's list of keys, without which nothing can be required.
    """
    from themis_bundles.signed_results import require_signed_results

    if allowed_signers is None:
        raise SpecValidationError("--signed-results needs --allowed-signers: whose signature?")
    with reading_signers(allowed_signers):
        return require_signed_results(bundle, allowed_signers)


@contextmanager
def reading_signers(path: Path | None) -> Iterator[None]:
    """Name the list of allowed signers when it cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        if path is None:
            raise
        raise SpecValidationError(f"--allowed-signers {path}: {error}") from error


@click.command("sign")
@click.argument("bundle", type=DIRECTORY)
@click.option("--key", type=FILE, required=True, help="An ssh key; it is used where it lies.")
@click.option("--results-only", is_flag=True, help="Sign the results of shards that are done.")
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
def sign_command(bundle: Path, key: Path, results: Path | None, *, results_only: bool) -> None:
    """Sign BUNDLE with an ssh key, so that a receiver can tell that it is yours.

    `ssh-keygen -Y sign` makes the signature, so a key in an agent works too; `themis verify
    --allowed-signers` and `ssh-keygen -Y verify` check it.

    \b
    Example:
        themis sign my-bundle --key ~/.ssh/id_ed25519
        themis sign my-bundle --key ~/.ssh/id_ed25519 --results-only
    """
    from themis_bundles import Bundle
    from themis_bundles.signatures import sign
    from themis_bundles.signed_results import sign_results

    opened = Bundle.open(bundle, results=results)
    refuse_missing_key(key)
    if results_only:
        folder = sign_results(opened, key)
        click.echo(f"signed: {folder}" if folder else "No shard is done, so nothing was signed.")
        return
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
    from themis_bundles.signatures import require_signature

    if allowed_signers is None:
        return None
    with reading_signers(allowed_signers):
        return require_signature(bundle, allowed_signers).principal
