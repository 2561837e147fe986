"""Print rows as JSON or CSV, and turn a question that the data cannot answer into bad usage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from themis.cli.options import print_json

F = TypeVar("F", bound=Callable[..., Any])


def format_options(function: F) -> F:
    """Add `--json` and `--csv`, of which one may be given."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    as_csv = click.option("--csv", "as_csv", is_flag=True, help="Print CSV, every digit.")
    return as_json(as_csv(function))


@dataclass(frozen=True)
class _Flat:
    row: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.row


def print_rows(
    rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any], *, as_json: bool, as_csv: bool
) -> bool:
    """Print rows for a program, if one was asked for.

    Args:
        rows: Flat rows of JSON values.
        head: What the JSON says beside the rows.
        as_json: Whether JSON was asked for.
        as_csv: Whether CSV was asked for.

    Returns:
        Whether anything was printed.

    Raises:
        click.UsageError: Both were asked for.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be given together")
    if as_json:
        print_json({**head, "rows": [dict(row) for row in rows]})
    if as_csv:
        from themis.results.report.files import render_csv

        click.echo(render_csv([_Flat(dict(row)) for row in rows]), nl=False)
    return as_json or as_csv


@contextmanager
def as_usage() -> Iterator[None]:
    """Turn a question that the results cannot answer into bad usage.

    Raises:
        SpecValidationError: The block raised a ValueError.
    """
    from themis.errors import SpecValidationError

    try:
        yield
    except ValueError as error:
        raise SpecValidationError(str(error)) from error
