"""What the drawings of a report share: scales, round ticks, and SVG text.

Colours are presentation attributes, which a style sheet may override (the HTML report does,
for dark screens) and which stand by themselves in Markdown, LaTeX or an image viewer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

from themis.results.report.terminal import printable

INK, QUIET, GRID = "#1b1f24", "#57606a", "#d0d7de"
SERIES = ("#0b57d0", "#b45309", "#0f766e", "#7c3aed", "#be185d", "#4d7c0f")
"""Colours of arms; each has its own mark too, so colour is never alone."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A line of numbers laid on a line of pixels."""

    low: float
    high: float
    start: float
    length: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * self.length

    def ticks(self, about: int = 6) -> list[float]:
        """Return round positions, 0 among them where it is on the scale."""
        rough = (self.high - self.low) / about
        power = 10.0 ** floor(log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [round(k * step, 12) for k in range(first, last + 1)]


def drawing(
    name: str, title: str, description: str, size: tuple[int, int], parts: Iterable[str]
) -> str:
    """Return a whole SVG.

    Args:
        name: Its class.
        title: What it shows, for people who cannot see it.
        description: Where the same numbers are.
        size: Width and height, in pixels.
        parts: What is drawn.
    """
    width, height = size
    return (
        f'<svg class="chart {name}" xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="13" '
        f'fill="{INK}"><title>{quoted(title)}</title><desc>{quoted(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def line(name: str, ends: tuple[float, float, float, float], colour: str, width: int = 1) -> str:
    """Draw a line from (x1, y1) to (x2, y2)."""
    x1, y1, x2, y2 = ends
    return (
        f'<line class="{name}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def text(
    at: tuple[float, float],
    words: str,
    *,
    name: str = "label",
    anchor: str = "start",
    colour: str = INK,
) -> str:
    """Write words at a place."""
    x, y = at
    return (
        f'<text class="{name}" x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" fill="{colour}">'
        f"{quoted(words)}</text>"
    )


def mark(kind: int, at: tuple[float, float], *, size: float = 5.0, hollow: bool = False) -> str:
    """Draw the mark of a series: a circle, square, diamond, triangle, and so on again."""
    x, y = at
    colour = SERIES[kind % len(SERIES)]
    look = f'class="series s{kind % len(SERIES)}{" hollow" if hollow else ""}" '
    look += f'fill="{"none" if hollow else colour}" stroke="{colour}" stroke-width="2"'
    corners: tuple[tuple[float, float], ...]
    match kind % 4:
        case 0:
            return f'<circle {look} cx="{x:.2f}" cy="{y:.2f}" r="{size:g}"/>'
        case 1:
            side = 2 * size - 1
            return (
                f'<rect {look} x="{x - size + 0.5:.2f}" y="{y - size + 0.5:.2f}" '
                f'width="{side:g}" height="{side:g}"/>'
            )
        case 2:
            corners = ((x, y - size - 1), (x + size + 1, y), (x, y + size + 1), (x - size - 1, y))
        case _:
            corners = ((x, y - size - 1), (x + size + 1, y + size), (x - size - 1, y + size))
    points = " ".join(f"{a:.2f},{b:.2f}" for a, b in corners)
    return f'<polygon {look} points="{points}"/>'


def group(title: str, parts: Iterable[str]) -> str:
    """Put parts together under a title that shows when the mouse rests on them."""
    return f"<g><title>{quoted(title)}</title>{''.join(parts)}</g>"


def quoted(words: str) -> str:
    """Escape text; control and bidirectional marks are made visible."""
    return escape(printable(words))


def short(words: str, longest: int) -> str:
    """Cut a label that is too long.

    >>> short("abcdef", 4)
    'abc…'
    """
    words = printable(words)
    return words if len(words) <= longest else words[: longest - 1] + "…"
