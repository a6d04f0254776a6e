"""Inline SVG that fits any width: positions in percent, text and marks in pixels.

A drawing with a view box shrinks its text with it; on a phone nobody could read it. Every
text passes through `Markup.format`, which escapes it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MARKS = {
    "prompting": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "method": "M-4.6-4.6h9.2v9.2h-9.2z",
    "combination": "M0-6.4L6.4 0L0 6.4L-6.4 0z",
}
"""Kind of strategy -> outline. Shape as well as colour: not everyone tells the colours apart."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`."""

    low: float
    high: float

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def at(self, value: float) -> str:
        """Position along the axis."""
        return f"{100 * self.share(value):.2f}%"

    def up(self, value: float) -> str:
        """Position on a vertical axis, where SVG counts downwards."""
        return f"{100 * (1 - self.share(value)):.2f}%"

    def ticks(self, about: int = 5) -> list[float]:
        """Round values on the axis, `about` that many.

        >>> Scale(-0.02, 0.4).ticks(5)
        [0.0, 0.1, 0.2, 0.3, 0.4]
        """
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


def covering(values: Iterable[float], *, pad: float = 0.06) -> Scale:
    """A scale that holds every finite value with `pad` of its length free at each end."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    room = pad * (high - low) or abs(high) * pad or 1.0
    return Scale(low - room, high + room)


def join(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


def mark(
    x: str, y: str, kind: str, *, css: str = "", hollow: bool = False, title: str = ""
) -> Markup:
    """The mark of one strategy: its kind gives the outline, and the colour where `css` is empty."""
    return Markup(
        '<svg x="{}" y="{}"><path class="mark {}{}" d="{}"><title>{}</title></path></svg>'
    ).format(
        x, y, css or kind, " hollow" if hollow else "", MARKS.get(kind, MARKS["method"]), title
    )


def line(x1: str, y1: str, x2: str, y2: str, css: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(css, x1, y1, x2, y2)


def text(x: str, y: str, words: str, css: str, *, dx: float = 0, dy: float = 0) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" dx="{:.0f}" dy="{:.0f}">{}</text>').format(
        css, x, y, dx, dy, words
    )


def polyline(points: Sequence[tuple[float, float]], x: Scale, y: Scale, css: str) -> Markup:
    """A curve. Stretched with the drawing, its stroke is not."""
    path = " ".join(f"{1000 * x.share(a):.1f},{1000 * (1 - y.share(b)):.1f}" for a, b in points)
    return Markup(
        '<svg class="stretched" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        '<polyline class="{}" points="{}"/></svg>'
    ).format(css, path)


def plot(content: Markup, height: int, about: str) -> Markup:
    """The drawing with its description for those who cannot see it."""
    return Markup('<svg class="plot" height="{}" role="img" aria-label="{}">{}</svg>').format(
        height, about, content
    )
