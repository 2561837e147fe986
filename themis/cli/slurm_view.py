"""What `themis slurm status` and `watch` show: a status as text, and as a picture of a terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from themis_slurm.status import ClusterStatus, ShardRow

ROWS_SHOWN = 40
"""Shards listed on a terminal; `--json` has all of them."""

LINES_SHOWN = 8
"""Arrays, causes and errors listed while watching."""

_WELL = frozenset({"complete", "running", "pending", "not submitted"})


def facts(status: "ClusterStatus") -> Iterator[tuple[str, str]]:
    """Give what is worth a line each: a name and a value."""
    yield "shards", ", ".join(f"{count:,} {cause}" for cause, count in status.counts.items())
    if status.items_per_s > 0:
        yield "speed", f"{status.items_per_s:,.2f} items/s, {status.tokens_per_s:,.0f} tokens/s"
    if status.eta_s is not None:
        yield "done in about", duration(status.eta_s)
    if status.gpu_hours > 0:
        yield "GPU-hours", f"{status.gpu_hours:,.2f} so far"
    slowest = status.slowest
    if slowest is not None and slowest.eta_s is not None:
        where = f" on {slowest.node}" if slowest.node else ""
        text = f"{slowest.shard}{where}, {slowest.done:,}/{slowest.items:,} items"
        yield "slowest shard", f"{text}, done in about {duration(slowest.eta_s)}"
    if status.errors:
        shown = list(status.errors.items())[:LINES_SHOWN]
        yield "failed items", ", ".join(f"{count:,} {name}" for name, count in shown)


def duration(seconds: float) -> str:
    """Write a time in the two units that matter.

    >>> duration(40), duration(3700), duration(200_000)
    ('40 s', '1 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"))
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    first = next(place for place, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)


def picture(status: "ClusterStatus", footer: str) -> "Group":
    """Draw a status for a terminal that is watched."""
    from rich.console import Group, RenderableType
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share = status.done / status.items if status.items else 1.0
    head = Table.grid(padding=(0, 1))
    head.add_row(
        ProgressBar(total=max(1, status.items), completed=status.done, width=40),
        Text(f"{status.done:,}/{status.items:,} items, {share:.1%}"),
    )
    lines = Table.grid(padding=(0, 2))
    for name, value in facts(status):
        lines.add_row(Text(name, style="dim"), Text(value))
    parts: list[RenderableType] = [Text(status.bundle, style="bold"), head, lines]
    if status.arrays:
        parts.append(_arrays(status))
    troubles = _troubles(status)
    if troubles.row_count:
        parts.append(troubles)
    if status.scheduler_error:
        parts.append(Text(f"the scheduler could not be asked: {status.scheduler_error}", "red"))
    parts.append(Text(footer, style="dim"))
    return Group(*parts)


def _arrays(status: "ClusterStatus") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading in ("array", "job", "shards", "items"):
        table.add_column(heading, justify="right")
    table.add_column("of which")
    for array in status.arrays[-LINES_SHOWN:]:
        counts = ", ".join(f"{count:,} {cause}" for cause, count in array.counts.items())
        table.add_row(
            str(array.number),
            Text(array.job or "-"),
            f"{array.shards:,}",
            f"{array.done:,}/{array.items:,}",
            Text(counts or "all submitted again"),
        )
    return table


def _troubles(status: "ClusterStatus") -> "Table":
    """Give every cause of a bad end once, with its first shard."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for heading, side in (("ended", "left"), ("shards", "right"), ("first", "right")):
        table.add_column(heading, justify="left" if side == "left" else "right")
    table.add_column("why", overflow="fold")
    for cause, rows in list(_by_cause(status).items())[:LINES_SHOWN]:
        first = rows[0]
        why = first.detail or first.cause.advice
        table.add_row(cause, f"{len(rows):,}", str(first.shard), Text(why))
    return table


def _by_cause(status: "ClusterStatus") -> Mapping[str, list["ShardRow"]]:
    found: dict[str, list[ShardRow]] = {}
    for row in status.rows:
        if row.cause.value not in _WELL:
            found.setdefault(row.cause.value, []).append(row)
    return found


def print_status(status: "ClusterStatus") -> None:
    """Print a status with the shards that are not complete."""
    import click
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    click.echo(f"{status.bundle}: {status.done:,}/{status.items:,} items")
    for name, value in facts(status):
        click.echo(f"  {name}: {value}")
    if status.scheduler_error:
        click.echo(f"the scheduler could not be asked: {status.scheduler_error}", err=True)
    console = Console()
    if len(status.arrays) > 1:
        console.print(_arrays(status))
    incomplete = [row for row in status.rows if row.cause.value != "complete"]
    if not incomplete:
        return
    table = Table(box=None)
    table.add_column("shard", justify="right")
    table.add_column("items", justify="right")
    for heading in ("state", "job", "node", "detail"):
        table.add_column(heading, overflow="fold")
    for row in incomplete[:ROWS_SHOWN]:
        table.add_row(
            str(row.shard),
            f"{row.done}/{row.items}",
            row.cause.value,
            Text(row.job),
            Text(row.node),
            Text(row.detail or row.cause.advice),
        )
    console.print(table)
    left = len(incomplete) - ROWS_SHOWN
    if left > 0:
        click.echo(f"… and {left} more; --json has all of them")
