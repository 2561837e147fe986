"""`themis pack` and `themis unpack`: one transfer file, proved on arrival."""

from pathlib import Path

import click

from themis.cli.options import DIRECTORY, FILE, json_option, print_json
from themis.cli.trust import allowed_signers_option, reading_signers, refuse_missing_key
from themis.errors import SpecValidationError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def _bytes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Read a size such as `500M`."""
    if value is None:
        return None
    number, unit = (value[:-1], value[-1].upper()) if not value[-1:].isdigit() else (value, "")
    if not number.isdecimal() or unit not in UNITS or not int(number):
        raise SpecValidationError(f"--max-bytes {value!r}: write it as a number with K, M or G")
    return int(number) * UNITS[unit]


@click.command("pack")
@click.argument("bundle", type=DIRECTORY)
@click.argument("file", type=FILE)
@click.option("--results-only", is_flag=True, help="Leave the items out: the way back.")
@click.option("--results", type=DIRECTORY, help="Where the results are, if not in the bundle.")
@click.option("--shard", "shards", type=click.IntRange(min=0), multiple=True, help="Only these.")
@click.option(
    "--since",
    type=FILE,
    multiple=True,
    help="Leave out shards whose results are all in this former pack; may be repeated.",
)
@click.option("--sign", "key", type=FILE, help="Sign the results with this ssh key.")
@click.option("--max-bytes", callback=_bytes, help="Split into parts of this size, such as 2G.")
@json_option
def pack_command(
    bundle: Path,
    file: Path,
    results: Path | None,
    shards: tuple[int, ...],
    since: tuple[Path, ...],
    key: Path | None,
    max_bytes: int | None,
    *,
    results_only: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE into one transfer FILE, or into parts of a size.

    With --results-only it holds the results of the shards that are done, as a BagIt bag of
    their own: after `tar -x`, `sha256sum -c` and `bagit.py` can prove it too.

    \b
    Example:
        themis pack my-bundle there.themis
        themis pack my-bundle back.themis --results-only --sign ~/.ssh/id_ed25519
        themis pack my-bundle more.themis --results-only --since back.themis --max-bytes 2G
    """
    from themis_bundles import Bundle
    from themis_bundles.pack import pack
    from themis_bundles.unpack import read_list

    if (since or key) and not results_only:
        raise SpecValidationError(
            "--since and --sign go with --results-only; `themis sign` signs a whole bundle"
        )
    refuse_missing_key(key)
    opened = Bundle.open(bundle, results=results)
    former = {path: read_list(path) for path in since}
    for path, listing in former.items():
        if listing.bundle != opened.digest:
            raise SpecValidationError(f"--since {path}: it is a pack of another bundle")
    parts = pack(
        opened,
        file,
        results_only=results_only,
        shards=shards or None,
        since=tuple(former.values()),
        key=key,
        max_bytes=max_bytes,
    )
    if as_json:
        print_json({"parts": [str(part) for part in parts]})
        return
    for part in parts:
        click.echo(f"{part}: {part.stat().st_size:,} bytes")
    if not parts:
        click.echo("No shard has results to bring, so no pack was written.")


@click.command("unpack")
@click.argument("file", type=FILE)
@click.argument("bundle", type=DIRECTORY)
@allowed_signers_option
@json_option
def unpack_command(
    file: Path, bundle: Path, allowed_signers: Path | None, *, as_json: bool
) -> None:
    """Prove a transfer FILE and put what it holds into BUNDLE.

    Results go to the bundle that they belong to; what is there already is kept, so a trip that
    brings only what is new can be unpacked over what came before. For parts, name the file
    without its number.

    \b
    Example:
        themis unpack there.themis my-bundle
        themis unpack back.themis my-bundle --allowed-signers allowed_signers
    """
    from themis_bundles.unpack import unpack

    with reading_signers(allowed_signers):
        done = unpack(file, bundle, allowed_signers=allowed_signers)
    if as_json:
        print_json(
            {
                "path": str(done.path),
                "written": done.written,
                "kept": done.kept,
                "signed_by": done.signed_by,
            }
        )
        return
    click.echo(f"{done.path}: {done.written} files written, {done.kept} were there already")
    if done.signed_by:
        click.echo(f"signed by {done.signed_by}")
