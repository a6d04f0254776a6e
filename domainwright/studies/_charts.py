"""What was gained, and what it cost in general ability: two drawings of one verdict."""

from dataclasses import dataclass

from markupsafe import Markup

from domainwright.studies import _format as f
from domainwright.studies._facts import REFERENCE, decision, forgotten, measured, same_weights
from domainwright.studies._svg import Scale, covering, join, line, mark, plot, text
from domainwright.studies.records import StrategyResult, Verdict

HEIGHT = 320
LABEL = 24
"""Characters of a name beside its mark; the rest of it stands in the lists."""
NARROW = 264
"""Width in pixels of the gain-forgetting plot on a phone of 360 px. Labels that do not
touch there do not touch anywhere: a wider screen only moves marks apart."""


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of the gain chart."""

    result: StrategyResult
    strip: Markup
    words: str
    decision: str


@dataclass(frozen=True, slots=True)
class Forest:
    rows: list[ForestRow]
    axis: Markup


def forest(verdict: Verdict) -> Forest | None:
    """Gain over the untouched base with its interval; None where nothing can be compared."""
    results = [r for r in measured(verdict) if r.difference is not None]
    if not results:
        return None
    unit = f.unit(verdict.score)
    ends = [v for r in results if (d := r.difference) for v in (d.low, d.mean, d.high)]
    scale = covering([0.0, *ends])
    ticks = scale.ticks(5)
    # Right is better whatever the unit: in bits per byte the labels count down.
    labels = [
        text(scale.at(t), "16", f.typeset(words), "tick mid")
        for t, words in zip(ticks, unit.ticks(ticks), strict=True)
    ]
    axis = Markup('<svg class="strip" height="22" aria-hidden="true">{}</svg>').format(join(labels))
    return Forest([_forest_row(r, scale, ticks, unit) for r in results], axis)


def _forest_row(r: StrategyResult, scale: Scale, ticks: list[float], unit: f.Unit) -> ForestRow:
    assert r.difference is not None  # `forest` leaves the others out
    d, verdict = r.difference, decision(r)
    words = f.typeset(unit.changes(d))
    parts = [
        line(scale.at(t), "0", scale.at(t), "100%", "zero" if t == 0 else "grid") for t in ticks
    ]
    if f.MISSING not in words:
        parts += [
            line(scale.at(d.low), "50%", scale.at(d.high), "50%", f"interval {r.kind}"),
            mark(
                scale.at(d.mean),
                "50%",
                r.kind,
                hollow=verdict == "not decided",
                title=f"{r.name} {words}",
            ),
        ]
    strip = Markup('<svg class="strip" role="img" aria-label="{}">{}</svg>').format(
        f"{r.name}: {words}, {verdict}", join(parts)
    )
    return ForestRow(r, strip, words, verdict)


def gain_and_forgetting(verdict: Verdict) -> Markup | None:
    """Gain to the right, forgetting upwards, intervals as crosses, and the limit of the study."""
    results = [
        r
        for r in measured(verdict)
        if forgotten(r) is not None
        and (r.difference is not None or r.name == REFERENCE)
        and f.fixed(_gain(r)[1], 1) != f.MISSING
    ]
    if len(results) < 2:
        return None
    unit, limit = f.unit(verdict.score), verdict.max_forgetting
    x = covering([v for r in results for v in _gain(r)], pad=0.1)
    y = covering([0.0, limit, *(v for r in results for v in _lost(r))], pad=0.14)
    ticks, rises = x.ticks(6), y.ticks(6)
    parts = [
        Markup('<rect class="over" x="0" y="0" width="100%" height="{}"/>').format(y.up(limit))
    ]
    for t, words in zip(ticks, unit.ticks(ticks), strict=True):
        parts.append(line(x.at(t), "0", x.at(t), "100%", "zero" if t == 0 else "grid"))
        parts.append(text(x.at(t), "100%", f.typeset(words), "tick mid", dy=17))
    places = f.exact(rises)
    for t in rises:
        parts.append(line("0", y.up(t), "100%", y.up(t), "zero" if t == 0 else "grid"))
        parts.append(
            text("0", y.up(t), f.typeset(f.fixed(t, places, sign=True)), "tick end", dx=-7, dy=4)
        )
    parts.append(line("0", y.up(limit), "100%", y.up(limit), "limit"))
    parts.append(text("0", y.up(limit), f"limit {f.fixed(limit, 2)}", "limit-label", dx=6, dy=-6))
    parts += [_cross(r, x, y) for r in results]
    parts += _labels(results, x, y, limit)
    parts += [mark(x.at(_gain(r)[1]), y.up(_lost(r)[1]), r.kind, title=r.name) for r in results]
    parts.append(text("50%", "100%", f"gain: {unit.axis}, right is better", "axis mid", dy=36))
    about = "; ".join(
        f"{r.name}: gain {unit.change(_gain(r)[1])}, "
        f"forgetting {f.fixed(_lost(r)[1], 3)} nats per token"
        for r in results
    )
    return plot(join(parts), HEIGHT, about)


def _gain(r: StrategyResult) -> tuple[float, float, float]:
    d = r.difference
    return (d.low, d.mean, d.high) if d else (0.0, 0.0, 0.0)


def _lost(r: StrategyResult) -> tuple[float, float, float]:
    if same_weights(r) or r.retention is None:
        return 0.0, 0.0, 0.0
    change = r.retention.nats_change
    return change.low, change.mean, change.high


def _cross(r: StrategyResult, x: Scale, y: Scale) -> Markup:
    (left, gain, right), (low, lost, high) = _gain(r), _lost(r)
    css = f"interval thin {r.kind}"
    return join(
        [
            line(x.at(left), y.up(lost), x.at(right), y.up(lost), css),
            line(x.at(gain), y.up(low), x.at(gain), y.up(high), css),
        ]
    )


Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def _labels(results: list[StrategyResult], x: Scale, y: Scale, limit: float) -> list[Markup]:
    """Names beside their marks, each at the place where it covers least."""
    blocked: list[tuple[Box, float]] = []
    for r in results:
        (left, gain, right), (low, lost, high) = (
            tuple(NARROW * x.share(v) for v in _gain(r)),
            tuple(HEIGHT * (1 - y.share(v)) for v in _lost(r)),
        )
        blocked += [
            ((gain - 7, lost - 7, gain + 7, lost + 7), 6.0),
            ((left, lost - 2, right, lost + 2), 1.5),
            ((gain - 2, high, gain + 2, low), 1.5),
        ]
    rule = HEIGHT * (1 - y.share(limit))
    blocked.append(((0, rule - 18, 62, rule), 6.0))
    blocked.append(((0, rule - 2, NARROW, rule + 2), 0.5))
    parts = []
    for r in results:
        px, py = NARROW * x.share(_gain(r)[1]), HEIGHT * (1 - y.share(_lost(r)[1]))
        dx, dy, anchor, box = _best_place(px, py, 7.6 * len(_short(r.name)) + 2, blocked)
        blocked.append((box, 12.0))
        at = x.at(_gain(r)[1]), y.up(_lost(r)[1])
        if abs(dy) > 24:
            end = dy + 3 if dy < 0 else dy - 11
            parts.append(
                Markup('<svg x="{}" y="{}"><path class="leader" d="M0 0V{}"/></svg>').format(
                    *at, end
                )
            )
        parts.append(text(*at, _short(r.name), f"name {anchor}", dx=dx, dy=dy))
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
