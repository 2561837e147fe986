"""`themis model`: check model directories, and convert checkpoints to them."""

from pathlib import Path

import click

from themis.cli.options import DIRECTORY, FILE, finish, json_option, print_json


@click.group()
def command() -> None:
    """Check model directories before a cluster finds out, and convert checkpoints to them.

    \b
    Example:
        themis model verify models/SmolLM2-135M-Instruct
    """


@command.command()
@click.argument("directory", type=DIRECTORY)
@json_option
def verify(directory: Path, *, as_json: bool) -> None:
    """Check that DIRECTORY holds a whole model, and print the digest of its files.

    Exits with 4 when something is missing or damaged.

    \b
    Example:
        themis model verify models/SmolLM2-135M-Instruct
    """
    from themis.errors import EnvironmentNotReadyError
    from themis.providers.models import check_model_directory

    if not directory.is_dir():
        raise EnvironmentNotReadyError(f"{directory}: no such directory")
    found = check_model_directory(directory)
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
