"""Loss while training: one small drawing per run, all on one scale so they can be compared.

And loss by the number of training rows, where a study asks for that.
"""

import math
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from domainwright.studies import _format as f
from domainwright.studies._facts import in_order
from domainwright.studies._svg import Scale, covering, join, line, plot, polyline, text
from domainwright.studies.records import LearningCurve, Training, Verdict
from domainwright.studies.task_records import InSequence

HEIGHT = 190
POINTS = 500
"""A curve keeps at most about this many points: more cannot be seen and make the file large."""

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """The losses of one training run."""

    names: list[str]
    """Strategies that share the run: a combination may reuse a method's adapter."""
    training: Training
    plot: Markup


def curves(verdict: Verdict) -> list[Curve]:
    runs: list[tuple[list[str], Training]] = []
    for result in in_order(verdict):
        if result.training is None or not result.training.history:
            continue
        same = next((names for names, t in runs if t.history == result.training.history), None)
        if same is not None:
            same.append(result.name)
        else:
            runs.append(([result.name], result.training))
    if not runs:
        return []
    # Training loss is noisy and a diverged run knows no bounds: its highest hundredth may
    # leave the drawing, the points of the other two curves may not.
    noisy = sorted(v for _, t in runs for _, v in _series(t, "loss"))
    steady = [
        v
        for _, t in runs
        for name in ("development_loss", "general_loss")
        for _, v in _series(t, name)
    ]
    y = covering([*noisy[: max(1, math.ceil(0.99 * len(noisy)))], *steady])
    return [Curve(names, training, _draw(names, training, y)) for names, training in runs]


def by_rows(curve: LearningCurve) -> Markup:
    """The loss after training on parts of the rows, with its intervals."""
    x = covering([0.0, *(float(p.rows) for p in curve.points)])
    y = covering([v for p in curve.points for v in (p.loss.low, p.loss.mean, p.loss.high)])
    ticks = y.ticks(4)
    parts = []
    for t in ticks:
        parts.append(line("0", y.up(t), "100%", y.up(t), "grid"))
        parts.append(text("0", y.up(t), f.fixed(t, f.exact(ticks, 1)), "tick end", dx=-7, dy=4))
    parts += [
        text(x.at(t), "100%", f.count(t), "tick mid", dy=17) for t in x.ticks(6) if 0 <= t == int(t)
    ]
    means = [(float(p.rows), p.loss.mean) for p in curve.points]
    parts.append(polyline(means, x, y, "checks development"))
    for p in curve.points:
        at = x.at(p.rows)
        parts.append(line(at, y.up(p.loss.low), at, y.up(p.loss.high), "interval thin method"))
        parts.append(_check(at, y.up(p.loss.mean), "development"))
    about = "; ".join(
        f"{f.count(p.rows)} rows: {p.loss.mean:.3f} nats per token" for p in curve.points
    )
    return plot(join(parts), HEIGHT, about)


def by_stage(found: InSequence, task: str) -> Markup:
    """The loss of one task before the first stage and after each; a line where it was learned."""
    number = found.tasks.index(task)
    every = [loss for line_ in found.losses for loss in line_]
    x, y = Scale(0, len(found.tasks)), covering(every)
    ticks = y.ticks(4)
    parts = [line(x.at(number + 1), "0", x.at(number + 1), "100%", "best")]
    for t in ticks:
        parts.append(line("0", y.up(t), "100%", y.up(t), "grid"))
        parts.append(text("0", y.up(t), f.fixed(t, f.exact(ticks, 1)), "tick end", dx=-7, dy=4))
    for stage in range(len(found.tasks) + 1):
        parts.append(text(x.at(stage), "100%", str(stage), "tick mid", dy=17))
    points = [(float(stage), losses[number]) for stage, losses in enumerate(found.losses)]
    parts.append(polyline(points, x, y, "checks development"))
    parts += [_check(x.at(a), y.up(b), "development") for a, b in points]
    about = "; ".join(f"after stage {a:g}: {b:.3f} nats per token" for a, b in points)
    return plot(join(parts), HEIGHT, f"Loss of {task}: {about}")


def _check(x: str, y: str, css: str) -> Markup:
    return Markup('<circle class="check {}" cx="{}" cy="{}" r="3.5"/>').format(css, x, y)


def _series(training: Training, name: str) -> Points:
    return [
        (line_["step"], line_[name])
        for line_ in training.history
        if "step" in line_ and _finite(line_.get(name))
    ]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _draw(names: list[str], training: Training, y: Scale) -> Markup:
    steps = [line_["step"] for line_ in training.history if "step" in line_] or [0]
    x = Scale(min(steps), max(max(steps), min(steps) + 1))
    loss = _series(training, "loss")
    parts = []
    ticks = y.ticks(4)
    for t in ticks:
        parts.append(line("0", y.up(t), "100%", y.up(t), "grid"))
        words = f.fixed(t, f.exact(ticks, 1))
        parts.append(text("0", y.up(t), words, "tick end", dx=-7, dy=4))
    parts += [
        text(x.at(t), "100%", f.count(t), "tick mid", dy=17) for t in x.ticks(4) if t == int(t)
    ]
    if x.low <= training.best_step <= x.high:
        parts.append(line(x.at(training.best_step), "0", x.at(training.best_step), "100%", "best"))
    parts.append(polyline(_thinned(loss), x, y, "raw"))
    parts.append(polyline(_thinned(_smoothed(loss)), x, y, "smooth"))
    for name in ("general_loss", "development_loss"):
        points = _series(training, name)
        css = name.removesuffix("_loss")
        parts.append(polyline(points, x, y, f"checks {css}"))
        parts += [_check(x.at(a), y.up(b), css) for a, b in points]
    return plot(join(parts), HEIGHT, _about(names, training))


def _about(names: list[str], training: Training) -> str:
    words = [f"Losses of {' and '.join(names)} over {training.steps} steps"]
    for name in ("loss", "development_loss", "general_loss"):
        if points := _series(training, name):
            words.append(f"{name.replace('_', ' ')} from {points[0][1]:.2f} to {points[-1][1]:.2f}")
    return "; ".join(words)


def _smoothed(points: Points) -> Points:
    """A centred mean over a twentieth of the run. Centred: a trailing mean would lag behind."""
    half = max(1, len(points) // 40)
    values = [v for _, v in points]
    return [
        (step, sum(part) / len(part))
        for n, (step, _) in enumerate(points)
        if (part := values[max(0, n - half) : n + half + 1])
    ]


def _thinned(points: Points) -> Points:
    """Lowest and highest of each stretch, so that thinning hides no spike."""
    if len(points) <= POINTS:
        return points
    width = math.ceil(2 * len(points) / POINTS)
    kept: Points = []
    for start in range(0, len(points), width):
        part = points[start : start + width]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept
