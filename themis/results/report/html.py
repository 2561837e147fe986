"""One HTML file that holds a whole report and needs nothing else.

No network: the content security policy forbids every load, and allows the one script and the
one style sheet of the file by their hashes, so a script smuggled in by a model's output could
not run even if escaping had a hole. Tables and plots are plain HTML and SVG, readable without
scripts. The items are packed in gzip chunks that the browser opens only when they are looked
at, so tens of thousands stay quick.
"""

import gzip
import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from themis.results.aggregate import AggregateRow
from themis.results.compare import PairedRow
from themis.results.report import numbers
from themis.results.report.data import ItemDetail, ReportData
from themis.results.report.forest import forest_svg
from themis.results.report.markdown import flatten
from themis.results.report.tables import (
    KEY_TITLES,
    TextTable,
    aggregate_table,
    census_table,
    paired_table,
)
from themis.results.report.terminal import printable

MOST_PLOTTED = 300
"""Rows of the forest plot; the table beside it always has all."""

_CHUNK = 192 * 1024
_LEVELS = 10


def render_html(data: ReportData, *, max_items: int = 50_000) -> str:
    """Write a report as one HTML file.

    Args:
        data: The report; its items are read once, in order.
        max_items: Items to put into the file. When there are more, the first ones are kept
            and the page says how many are not in it.
    """
    style = _asset("report.css")
    script = _asset("report.js")
    packed = pack_items(data.items, max_items, data.paired)
    notes = list(data.notes)
    if packed.left_out:
        notes.append(
            f"The item browser holds the first {numbers.count(packed.kept)} answers; "
            f"{numbers.count(packed.left_out)} more are not in this file."
        )
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    sections = [
        ("census", "Census", _table(census_table(data.census))),
        ("scores", "Scores", _table(aggregate_table(data.aggregates))),
        ("differences", "Paired differences", _differences(data.paired)),
        ("slices", "Per slice", _slices(data.slices)),
        ("provenance", "Provenance", _provenance(data)),
    ]
    if packed.kept:
        sections.insert(4, ("items", "Items", _BROWSER))
    shown = [section for section in sections if section[2]]
    body = "".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{content}'
        "</section>\n"
        for name, title, content in shown
    )
    said = "".join(f'<p class="note">{_text(note)}</p>' for note in notes)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(data.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the results</a>\n'
        f"<header><h1>{_text(data.title)}</h1>"
        f'<p class="quiet">run {_text(data.run_id)}, {_text(data.created)}</p>'
        f'<nav aria-label="Sections">{links}</nav>'
        f"{said}</header>\n"
        f'<main id="main">\n{body}</main>\n{packed.scripts}'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


@dataclass
class PackedItems:
    """Items as data blocks of a page.

    Attributes:
        scripts: The blocks: an index to filter by, and the chunks.
        kept: Items inside.
        left_out: Items that did not fit.
    """

    scripts: str
    kept: int
    left_out: int


def pack_items(
    items: Iterable[ItemDetail], max_items: int, paired: Sequence[PairedRow] = ()
) -> PackedItems:
    """Pack items into compressed chunks, with one index over all of them.

    Args:
        items: The items; read once, only one chunk is held at a time.
        max_items: Items to keep; the rest are counted.
        paired: Comparisons; the first one names the arms that flips are shown for.
    """
    index = _Index()
    blocks: list[str] = []
    chunk: list[str] = []
    size = left_out = 0
    for item in items:
        if index.count >= max_items:
            left_out += 1
            continue
        index.add(item)
        text = _json(_detail(item))
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            blocks.append(_block(f"chunk-{len(blocks)}", f"[{','.join(chunk)}]"))
            index.chunks.append(len(chunk))
            chunk, size = [], 0
    if chunk:
        blocks.append(_block(f"chunk-{len(blocks)}", f"[{','.join(chunk)}]"))
        index.chunks.append(len(chunk))
    if not index.count:
        return PackedItems("", 0, left_out)
    head = _block("index", _json(index.document(paired)))
    return PackedItems("".join((head, *blocks)), index.count, left_out)


@dataclass
class _Labels:
    """Names in order of first use, and the number of each."""

    numbers: dict[str, int] = field(default_factory=dict)

    def code(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


@dataclass
class _Index:
    """What the browser filters by, as columns of small numbers."""

    labels: dict[str, _Labels] = field(
        default_factory=lambda: {
            name: _Labels() for name in ("slice", "model", "prompt", "param", "item")
        }
    )
    columns: dict[str, list[int]] = field(
        default_factory=lambda: {
            name: [] for name in ("slice", "model", "prompt", "param", "item", "sample", "failed")
        }
    )
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    chunks: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, item: ItemDetail) -> None:
        names = {
            "slice": item.slice_id,
            "model": item.model_id,
            "prompt": item.prompt_variant_id,
            "param": item.params,
            "item": item.item_id,
        }
        for name, value in names.items():
            self.columns[name].append(self.labels[name].code(value))
        self.columns["sample"].append(item.sample)
        self.columns["failed"].append(int(item.failed))
        for score in item.scores:
            column = self.scores.setdefault(f"{score.metric_id} ({score.evaluation})", [])
            column.extend([None] * (self.count - len(column)))
            column.append(score.value)
        self.count += 1

    def document(self, paired: Sequence[PairedRow]) -> dict[str, Any]:
        scores = self.scores or {"no metric": []}
        return {
            **self.columns,
            **{f"{name}s": list(found.numbers) for name, found in self.labels.items()},
            "metrics": list(scores),
            "scores": [column + [None] * (self.count - len(column)) for column in scores.values()],
            "chunks": self.chunks,
            "arms": {
                "model": self._arms("model", "model_id", paired),
                "prompt": self._arms("prompt", "prompt_variant_id", paired),
            },
        }

    def _arms(self, name: str, compare: str, paired: Sequence[PairedRow]) -> list[int]:
        """Name the arms to show flips of: those of the first comparison, else the first two."""
        known = self.labels[name].numbers
        for row in paired:
            if row.compare == compare and row.baseline in known and row.treatment in known:
                return [known[row.baseline], known[row.treatment]]
        return [0, min(1, len(known) - 1)]


def _detail(item: ItemDetail) -> dict[str, Any]:
    return {
        "messages": [[message.role, message.content] for message in item.messages],
        "output": item.output,
        "finish_reason": item.finish_reason,
        "extractions": [
            {
                "extractor": found.extractor,
                "success": found.success,
                "value": found.value,
                "reason": found.reason,
            }
            for found in item.extractions
        ],
        "scores": [
            {
                "metric": score.metric_id,
                "evaluation": score.evaluation,
                "value": score.value,
                "status": score.status.label,
                "note": score.note,
            }
            for score in item.scores
        ],
        "expected": item.expected,
        "error": item.error,
    }


def _json(value: Any) -> str:
    # ASCII only, so that lone surrogates in a model's output survive as escapes.
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _block(name: str, text: str) -> str:
    # mtime 0: the same items give the same bytes at any time.
    packed = gzip.compress(text.encode(), compresslevel=6, mtime=0)
    return f'<script type="text/plain" id="{name}">{b64encode(packed).decode()}</script>\n'


def _table(table: TextTable) -> str:
    if not table.rows:
        return ""
    head = "".join(
        f'<th scope="col"{_numeric(column.numeric)}>{_text(column.title)}</th>'
        for column in table.columns
    )
    return (
        f'<div class="tall" tabindex="0" role="region" aria-label="{_text(table.title)}">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(_body(table))}</tbody></table></div>{_notes(table.notes)}"
    )


def _body(table: TextTable) -> Iterator[str]:
    for place, row in enumerate(table.rows):
        cells = "".join(
            f"<td{_numeric(column.numeric)}>{_text(cell)}</td>"
            for cell, column in zip(row, table.columns, strict=True)
        )
        yield f"<tr{' class=strong' if place in table.strong else ''}>{cells}</tr>"


def _numeric(numeric: bool) -> str:  # noqa: FBT001 -- a cell is a number or it is not
    return " class=n" if numeric else ""


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="quiet">{_text(note)}</p>' for note in notes)


def _differences(rows: Sequence[PairedRow]) -> str:
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
    plot = forest_svg([row for row in rows if id(row) in kept])
    return (
        f'<div class="tall" tabindex="0" role="region" aria-label="Forest plot">{plot}</div>'
        f"{said}<h3>Numbers</h3>{_table(paired_table(rows))}"
    )


def _slices(rows: Sequence[AggregateRow]) -> str:
    """Write a model by slice grid per metric, and the full table under it."""
    if not rows:
        return ""
    grids = []
    if all({"slice_id", "model_id"} <= set(row.keys) for row in rows):
        sorts: dict[tuple[tuple[str, str | None], ...], list[AggregateRow]] = {}
        for row in rows:
            rest = tuple((k, v) for k, v in row.keys.items() if k not in ("slice_id", "model_id"))
            sorts.setdefault(rest, []).append(row)
        grids = [_grid(dict(rest), members) for rest, members in sorts.items()]
    return "".join(grids) + _table(aggregate_table(rows, title="Per slice"))


def _grid(rest: dict[str, str | None], rows: Sequence[AggregateRow]) -> str:
    models = list(dict.fromkeys(row.keys["model_id"] for row in rows))
    cells = {(row.keys["slice_id"], row.keys["model_id"]): row for row in rows}
    means = [row.mean for row in rows if row.mean is not None]
    low, high = min([0.0, *means]), max([1.0, *means])
    head = "".join(f'<th scope="col" class=n>{_text(model or "-")}</th>' for model in models)
    lines = []
    for name in dict.fromkeys(row.keys["slice_id"] for row in rows):
        line = [f'<th scope="row">{_text(name or "-")}</th>']
        for model in models:
            row = cells.get((name, model))
            if row is None or row.mean is None:
                line.append("<td class=n>-</td>")
                continue
            level = round((row.mean - low) / (high - low) * _LEVELS)
            line.append(
                f'<td class="n h{level}">{numbers.score(row.mean)}<br><span class="quiet">'
                f"{numbers.interval(row.ci_lower, row.ci_upper)}</span></td>"
            )
        lines.append(f"<tr>{''.join(line)}</tr>")
    title = ", ".join(f"{KEY_TITLES.get(k, k)}: {v or '-'}" for k, v in rest.items())
    caption = f"<caption>{_text(title)}</caption>" if title else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Model by slice">'
        f"<table>{caption}<thead><tr><th scope=col>slice</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _provenance(data: ReportData) -> str:
    if not data.provenance:
        return ""
    lines = "".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in flatten(data.provenance)
    )
    return f"<dl>{lines}</dl>"


def _text(text: str) -> str:
    """Escape text for any place in the page, control and bidirectional marks made visible."""
    return escape(printable(text))


def _asset(name: str) -> str:
    return files("themis.results.report").joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return b64encode(hashlib.sha256(text.encode()).digest()).decode()


_BROWSER = """
<noscript><p class="note">The item browser needs scripts; everything else does not.</p></noscript>
<div id="browser">
<div class="controls">
<label>search (press /) <input id="search" type="search" placeholder="item id" size="24"></label>
<label class="check"><input id="intext" type="checkbox"> in prompts and outputs</label>
<label>show <select id="show"><option value="all">all</option><option value="failed">failed</option>
<option value="flipped">flipped</option><option value="gained">gained</option>
<option value="lost">lost</option></select></label>
<span id="arms" class="controls" hidden><label>between <select id="what">
<option value="model">models</option><option value="prompt">prompts</option></select></label>
<label>from <select id="baseline"></select></label>
<label>to <select id="treatment"></select></label></span>
<label>metric <select id="metric"></select></label>
<label>slice <select id="slice"></select></label>
<label>model <select id="model"></select></label>
</div>
<div class="controls"><button id="back" type="button">Previous</button>
<button id="next" type="button">Next</button>
<span id="count" role="status" class="quiet">Unpacking…</span></div>
<div id="rows" class="tall"><table id="list" aria-label="Answers"><thead>
<tr><th scope="col">item</th><th scope="col">slice</th><th scope="col">model</th>
<th scope="col">prompt</th>
<th scope="col" class="n">sample</th><th scope="col" class="n">score</th><th scope="col"></th>
<th scope="col">output</th></tr></thead><tbody></tbody></table></div>
<div id="detail" hidden></div>
</div>
"""
