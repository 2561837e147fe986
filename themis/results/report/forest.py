"""A forest plot: every paired difference with its interval, as one SVG."""

from collections.abc import Sequence

from themis.results.compare import SHOWN, PairedRow
from themis.results.report import numbers, svg

_ROW = 28
_TOP = 44
_LABEL = 290
_PLOT = 400
_TEXT = 270
_LONGEST = 40
_COLOURS = {
    "better": "#1a7f37", "worse": "#b42318", "different": "#57606a", "level": "#57606a",
}  # fmt: skip


def forest_svg(rows: Sequence[PairedRow]) -> str:
    """Draw differences (marks) and intervals (lines) around a line at 0.

    A filled mark is a difference that the data support, a hollow one is not. A row without an
    interval shows its mark alone; a row without pairs says so.
    """
    scale = _scale(rows)
    bottom = _TOP + _ROW * len(rows)
    parts = []
    for tick in scale.ticks():
        name, colour = ("zero", svg.QUIET) if tick == 0 else ("axis", svg.GRID)
        parts.append(svg.line(name, (scale(tick), _TOP - 8, scale(tick), bottom), colour))
        at = (scale(tick), _TOP - 14.0)
        parts.append(
            svg.text(
                at, f"{tick:+g}" if tick else "0", name="tick", anchor="middle", colour=svg.QUIET
            )
        )
    for words, anchor, step in (("← lower", "end", -8), ("higher →", "start", 8)):
        at = (scale(0) + step, 14.0)
        parts.append(svg.text(at, words, name="tick", anchor=anchor, colour=svg.QUIET))
    varied = varied_keys(rows)
    for place, row in enumerate(rows):
        parts.append(_row(row, _TOP + _ROW * place + _ROW // 2, scale, varied))
    return svg.drawing(
        "forest",
        "Paired differences with their intervals",
        "The same numbers are in the table of paired differences.",
        (_LABEL + _PLOT + _TEXT, bottom + 10),
        parts,
    )


def _scale(rows: Sequence[PairedRow]) -> svg.Scale:
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
    return svg.Scale(low - pad, high + pad, _LABEL, _PLOT)


def varied_keys(rows: Sequence[PairedRow]) -> frozenset[str]:
    """Return the keys that tell the rows apart; the others say nothing beside every row."""
    names = {name for row in rows for name in (*row.keys, "metric_id", "evaluation")}
    return frozenset(name for name in names if len({_value(row, name) for row in rows}) > 1)


def _value(row: PairedRow, name: str) -> str:
    found = getattr(row, name) if name in ("metric_id", "evaluation") else row.keys.get(name)
    return str(found or "-")


def row_label(row: PairedRow, varied: frozenset[str]) -> str:
    """Name a comparison by its arms and by the keys that vary."""
    names = [name for name in (*row.keys, "metric_id", "evaluation") if name in varied]
    where = ", ".join(_value(row, name) for name in names)
    return f"{where + ': ' if where else ''}{row.treatment} vs {row.baseline}"


def _row(row: PairedRow, y: int, scale: svg.Scale, varied: frozenset[str]) -> str:
    kind = row.verdict if row.verdict in SHOWN else "level"
    colour = _COLOURS[kind]
    label = row_label(row, varied)
    drawn = [svg.text((4, y + 4), svg.short(label, _LONGEST))]
    if row.delta_mean is None:
        return svg.group(label, (*drawn, svg.text((_LABEL + _PLOT + 12, y + 4), "no pairs")))
    if row.ci_lower is not None and row.ci_upper is not None:
        ends = (scale(row.ci_lower), y, scale(row.ci_upper), y)
        drawn.append(svg.line(kind, ends, colour, width=2))
    shown = kind if kind != "level" else "level hollow"
    drawn.append(
        f'<rect class="{shown}" x="{scale(row.delta_mean) - 5:.2f}" y="{y - 5}" width="10" '
        f'height="10" fill="{colour if kind != "level" else "#ffffff"}" stroke="{colour}" '
        'stroke-width="2"/>'
    )
    said = f"{numbers.signed(row.delta_mean)} {numbers.interval(row.ci_lower, row.ci_upper)}"
    drawn.append(svg.text((_LABEL + _PLOT + 12, y + 4), f"{said} {row.verdict}"))
    return svg.group(label, drawn)
