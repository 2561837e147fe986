"""Tables for a terminal: coloured boxes for a person, plain columns for a pipe.

A model's name or an error message may hold control characters that would drive a terminal;
they are shown escaped.
"""

import io
from collections.abc import Sequence
from dataclasses import replace

from themis.results.report.tables import Column, TextTable


def render_terminal(tables: Sequence[TextTable], *, tty: bool, width: int = 80) -> str:
    """Write tables for a screen.

    Args:
        tables: What to show.
        tty: Whether a person's terminal reads it: then rich draws it, in colour, folded to
            `width`. Else plain aligned columns, never cut.
        width: Columns of the terminal.
    """
    write = _rich if tty else _plain
    return "\n".join(write(mark_strong(table), width) for table in tables)


def mark_strong(table: TextTable) -> TextTable:
    """Put a mark before the rows whose difference the data support, and say what it means."""
    if not table.strong:
        return table
    marks = ("►" if place in table.strong else "" for place in range(len(table.rows)))
    return replace(
        table,
        columns=(Column(""), *table.columns),
        rows=tuple((mark, *row) for mark, row in zip(marks, table.rows, strict=True)),
        notes=(*table.notes, "► a difference that the data support."),
    )


def printable(text: str) -> str:
    r"""Show control characters instead of sending them.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _plain(table: TextTable, width: int) -> str:  # noqa: ARG001 -- a pipe has no width
    rows = [[column.title for column in table.columns], *table.rows]
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(table.columns))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(size) if column.numeric else cell.ljust(size)
            for cell, size, column in zip(row, widths, table.columns, strict=True)
        ).rstrip()

    lines = [table.title, line(cells[0]), line(["-" * size for size in widths])]
    return "\n".join((*lines, *map(line, cells[1:]), *map(printable, table.notes), ""))


def fit(table: TextTable, width: int) -> TextTable:
    """Leave out optional columns, the last first, until the table fits; a note names them."""
    sizes = [
        max(len(cell) for cell in (column.title, *cells))
        for column, cells in zip(
            table.columns, zip(*table.rows, strict=True) if table.rows else [], strict=False
        )
    ]
    kept = list(range(len(sizes)))
    hidden: list[str] = []
    while sum(sizes[place] + 1 for place in kept) > width:
        optional = [place for place in kept if table.columns[place].optional]
        if not optional:
            break
        kept.remove(optional[-1])
        hidden.insert(0, table.columns[optional[-1]].title)
    if not hidden:
        return table
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
        notes=(*table.notes, f"Left out at this width: {', '.join(hidden)}."),
    )


def _rich(table: TextTable, width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table = fit(table, width)
    for column in table.columns:
        drawn.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
        )
    for place, row in enumerate(table.rows):
        style = "bold" if place in table.strong else ""
        drawn.add_row(*(Text(printable(cell)) for cell in row), style=style)
    target = io.StringIO()
    console = Console(file=target, force_terminal=True, width=width, highlight=False)
    console.print(drawn)
    for note in table.notes:
        console.print(Text(printable(note), style="dim"))
    return target.getvalue()
