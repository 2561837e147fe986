"""Figures for papers, as SVG and PDF: means with intervals, and the forest plot.

Text stays text: an SVG names its font, a PDF embeds the used part of it (Type 42). The same
results give the same bytes with the same version of matplotlib, which is the `report` extra.
"""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from themis.errors import missing_extra
from themis.results.aggregate import AggregateRow
from themis.results.compare import PairedRow
from themis.results.report import numbers, svg
from themis.results.report.charts import arm_labels, arm_of, other_keys
from themis.results.report.data import ReportData
from themis.results.report.forest import row_label, varied_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "themis",
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
}
_WIDTH = 6.5
_ROW = 0.24
_LONGEST = 44
_MARKS = ("o", "s", "D", "^")
_COLOURS = {"better": "#1a7f37", "worse": "#b42318", "different": "#57606a"}
_LEVEL = "#57606a"
MOST_ROWS = 60
"""Rows of a figure: more would not fit a page; the tables have all."""


def render_figures(data: ReportData) -> Iterator[tuple[str, bytes]]:
    """Yield the figures of a report, each as (file name, content).

    A figure without anything to draw is left out.

    Raises:
        EnvironmentNotReadyError: If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise missing_extra("matplotlib", "report") from error
    with mpl.rc_context(_STYLE):
        for name, figure in (
            ("scores", _scores(data.aggregates)),
            ("forest", _forest(data.paired)),
        ):
            if figure is not None:
                yield f"{name}.svg", _saved(figure, "svg")
                yield f"{name}.pdf", _saved(figure, "pdf")


def _saved(figure: "Figure", form: str) -> bytes:
    # No clock in the file: SVG calls the field Date, PDF CreationDate.
    metadata = {"Date": None} if form == "svg" else {"CreationDate": None}
    target = io.BytesIO()
    figure.savefig(target, format=form, metadata=metadata, bbox_inches="tight")
    return target.getvalue()


def _scores(rows: Sequence[AggregateRow]) -> "Figure | None":
    shown = [row for row in rows if row.mean is not None][:MOST_ROWS]
    if not shown:
        return None
    labels = arm_labels([row.keys for row in shown])
    order = list(labels)
    others = other_keys(shown)
    lanes: dict[str, list[AggregateRow]] = {}
    for row in shown:
        lanes.setdefault(", ".join(row.keys.get(name) or "-" for name in others), []).append(row)
    figure, axes = _axes(len(shown) + len(lanes))
    y, ticks, named = 0.0, [], set[int]()
    for lane, members in lanes.items():
        ticks.append((y + (len(members) - 1) / 2, svg.short(lane, _LONGEST)))
        for row in sorted(members, key=lambda row: order.index(arm_of(row.keys))):
            place = order.index(arm_of(row.keys))
            _draw_mean(axes, row, y, place, "" if place in named else labels[order[place]])
            named.add(place)
            y += 1
        y += 0.8
    axes.set_yticks([at for at, _ in ticks], [_literal(label) for _, label in ticks])
    axes.set_ylim(y - 0.8, -0.8)
    axes.set_xlabel("mean score, with interval")
    if len(order) > 1:
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def _draw_mean(axes: Any, row: AggregateRow, y: float, place: int, label: str) -> None:
    colour = svg.SERIES[place % len(svg.SERIES)]
    if row.ci_lower is not None and row.ci_upper is not None:
        axes.plot([row.ci_lower, row.ci_upper], [y, y], color=colour, linewidth=1.2)
    axes.plot(
        [row.mean],
        [y],
        marker=_MARKS[place % len(_MARKS)],
        markersize=5,
        color=colour,
        linestyle="none",
        label=_literal(label) if label else "_nolegend_",
    )


def _forest(rows: Sequence[PairedRow]) -> "Figure | None":
    shown = [row for row in rows if row.delta_mean is not None][:MOST_ROWS]
    if not shown:
        return None
    varied = varied_keys(shown)
    figure, axes = _axes(len(shown))
    for y, row in enumerate(shown):
        assert row.delta_mean is not None  # noqa: S101 -- filtered above
        colour = _COLOURS.get(row.verdict, _LEVEL)
        if row.ci_lower is not None and row.ci_upper is not None:
            axes.plot([row.ci_lower, row.ci_upper], [y, y], color=colour, linewidth=1.2)
        filled = colour if row.verdict in _COLOURS else "white"
        axes.plot([row.delta_mean], [y], "s", color=colour, markerfacecolor=filled, markersize=5)
        said = f"{numbers.signed(row.delta_mean)} {numbers.interval(row.ci_lower, row.ci_upper)}"
        axes.annotate(
            _literal(said), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=7
        )
    axes.axvline(0, color=_LEVEL, linewidth=0.6)
    names = [_literal(svg.short(row_label(row, varied), _LONGEST)) for row in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("paired difference (treatment minus baseline), with interval")
    return figure


def _axes(rows: int) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 0.7 + _ROW * rows))
    axes = figure.add_subplot()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=svg.GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _literal(words: str) -> str:
    """Keep matplotlib from reading $ as the start of a formula."""
    return words.replace("$", r"\$")
