"""Gain against forgetting, and against cost: strategies as marks, what they are worth as places.

Both have the gain to the right and share its scale. A strategy that another one makes superfluous
(see `_pareto`) is grey in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from domainwright.studies import _format as f
from domainwright.studies._facts import forgotten, measured, same_weights
from domainwright.studies._pareto import dominated
from domainwright.studies._svg import Scale, covering, join, line, mark, plot, text
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import StrategyResult, Verdict

HEIGHT = 320
LABEL = 24
"""Characters of a name beside its mark; the rest of it stands in the lists."""
NARROW = 264
"""Width in pixels of a map on a phone of 360 px. Labels that do not
touch there do not touch anywhere: a wider screen only moves marks apart."""
WIDE = 30.0
"""Ratio of the highest to the lowest cost from which their axis is logarithmic."""

Ends = tuple[float, float, float]
"""Low, mean, high."""


@dataclass(frozen=True, slots=True)
class Map:
    title: str
    rises: str
    """What the upward axis shows."""
    plot: Markup
    limited: bool
    """Whether the limit of forgetting is drawn."""


@dataclass(frozen=True, slots=True)
class Spot:
    """One strategy on a map."""

    name: str
    css: str
    """Its kind, or that it is dominated."""
    kind: str
    x: Ends
    y: Ends


@dataclass(frozen=True, slots=True)
class Rises:
    """The upward axis."""

    scale: Scale
    ticks: Sequence[tuple[float, str]]
    limit: float | None = None


def maps(verdict: Verdict) -> list[Map]:
    """The maps of which at least two strategies are known."""
    drawn = [_forgetting(verdict), _cost(verdict)]
    return [m for m in drawn if m is not None]


def _placed(verdict: Verdict) -> list[StrategyResult]:
    """Strategies whose gain is known."""
    return [
        r
        for r in measured(verdict)
        if (r.difference is not None or r.name == REFERENCE)
        and f.fixed(_gain(r)[1], 1) != f.MISSING
    ]


def _spots(verdict: Verdict, heights: dict[str, Ends]) -> list[Spot]:
    grey = dominated(verdict)
    return [
        Spot(r.name, "dominated" if r.name in grey else r.kind, r.kind, _gain(r), heights[r.name])
        for r in _placed(verdict)
        if r.name in heights
    ]


def _forgetting(verdict: Verdict) -> Map | None:
    lost = {r.name: _lost(r) for r in _placed(verdict) if forgotten(r) is not None}
    spots = _spots(verdict, lost)
    if len(spots) < 2:
        return None
    limit = verdict.max_forgetting
    scale = covering([0.0, limit, *(v for s in spots for v in s.y)], pad=0.14)
    values = scale.ticks(6)
    places = f.exact(values)
    ticks = [(t, f.fixed(t, places, sign=True)) for t in values]
    unit = f.unit(verdict.score)
    about = "; ".join(
        f"{s.name}: gain {unit.change(s.x[1])}, forgetting {f.fixed(s.y[1], 3)} nats per token"
        for s in spots
    )
    return Map(
        title="Forgetting against gain",
        rises="Forgetting in nats per token on general text, upwards is worse",
        plot=_draw(verdict, spots, Rises(scale, ticks, limit), about),
        limited=True,
    )


def _cost(verdict: Verdict) -> Map | None:
    if verdict.costs is None:
        return None
    totals = {c.strategy: c.total for c in verdict.costs.strategies if math.isfinite(c.total)}
    known = [totals[r.name] for r in _placed(verdict) if r.name in totals]
    log = bool(known) and min(known) > 0 and max(known) > WIDE * min(known)
    spots = _spots(
        verdict,
        {name: (_up(v, log),) * 3 for name, v in totals.items()},
    )
    if len(spots) < 2:
        return None
    scale = covering([*([] if log else [0.0]), *(s.y[1] for s in spots)], pad=0.14)
    prices = verdict.costs.prices
    unit = f.unit(verdict.score)
    about = "; ".join(
        f"{s.name}: gain {unit.change(s.x[1])}, {f.money(totals[s.name], prices.currency)} in all"
        for s in spots
    )
    months = f"{prices.months:g} month{'' if prices.months == 1 else 's'}"
    return Map(
        title="Cost against gain",
        rises=f"{prices.currency} in all over {months}, upwards is worse",
        plot=_draw(verdict, spots, Rises(scale, _amounts(scale, log)), about),
        limited=False,
    )


def _up(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _amounts(scale: Scale, log: bool) -> list[tuple[float, str]]:
    """Round amounts on the axis; of a logarithmic one the powers of ten and their doubles."""
    if not log:
        values = [t for t in scale.ticks(6) if t >= 0]
        places = f.exact(values)
        return [(t, f.fixed(t, places)) for t in values]
    powers = range(math.floor(scale.low), math.ceil(scale.high) + 1)
    steps = (1, 2, 5) if scale.high - scale.low < 3 else (1,)
    amounts = [m * 10.0**p for p in powers for m in steps]
    return [
        (math.log10(a), f"{a:,.0f}" if a >= 1 else f"{a:g}")
        for a in amounts
        if scale.low <= math.log10(a) <= scale.high
    ]


def _draw(verdict: Verdict, spots: list[Spot], rises: Rises, about: str) -> Markup:
    """Gain to the right, intervals as crosses, dominated strategies behind the others."""
    unit, y = f.unit(verdict.score), rises.scale
    x = covering([v for r in _placed(verdict) for v in _gain(r)], pad=0.1)
    ticks = x.ticks(6)
    parts = []
    if rises.limit is not None:
        top = y.up(rises.limit)
        parts.append(
            Markup('<rect class="over" x="0" y="0" width="100%" height="{}"/>').format(top)
        )
    for t, words in zip(ticks, unit.ticks(ticks), strict=True):
        parts.append(line(x.at(t), "0", x.at(t), "100%", "zero" if t == 0 else "grid"))
        parts.append(text(x.at(t), "100%", f.typeset(words), "tick mid", dy=17))
    for t, words in rises.ticks:
        none = float(words.replace(",", "")) == 0
        parts.append(line("0", y.up(t), "100%", y.up(t), "zero" if none else "grid"))
        parts.append(text("0", y.up(t), f.typeset(words), "tick end", dx=-7, dy=4))
    if rises.limit is not None:
        at = y.up(rises.limit)
        parts.append(line("0", at, "100%", at, "limit"))
        parts.append(text("0", at, f"limit {f.fixed(rises.limit, 2)}", "limit-label", dx=6, dy=-6))
    spots = sorted(spots, key=lambda s: s.css != "dominated")
    parts += [_cross(s, x, y) for s in spots]
    parts += _labels(spots, x, y, rises.limit)
    parts += [mark(x.at(s.x[1]), y.up(s.y[1]), s.kind, css=s.css, title=_title(s)) for s in spots]
    parts.append(text("50%", "100%", f"gain: {unit.axis}, right is better", "axis mid", dy=36))
    return plot(join(parts), HEIGHT, about)


def _title(spot: Spot) -> str:
    return f"{spot.name} (dominated)" if spot.css == "dominated" else spot.name


def _gain(r: StrategyResult) -> Ends:
    d = r.difference
    return (d.low, d.mean, d.high) if d else (0.0, 0.0, 0.0)


def _lost(r: StrategyResult) -> Ends:
    if same_weights(r) or r.retention is None:
        return 0.0, 0.0, 0.0
    change = r.retention.nats_change
    return change.low, change.mean, change.high


def _cross(spot: Spot, x: Scale, y: Scale) -> Markup:
    (left, gain, right), (low, high_at, high) = spot.x, spot.y
    css = f"interval thin {spot.css}"
    arms = [line(x.at(left), y.up(high_at), x.at(right), y.up(high_at), css)]
    if low < high:
        arms.append(line(x.at(gain), y.up(low), x.at(gain), y.up(high), css))
    return join(arms)


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def _labels(spots: Sequence[Spot], x: Scale, y: Scale, limit: float | None) -> list[Markup]:
    """Names beside their marks, each at the place where it covers least."""
    blocked: list[tuple[Box, float]] = []
    for s in spots:
        (left, gain, right), (low, lost, high) = (
            tuple(NARROW * x.share(v) for v in s.x),
            tuple(HEIGHT * (1 - y.share(v)) for v in s.y),
        )
        blocked += [
            ((gain - 7, lost - 7, gain + 7, lost + 7), 6.0),
            ((left, lost - 2, right, lost + 2), 1.5),
            ((gain - 2, high, gain + 2, low), 1.5),
        ]
    if limit is not None:
        rule = HEIGHT * (1 - y.share(limit))
        blocked.append(((0, rule - 18, 62, rule), 6.0))
        blocked.append(((0, rule - 2, NARROW, rule + 2), 0.5))
    parts = []
    for s in reversed(spots):
        px, py = NARROW * x.share(s.x[1]), HEIGHT * (1 - y.share(s.y[1]))
        dx, dy, anchor, box = _best_place(px, py, 7.6 * len(_short(s.name)) + 2, blocked)
        blocked.append((box, 12.0))
        at = x.at(s.x[1]), y.up(s.y[1])
        if abs(dy) > 24:
            end = dy + 3 if dy < 0 else dy - 11
            parts.append(
                Markup('<svg x="{}" y="{}"><path class="leader" d="M0 0V{}"/></svg>').format(
                    *at, end
                )
            )
        css = f"name {anchor}{' faint' if s.css == 'dominated' else ''}"
        parts.append(text(*at, _short(s.name), css, dx=dx, dy=dy))
    return parts


def _best_place(
    px: float, py: float, width: float, blocked: list[tuple[Box, float]]
) -> tuple[float, float, str, Box]:
    places = [
        (0.0, -11.0, "mid"),
        (0.0, 20.0, "mid"),
        (10.0, 4.0, "start"),
        (-10.0, 4.0, "end"),
        (7.0, -9.0, "start"),
        (-7.0, -9.0, "end"),
        (7.0, 17.0, "start"),
        (-7.0, 17.0, "end"),
    ]
    places += [(0.0, s * far, "mid") for far in (27.0, 42.0, 57.0, 72.0, 87.0) for s in (-1, 1)]
    best = None
    for nth, (dx, dy, anchor) in enumerate(places):
        left = px + dx - {"start": 0, "mid": width / 2, "end": width}[anchor]
        box = (left, py + dy - 11, left + width, py + dy + 3)
        outside = max(0, -40 - box[0]) + max(0, box[2] - NARROW - 12) + max(0, -box[1])
        outside += max(0, box[3] - HEIGHT + 2)
        cost = nth * 4 + outside * 60 + sum(w * _overlap(box, b) for b, w in blocked)
        if best is None or cost < best[0]:
            best = cost, (dx, dy, anchor, box)
    assert best is not None
    return best[1]


def _short(name: str) -> str:
    return name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
