"""The sections of the HTML report, each from the part of the data that it shows."""

from collections.abc import Iterable, Iterator, Sequence

from themis.results.aggregate import AggregateRow
from themis.results.comparability import Comparability
from themis.results.compare import PairedRow
from themis.results.report import numbers
from themis.results.report.charts import arm_labels, arm_of, scores_svg, timeline_svg, tokens_svg
from themis.results.report.config_report import value_text
from themis.results.report.config_tree import Node
from themis.results.report.data import CensusRow, ReportData
from themis.results.report.findings import findings
from themis.results.report.forest import forest_svg
from themis.results.report.html_parts import definitions, folded, notes, scrolled, table, text
from themis.results.report.markdown import flatten
from themis.results.report.tables import (
    KEY_TITLES,
    Column,
    TextTable,
    aggregate_table,
    attempt_table,
    breakdown_title,
    census_table,
    paired_table,
    token_table,
)

MOST_PLOTTED = 300
"""Rows of a drawing; the table beside it always has all."""

MOST_ATTEMPTS = 2000
"""Attempts in the table and drawing of shards; the JSON report has all."""

_LEVELS = 10
_GROUPS = {
    "planned": ("planned",),
    "scored": ("scored", "extraction_failed"),
    "failed": ("generation_failed", "metric_failed"),
    "missing": ("generation_missing", "not_evaluated"),
}


def census(rows: Sequence[CensusRow]) -> str:
    """Show how many scores were planned, and what came of them."""
    if not rows:
        return ""
    totals = {
        name: sum(row.counts.get(outcome, 0) for row in rows for outcome in outcomes)
        for name, outcomes in _GROUPS.items()
    }
    tiles = "".join(
        f'<div class="tile {name}{" none" if not count else ""}"><dt>scores {name}</dt>'
        f"<dd>{numbers.count(count)}</dd></div>"
        for name, count in totals.items()
    )
    unreadable = sum(row.counts.get("extraction_failed", 0) for row in rows)
    said = []
    if unreadable:
        said.append(
            f"{numbers.count(unreadable)} of the scored answers could not be read, and score 0."
        )
    return f'<dl class="tiles">{tiles}</dl>{_bar(totals)}{notes(said)}{table(census_table(rows))}'


def _bar(totals: dict[str, int]) -> str:
    planned = totals["planned"]
    if not planned:
        return ""
    at, parts = 0.0, []
    for name in ("scored", "failed", "missing"):
        width = 1000 * totals[name] / planned
        if width:
            parts.append(
                f'<rect class="{name}" x="{at:.2f}" y="0" width="{width:.2f}" height="10"/>'
            )
        at += width
    said = ", ".join(f"{totals[name]} {name}" for name in totals)
    return (
        '<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{text(said)}">{"".join(parts)}</svg>'
    )


def scores(rows: Sequence[AggregateRow]) -> str:
    """Show means with their intervals, drawn and in numbers."""
    if not rows:
        return ""
    drawn = [row for row in rows if {"model_id", "prompt_variant_id"} <= set(row.keys)]
    drawing = ""
    if 0 < len(drawn) <= MOST_PLOTTED:
        drawing = scrolled("Means with their intervals", scores_svg(drawn))
    return f"{drawing}<h3>Numbers</h3>{table(aggregate_table(rows, in_full=True))}"


def differences(rows: Sequence[PairedRow]) -> str:
    """Show paired differences: in words, drawn, and in numbers."""
    if not rows:
        return ""
    plotted = sorted(rows, key=lambda row: (row.p_value is None, row.p_value or 0.0))[:MOST_PLOTTED]
    kept = {id(row) for row in plotted}
    said = ""
    if len(rows) > MOST_PLOTTED:
        said = (
            f'<p class="quiet">The plot shows the {MOST_PLOTTED} comparisons with the smallest p; '
            f"the table has all {len(rows)}.</p>"
        )
    words = "".join(
        f"<li{' class=strong' if shown else ''}>{text(said)}</li>" for said, shown in findings(rows)
    )
    plot = forest_svg([row for row in rows if id(row) in kept])
    return (
        f'<ul class="findings">{words}</ul>{scrolled("Forest plot", plot)}'
        f"{said}<h3>Numbers</h3>{table(paired_table(rows, in_full=True))}"
    )


def breakdowns(data: ReportData) -> str:
    """Show, for each key, its values against the ways to ask, and the full tables under them."""
    parts = []
    for name, rows in data.breakdowns.items():
        if not rows:
            continue
        title = breakdown_title(name)
        numbered = folded("Numbers", table(aggregate_table(rows, title=title, in_full=True)))
        grids = "".join(_grid(name, label, members) for label, members in _by_metric(rows))
        parts.append(f'<div class="card"><h3>{text(title)}</h3>{grids}{numbered}</div>')
    return f'<div class="cards">{"".join(parts)}</div>' if parts else ""


def _by_metric(rows: Iterable[AggregateRow]) -> Iterator[tuple[str, list[AggregateRow]]]:
    sorts: dict[str, list[AggregateRow]] = {}
    for row in rows:
        names = (row.keys.get("metric_id"), row.keys.get("evaluation"))
        sorts.setdefault(", ".join(name or "-" for name in names), []).append(row)
    yield from sorts.items()


def _grid(key: str, label: str, rows: Sequence[AggregateRow]) -> str:
    arms = arm_labels([row.keys for row in rows])
    cells = {(row.keys.get(key), arm_of(row.keys)): row for row in rows}
    means = [row.mean for row in rows if row.mean is not None]
    low, high = min([0.0, *means]), max([1.0, *means])
    head = "".join(f'<th scope="col" class=n>{text(name)}</th>' for name in arms.values())
    lines = []
    for value in dict.fromkeys(row.keys.get(key) for row in rows):
        line = [f'<th scope="row">{text(value or "-")}</th>']
        for arm in arms:
            row = cells.get((value, arm))
            if row is None or row.mean is None:
                line.append("<td class=n>-</td>")
                continue
            level = round((row.mean - low) / (high - low) * _LEVELS)
            line.append(
                f'<td class="n h{level}"><b>{numbers.score(row.mean)}</b><br><span class="small">'
                f"{numbers.interval(row.ci_lower, row.ci_upper)}</span></td>"
            )
        lines.append(f"<tr>{''.join(line)}</tr>")
    title = KEY_TITLES.get(key, key)
    return scrolled(
        f"{title}: {label}",
        f"<table class=grid><caption>{text(label)}</caption><thead><tr>"
        f"<th scope=col>{text(title)}</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>",
    )


def tokens(data: ReportData) -> str:
    """Show scores against the tokens that the answers took."""
    if not data.tokens:
        return ""
    drawings = []
    for label, rows in _by_metric(data.aggregates):
        drawing = tokens_svg(rows[:MOST_PLOTTED], data.tokens)
        if drawing:
            drawings.append(f"<h3>{text(label)}</h3>{scrolled('Score against tokens', drawing)}")
    return f"{''.join(drawings)}<h3>Numbers</h3>{table(token_table(data.tokens))}"


def timeline(data: ReportData) -> str:
    """Show when and where shards were worked on."""
    if not data.attempts:
        return ""
    shown = data.attempts[:MOST_ATTEMPTS]
    said = []
    if len(shown) < len(data.attempts):
        said.append(
            f"The first {numbers.count(len(shown))} of {numbers.count(len(data.attempts))} "
            "attempts; the JSON report has all."
        )
    drawing = timeline_svg(shown)
    drawn = scrolled("Timeline", drawing) if drawing else ""
    numbered = table(attempt_table(shown))
    if len(shown) > 20:  # noqa: PLR2004 -- fits a screen
        numbered = folded("Numbers", numbered)
    return f"{drawn}{notes(said)}{numbered}"


def provenance(data: ReportData) -> str:
    """Show whether what is compared may be compared, and how the results came about."""
    verdicts = "".join(_verdict(entry) for entry in data.comparability)
    facts = "".join(
        folded(name, definitions(flatten(part)), opened=name == "run")
        for name, part in data.provenance.items()
        if isinstance(part, dict)
    )
    loose = [(n, v) for n, v in data.provenance.items() if not isinstance(v, dict)]
    return verdicts + facts + (definitions(flatten(dict(loose))) if loose else "")


def _verdict(entry: Comparability) -> str:
    """Show one verdict; the words say what the colour does."""
    name = entry.verdict.replace(" ", "-")
    if entry.left == entry.right:
        subject = f"The answers of {entry.left} among themselves"
    else:
        subject = f"{entry.left} and {entry.right}"
    said = "" if entry.differences else " Nothing that was recorded differs."
    columns = (
        Column("what"),
        Column(entry.left),
        Column(entry.right),
        Column("weight"),
        Column("why"),
    )
    rows = tuple(
        (one.field, one.left, one.right, one.severity, one.why) for one in entry.differences
    )
    return (
        f'<p class="verdict"><strong class="badge {name}">{text(entry.verdict)}</strong> '
        f"{text(subject)}.{said}</p>{table(TextTable('Differences of provenance', columns, rows))}"
    )


def config(root: Node | None) -> str:
    """Show what was configured, as sections that fold."""
    if root is None:
        return ""
    return "".join(_config_node(child, depth=0) for child in root.children)


def _config_node(node: Node, *, depth: int) -> str:
    lines = [(entry.name, value_text(entry.value)) for entry in node.parameters]
    inside = (definitions(lines) if lines else "") + "".join(
        _config_node(child, depth=depth + 1) for child in node.children
    )
    known = not node.qualified_class_name.startswith("builtins.")
    names = [str(e.value) for e in node.parameters if e.name in _NAMING][:1]
    title = f"{node.name}{f' ({node.class_name})' if known else ''}"
    return folded(" · ".join((title, *names)), inside, opened=depth < 1)


_NAMING = ("benchmark_id", "model_id", "slice_id", "id", "name", "project_name", "role")
"""Fields that name the object they are in."""
