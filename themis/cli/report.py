"""`themis report`: a report of a run in the format that the file's name asks for."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from themis.cli.options import DIRECTORY, FILE, project_option

if TYPE_CHECKING:
    from themis.results.report.data import ReportData

SUFFIXES = (".html", ".md", ".json", ".csv", ".tex", ".parquet")


@click.command()
@click.argument("run", default="latest")
@click.option("--out", type=FILE, help=f"The file; its name ends in {', '.join(SUFFIXES)}.")
@click.option(
    "--figures", type=DIRECTORY, help="A directory for the plots as SVG and PDF, for papers."
)
@click.option("--against", metavar="RUN", help="Say whether RUN and this one may be compared.")
@click.option("--title", help="The heading; default: the benchmark's id.")
@project_option
def command(
    run: str,
    out: Path | None,
    figures: Path | None,
    against: str | None,
    title: str | None,
    project: Path | None,
) -> None:
    """Write a report of RUN: census, scores with intervals, paired differences, provenance.

    An HTML report is one file that needs no network, and holds every prompt and answer.

    \b
    Example:
        themis report my-eval --out report.html --figures figures
    """
    from themis.orchestration.sessions import find_project, open_project_store
    from themis.results.reporting import report_data
    from themis.specs.loading import load_project
    from themis.storage.plans import find_run

    if out is None and figures is None:
        raise click.UsageError("say where to: --out FILE, --figures DIRECTORY, or both")
    if out is not None:
        check_suffix(out)
    loaded = load_project(project or find_project(Path.cwd()))
    with open_project_store(loaded, create=False) as store:
        data = report_data(
            store,
            find_run(store, run),
            title=title,
            project=loaded.spec,
            against=None if against is None else find_run(store, against),
        )
        if out is not None:
            write_report(data, out)
            click.echo(f"{out}: {out.stat().st_size / 1024:,.0f} KB")
    if figures is not None:
        write_figures(data, figures)


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
    put(out, content if isinstance(content, bytes) else content.encode())


def write_figures(data: "ReportData", directory: Path) -> None:
    """Write the plots of a report into a directory, and say which.

    Raises:
        EnvironmentNotReadyError: The `report` extra is not installed.
    """
    from themis.results.report.figures import render_figures

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in render_figures(data):
        put(directory / name, content)
        written.append(name)
    click.echo(f"{directory}: {', '.join(written) or 'nothing to draw'}")


def put(out: Path, content: bytes) -> None:
    """Write a file whole, or not at all."""
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_bytes(content)
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
