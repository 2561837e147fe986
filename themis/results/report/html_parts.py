"""Small pieces of the HTML report: escaped text, tables, panels that fold."""

from collections.abc import Iterable, Iterator
from html import escape

from themis.results.report.tables import TextTable
from themis.results.report.terminal import printable


def text(words: str) -> str:
    """Escape text for any place in the page, control and bidirectional marks made visible."""
    return escape(printable(words))


def table(shown: TextTable) -> str:
    """Write a table that can be sorted, its notes beneath it; empty without rows."""
    if not shown.rows:
        return ""
    head = "".join(
        f'<th scope="col"{_numeric(column.numeric)}>{text(column.title)}</th>'
        for column in shown.columns
    )
    return scrolled(
        shown.title,
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(_body(shown))}</tbody></table>",
    ) + notes(shown.notes)


def scrolled(label: str, content: str) -> str:
    """Put wide content into a region that scrolls by itself, from the keyboard too."""
    return (
        f'<div class="tall" tabindex="0" role="region" aria-label="{text(label)}">{content}</div>'
    )


def notes(sentences: Iterable[str]) -> str:
    """Write sentences under a table."""
    return "".join(f'<p class="quiet">{text(sentence)}</p>' for sentence in sentences)


def folded(summary: str, content: str, *, opened: bool = False) -> str:
    """Put content under a line that opens it; empty without content."""
    if not content:
        return ""
    return (
        f"<details{' open' if opened else ''}><summary>{text(summary)}</summary>{content}</details>"
    )


def definitions(lines: Iterable[tuple[str, str]]) -> str:
    """Write names and values, one pair a line; the lines of a value stay lines."""
    return (
        "<dl>"
        + "".join(f"<dt>{text(name)}</dt><dd>{_lines(value)}</dd>" for name, value in lines)
        + "</dl>"
    )


def _lines(words: str) -> str:
    return "\n".join(map(text, words.split("\n")))


def _body(shown: TextTable) -> Iterator[str]:
    for place, row in enumerate(shown.rows):
        cells = "".join(
            f"<td{_numeric(column.numeric)}>{text(cell)}</td>"
            for cell, column in zip(row, shown.columns, strict=True)
        )
        yield f"<tr{' class=strong' if place in shown.strong else ''}>{cells}</tr>"


def _numeric(numeric: bool) -> str:  # noqa: FBT001 -- a cell is a number or it is not
    return " class=n" if numeric else ""
