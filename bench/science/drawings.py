"""The plot of a row, drawn from its line in results.jsonl."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from domainwright.studies._svg import covering, join, line, mark, polyline, text
from domainwright.studies.plot import WIDTH, Drawing, page, placed

LEFT, RIGHT, TOP, TALL = 70, 200, 52, 250
ROW = 30
NAMES = 240
"""Room for the names of a plot with a line an arm."""
KINDS = ("method", "prompting", "combination", "dominated")
"""Marks of the lines of a plot, in turn."""
APART = 15
"""Pixels between two names that would overlap."""

Points = Sequence[Sequence[float]]


def draw(record: Mapping[str, Any], drawing: Sequence[str], about: str) -> Drawing:
    """A row's plot.

    Args:
        drawing: ("curves", words of x, words of y), from the record's curves;
            ("rates", words of x, words of y), from its sweeps, x in powers of ten;
            ("dots", name of a figure, words of it), every seed of every arm.
        about: for those who cannot see it.
    """
    kind, first, second = drawing
    if kind == "dots":
        values = {
            arm: [x for x in own[first] if x is not None]
            for arm, own in record["figures"].items()
            if first in own
        }
        parts, height = dots(values, second)
    else:
        lines: Mapping[str, Points] = record["curves"]
        if kind == "rates":
            lines = {
                arm: [(math.log10(float(r)), v) for r, v in losses.items() if v is not None]
                for arm, losses in record["rates"].items()
            }
        parts, height = curves(lines, first, second, powers=kind == "rates")
    return Drawing(page([text("12", "26", record["claim"], "title"), *parts], height, about))


def curves(
    lines: Mapping[str, Points], x_words: str, y_words: str, *, powers: bool
) -> tuple[list[Markup], float]:
    """(content, height) of lines with a mark at every point, named at the side near their ends."""
    x = covering(p[0] for points in lines.values() for p in points)
    y = covering(p[1] for points in lines.values() for p in points)
    wide = WIDTH - LEFT - RIGHT
    inside = [line("0%", y.up(t), "100%", y.up(t), "grid") for t in y.ticks()]
    inside += [text("0%", y.up(t), f"{t:g}", "end", dx=-8, dy=4) for t in y.ticks()]
    ticks = [t for t in x.ticks() if not powers or t == round(t)]
    if powers:
        ticks = [float(n) for n in range(math.ceil(x.low), math.floor(x.high) + 1)]
    for tick in ticks:
        words = f"{10**tick:g}" if powers else f"{tick:g}"
        inside.append(text(x.at(tick), "100%", words, "mid", dy=18))
    ends = dict[str, float]()
    looks = dict[str, dict[str, Any]]()
    for number, (name, points) in enumerate(lines.items()):
        looks[name] = {"kind": KINDS[number % len(KINDS)], "hollow": number >= len(KINDS)}
        if len(points) > 1:
            inside.append(polyline([(p[0], p[1]) for p in points], x, y, "raw"))
        inside += [mark(x.at(p[0]), y.up(p[1]), title=name, **looks[name]) for p in points]
        ends[name] = (1 - y.share(points[-1][1])) * TALL
    parts = [
        text("12", "44", y_words, "start"),
        placed(join(inside), LEFT, TOP, wide, TALL),
        text(f"{LEFT + wide / 2:g}", f"{TOP + TALL + 40}", x_words, "mid"),
    ]
    side = LEFT + wide + 24
    for name, height in spread(ends).items():
        parts.append(mark(f"{side}", f"{TOP + height:.0f}", **looks[name]))
        parts.append(text(f"{side + 12}", f"{TOP + height + 4:.0f}", name, "name start"))
    return parts, TOP + TALL + 56


def dots(values: Mapping[str, Sequence[float]], words: str) -> tuple[list[Markup], float]:
    """(content, height) of a line an arm: every seed hollow, their mean filled."""
    scale = covering(x for own in values.values() for x in own)
    wide = WIDTH - NAMES - 40
    parts = []
    for number, (name, own) in enumerate(values.items()):
        top = TOP + number * ROW
        parts.append(text("12", f"{top + ROW / 2 + 4:g}", name, "name start"))
        marks = [mark(scale.at(v), "50%", "method", hollow=True, title=f"{v:.4f}") for v in own]
        mean = sum(own) / len(own)
        marks.append(mark(scale.at(mean), "50%", "method", title=f"mean {mean:.4f}"))
        rule = line("0%", "50%", "100%", "50%", "grid")
        parts.append(placed(join([rule, *marks]), NAMES, top, wide, ROW))
    bottom = TOP + len(values) * ROW
    axis = [text(scale.at(t), "0%", f"{t:g}", "mid", dy=14) for t in scale.ticks()]
    parts.append(placed(join(axis), NAMES, bottom, wide, 20))
    parts.append(text(f"{NAMES + wide / 2:g}", f"{bottom + 36}", words, "mid"))
    return parts, bottom + 52


def spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Heights of names moved down as far as is needed to keep them apart.

    >>> spread({"a": 10.0, "b": 12.0})
    {'a': 10.0, 'b': 25.0}
    """
    found: dict[str, float] = {}
    last = -math.inf
    for name in sorted(heights, key=heights.__getitem__):
        last = max(heights[name], last + APART)
        found[name] = last
    return found
