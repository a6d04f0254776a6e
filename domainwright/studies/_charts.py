"""What every strategy gained over the untouched base, with its interval."""

from dataclasses import dataclass

from markupsafe import Markup

from domainwright.studies import _format as f
from domainwright.studies._facts import decision, measured
from domainwright.studies._svg import Scale, covering, join, line, mark, text
from domainwright.studies.records import StrategyResult, Verdict


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
