"""A forest plot: every paired difference with its interval, as one SVG.

Colours are presentation attributes, which a style sheet may override (the HTML report does,
for dark screens) and which stand by themselves in Markdown, LaTeX or an image viewer.
"""

from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10

from themis.results.compare import PairedRow
from themis.results.report import numbers
from themis.results.report.terminal import printable

_ROW = 22
_TOP = 34
_LABEL = 330
_PLOT = 430
_TEXT = 200
_LONGEST = 46
_COLOURS = {"better": "#1a7f37", "worse": "#b42318", "level": "#57606a"}


def forest_svg(rows: Sequence[PairedRow]) -> str:
    """Draw differences (squares) and intervals (lines) around a line at 0.

    A row without an interval shows its square alone; a row without pairs shows a dash.
    """
    ends = [
        end
        for row in rows
        for end in (row.ci_lower, row.ci_upper, row.delta_mean)
        if end is not None
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if high == low:
        low, high = -1.0, 1.0
    pad = 0.04 * (high - low)
    low, high = low - pad, high + pad
    height = _TOP + _ROW * len(rows) + 10
    width = _LABEL + _PLOT + _TEXT

    def x(value: float) -> str:
        return f"{_LABEL + (value - low) / (high - low) * _PLOT:.2f}"

    head = (
        f'<svg class="forest" xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12">'
        "<title>Paired differences with their intervals</title>"
        "<desc>The same numbers are in the table of paired differences.</desc>"
    )
    parts = [head]
    for tick in _ticks(low, high):
        name = "zero" if tick == 0 else "axis"
        colour = "#57606a" if tick == 0 else "#d0d7de"
        parts.append(
            f'<line class="{name}" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP - 8}" '
            f'y2="{height - 10}" stroke="{colour}"/>'
            f'<text class="tick" x="{x(tick)}" y="{_TOP - 14}" text-anchor="middle" '
            f'fill="#57606a">{tick:g}</text>'
        )
    for place, row in enumerate(rows):
        parts.append(_row(row, _TOP + _ROW * place + _ROW // 2, x))
    return "".join((*parts, "</svg>"))


def _row(row: PairedRow, y: int, x: Callable[[float], str]) -> str:
    kind = row.verdict if row.verdict in ("better", "worse") else "level"
    colour = _COLOURS[kind]
    group = ", ".join(value or "-" for value in row.keys.values())
    label = printable(f"{group + ': ' if group else ''}{row.treatment} vs {row.baseline}")
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    drawn = [
        f"<g><title>{escape(label)}</title>",
        f'<text x="4" y="{y + 4}">{escape(short)}</text>',
    ]
    if row.delta_mean is None:
        return "".join((*drawn, f'<text x="{_LABEL + _PLOT + 10}" y="{y + 4}">no pairs</text></g>'))
    if row.ci_lower is not None and row.ci_upper is not None:
        drawn.append(
            f'<line class="{kind}" x1="{x(row.ci_lower)}" x2="{x(row.ci_upper)}" y1="{y}" '
            f'y2="{y}" stroke="{colour}" stroke-width="2"/>'
        )
    drawn.append(
        f'<rect class="{kind}" x="{float(x(row.delta_mean)) - 4:.2f}" y="{y - 4}" width="8" '
        f'height="8" fill="{colour}"/>'
    )
    said = f"{numbers.signed(row.delta_mean)} {numbers.interval(row.ci_lower, row.ci_upper)}"
    drawn.append(f'<text x="{_LABEL + _PLOT + 10}" y="{y + 4}">{escape(said)}</text></g>')
    return "".join(drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Round positions, 0 among them, about six of them."""
    rough = (high - low) / 6
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [round(k * step, 12) for k in range(ceil(low / step), floor(high / step) + 1)]
