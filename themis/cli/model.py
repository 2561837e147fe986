"""`themis model`: stage models, check their directories, and convert checkpoints to them."""

from pathlib import Path

import click

from themis.cli.options import DIRECTORY, FILE, finish, json_option, print_json


@click.group()
def command() -> None:
    """Stage models for nodes without a network, check them, and convert checkpoints.

    \b
    Example:
        themis model stage models--org--name /scratch/models/org/name
        themis model verify models/SmolLM2-135M-Instruct
    """


@command.command()
@click.argument("source")
@click.argument("destination", type=DIRECTORY)
@click.option("--revision", help="The commit of a hub id, or of a cache with several.")
@click.option("--link", is_flag=True, help="Make hard links instead of copies.")
@click.option("--keep-pickled", is_flag=True, help="Take pickled weights if there are no others.")
@json_option
def stage(
    source: str,
    destination: Path,
    revision: str | None,
    *,
    link: bool,
    keep_pickled: bool,
    as_json: bool,
) -> None:
    """Copy the model SOURCE to DESTINATION, with a manifest of digests.

    SOURCE is a directory, a directory of the hub's cache (models--org--name), or a hub id at a
    pinned commit (org/name@COMMIT), which is fetched if it is not in the cache. Only what engines
    read is taken; pickled weights are left out. What was staged before is checked and kept.

    \b
    Example:
        themis model stage ~/.cache/huggingface/hub/models--org--name /scratch/models/org/name
    """
    from themis.providers.staging import stage_model

    staged = stage_model(source, destination, revision=revision, link=link, pickled=keep_pickled)
    if as_json:
        print_json(
            {
                "path": str(staged.model.path),
                "digest": staged.model.digest,
                "files": dict(staged.model.files),
                "bytes": staged.bytes,
                "left_out": list(staged.left_out),
                "existed": staged.existed,
            }
        )
        return
    if staged.left_out:
        click.echo(f"left out: {', '.join(staged.left_out)}", err=True)
    verb = "was staged before" if staged.existed else "staged"
    click.echo(
        f"{staged.model.path}: {verb}, {len(staged.model.files)} files, {staged.bytes:,} bytes, "
        f"digest {staged.model.digest}"
    )


@command.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--full", is_flag=True, help="Read every file again, whatever was kept.")
@json_option
def verify(directory: Path, *, full: bool, as_json: bool) -> None:
    """Check that DIRECTORY holds a whole model, and print the digest of its files.

    Digests are kept by size and time of change, so a second check reads headers only. A staged
    model must hold exactly the files of its manifest. Exits with 4 when something is missing or
    damaged.

    \b
    Example:
        themis model verify models/SmolLM2-135M-Instruct
    """
    from themis.errors import EnvironmentNotReadyError
    from themis.providers.models import check_model_directory

    if not directory.is_dir():
        raise EnvironmentNotReadyError(f"{directory}: no such directory")
    found = check_model_directory(directory, full=full)
    if as_json:
        print_json(
            {
                "path": str(found.path),
                "digest": found.digest,
                "files": dict(found.files),
                "problems": list(found.problems),
            }
        )
    else:
        for problem in found.problems:
            click.echo(f"{directory}: {problem}", err=True)
        click.echo(f"{directory}: {len(found.files)} files, digest {found.digest}")
    finish(4 if found.problems else 0)


@command.command()
@click.argument("gguf", type=FILE)
@click.argument("directory", type=DIRECTORY)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32", "float16"]),
    default="bfloat16",
    show_default=True,
)
def convert(gguf: Path, directory: Path, dtype: str) -> None:
    """Turn a GGUF checkpoint into a model DIRECTORY that transformers and vLLM load.

    \b
    Example:
        themis model convert SmolLM2-135M-Instruct.Q4_1.gguf models/SmolLM2-135M-Instruct
    """
    from themis.errors import SpecValidationError
    from themis.providers.gguf import convert_gguf

    if not gguf.is_file():
        raise SpecValidationError(f"{gguf}: no such file")
    found = convert_gguf(gguf, directory, dtype=dtype)
    click.echo(f"{found.path}: digest {found.digest}")
