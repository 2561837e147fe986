"""Markdown tables that survive whatever a model or item is called."""

import re
from collections.abc import Iterable, Iterator

from themis.results.comparability import Comparability
from themis.results.report.data import ReportData
from themis.results.report.findings import findings
from themis.results.report.tables import TextTable, report_tables
from themis.results.report.terminal import printable

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def render_markdown(data: ReportData) -> str:
    """Write a report as Markdown: census, scores, comparisons, slices, provenance."""
    parts = [
        f"# {escape(data.title)}",
        f"Run {escape(data.run_id)}, {escape(data.created)}.",
        *(f"> {escape(note)}" for note in data.notes),
        *(markdown_table(table) for table in report_tables(data)),
    ]
    if data.paired:
        said = (f"- {escape(sentence)}" for sentence, _ in findings(data.paired))
        parts.append("## Findings\n\n" + "\n".join(said))
    if data.comparability:
        parts.append("## Comparability\n\n" + "\n".join(_verdicts(data.comparability)))
    if data.provenance:
        lines = (f"- {escape(name)}: {escape(value)}" for name, value in flatten(data.provenance))
        parts.append("## Provenance\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _verdicts(found: Iterable[Comparability]) -> Iterator[str]:
    for entry in found:
        yield f"- {escape(entry.left)} and {escape(entry.right)}: **{entry.verdict}**"
        for one in entry.differences:
            said = f"{one.field}: {one.left} and {one.right} ({one.severity}: {one.why})"
            yield f"  - {escape(said)}"


def markdown_table(table: TextTable, level: int = 2) -> str:
    """Write one table, its notes beneath it."""
    rule = ("---:" if column.numeric else ":---" for column in table.columns)
    lines = [
        "| " + " | ".join(escape(column.title) for column in table.columns) + " |",
        "| " + " | ".join(rule) + " |",
    ]
    for place, row in enumerate(table.rows):
        cells = [escape(cell) for cell in row]
        if place in table.strong:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    notes = "".join(f"\n\n{escape(note)}" for note in table.notes)
    return f"{'#' * level} {escape(table.title)}\n\n" + "\n".join(lines) + notes


def escape(text: str) -> str:
    r"""Make text stand for itself: no markup, no HTML, no line breaks, no control characters.

    >>> escape("a|b <script> *x*")
    'a\\|b \\<script\\> \\*x\\*'
    """
    return _ACTIVE.sub(r"\\\1", printable(text))


def flatten(value: object, name: str = "") -> list[tuple[str, str]]:
    """Turn nested provenance into (dotted name, text) lines.

    >>> flatten({"engine": {"name": "vllm", "flags": ["a", 1]}, "gpu": None})
    [('engine.name', 'vllm'), ('engine.flags', 'a, 1'), ('gpu', '-')]
    """
    if isinstance(value, dict):
        prefix = f"{name}." if name else ""
        return [line for key, part in value.items() for line in flatten(part, f"{prefix}{key}")]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join("-" if part is None else str(part) for part in value))]
    return [(name, "-" if value is None else str(value))]
