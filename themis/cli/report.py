"""`themis report`: a report of a run in the format that the file's name asks for."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import FILE, project_option, project_store

if TYPE_CHECKING:
    from themis.results.report.data import ReportData

SUFFIXES = (".html", ".md", ".json", ".csv", ".tex", ".parquet")


@click.command()
@click.argument("run", default="latest")
@click.option(
    "--out", type=FILE, required=True, help=f"The file; its name ends in {', '.join(SUFFIXES)}."
)
@click.option("--title", help="The heading; default: the benchmark's id.")
@project_option
def command(run: str, out: Path, title: str | None, project: Path | None) -> None:
    """Write a report of RUN: census, scores with intervals, paired differences, provenance.

    An HTML report is one file that needs no network, and holds every prompt and answer.

    \b
    Example:
        themis report my-eval --out report.html
    """
    from themis.orchestration.reporting import report_data
    from themis.storage.plans import find_run

    check_suffix(out)
    with project_store(project) as store:
        write_report(report_data(store, find_run(store, run), title=title), out)
    click.echo(f"{out}: {out.stat().st_size / 1024:,.0f} KB")


def check_suffix(out: Path) -> None:
    """Refuse a file name whose ending names no format.

    Raises:
        SpecValidationError: It names none.
    """
    from themis.errors import SpecValidationError

    if out.suffix not in SUFFIXES:
        raise SpecValidationError(f"{out}: the name must end in {', '.join(SUFFIXES)}")


def write_report(data: "ReportData", out: Path) -> None:
    """Render a report by the file's suffix, and put it in place whole."""
    content = _render(data, out.suffix)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
    temporary.replace(out)


def _render(data: "ReportData", suffix: str) -> str | bytes:
    match suffix:
        case ".html":
            from themis.results.report.html import render_html

            return render_html(data)
        case ".md":
            from themis.results.report.markdown import render_markdown

            return render_markdown(data)
        case ".tex":
            from themis.results.report.latex import render_latex

            return render_latex(data)
        case ".parquet":
            from themis.results.report.files import render_parquet

            return render_parquet(data.aggregates)
        case ".csv":
            from themis.results.report.files import render_csv

            return render_csv(data.aggregates)
        case _:
            from themis.results.report.files import render_json

            return render_json(data)
