"""`themis show`: one trial, from the prompt to the scores."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import json_option, print_json, project_option, project_store

if TYPE_CHECKING:
    from themis.results.report.data import ItemDetail


@click.command()
@click.argument("item")
@click.option("--run", default="latest", show_default=True, help="The run.")
@project_option
@json_option
def command(item: str, run: str, project: Path | None, *, as_json: bool) -> None:
    """Show every candidate of ITEM: its prompt, output, parsed answer and scores.

    ITEM is an item's id.

    \b
    Example:
        themis show q07 --run my-eval
    """
    from themis.errors import SpecValidationError
    from themis.orchestration.reporting import item_details
    from themis.storage.plans import find_run

    with project_store(project) as store:
        found = find_run(store, run)
        shown = [detail for detail in item_details(store, found) if detail.item_id == item]
    if not shown:
        raise SpecValidationError(f"run {found.run_id} has no item {item!r}")
    if as_json:
        import dataclasses

        print_json([dataclasses.asdict(detail) for detail in shown])
        return
    for detail in shown:
        _print(detail)


def _print(detail: "ItemDetail") -> None:
    from themis.results.report.terminal import printable

    click.echo(
        f"{detail.slice_id}/{detail.item_id}  {detail.model_id}  {detail.prompt_variant_id}  "
        f"{detail.params}  sample {detail.sample}"
    )
    for message in detail.messages:
        _indented(message.role, message.content)
    if detail.output is not None:
        _indented(f"output ({detail.finish_reason})", detail.output)
    if detail.error:
        _indented("error", detail.error)
    if detail.expected is not None:
        _indented("expected", str(detail.expected))
    for extraction in detail.extractions:
        read = f"{extraction.value!r}" if extraction.success else f"nothing: {extraction.reason}"
        click.echo(f"  parsed by {extraction.extractor}: {printable(read)}")
    for score in detail.scores:
        value = "no score" if score.value is None else f"{score.value:g}"
        note = f" ({printable(score.note)})" if score.note else ""
        click.echo(f"  {score.evaluation} {score.metric_id}: {value}{note}")
    click.echo()


def _indented(label: str, text: str) -> None:
    from themis.results.report.terminal import printable

    click.echo(f"  {label}:")
    for line in text.splitlines() or [""]:
        click.echo(f"    {printable(line)}")
