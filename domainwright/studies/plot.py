"""The drawings of the report, each alone as an SVG: for a notebook, a page or a paper."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from domainwright import core
from domainwright.core.artifacts import write_atomic
from domainwright.core.errors import ConfigError, DataError
from domainwright.studies import _format as f
from domainwright.studies._charts import forest
from domainwright.studies._curves import HEIGHT as CURVE
from domainwright.studies._curves import by_rows, curves
from domainwright.studies._maps import HEIGHT as MAP
from domainwright.studies._maps import maps
from domainwright.studies._pareto import dominated
from domainwright.studies._svg import join, line, mark, text
from domainwright.studies.records import Verdict

WIDTH = 720
ROW = 34
"""Height of one strategy's line among the scores."""
KINDS = ("prompting", "method", "combination", "dominated")
STYLES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG that stands alone: light, and dark where the viewer is."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write it to a file that ends in .svg.

        Raises:
            ConfigError: the name ends in something else.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ConfigError(
                f"{path.name} does not end in .svg, and a plot is saved as SVG.",
                f"save it as {path.with_suffix('.svg').name}.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.svg)
        return path


def draw(verdict: Verdict, kind: str = "scores") -> Drawing:
    """One drawing of a verdict.

    Args:
        kind: "scores", the gain of every strategy; "pareto", gain against forgetting and cost;
            "curve", the losses while training and by the number of rows.

    Raises:
        ConfigError: there is no such plot.
        DataError: the study measured nothing that it could show.
    """
    if kind not in _DRAWN:
        near = difflib.get_close_matches(kind, _DRAWN, n=1)
        raise ConfigError(
            f"There is no plot called {kind!r}.",
            f"use {near[0]!r}." if near else f"use one of: {', '.join(_DRAWN)}.",
        )
    found = _DRAWN[kind](verdict)
    if found is None:
        needs = {"curve": "No strategy was trained"}.get(kind, "Fewer than two strategies finished")
        others = ", ".join(k for k in _DRAWN if k != kind)
        raise DataError(
            f"{needs}, so {verdict.name} has no plot {kind!r}.", f"try one of: {others}."
        )
    content, height = found
    return Drawing(page(content, height, f"{verdict.name}: {kind}"))


Page = tuple[list[Markup], float]
"""Content and height."""


def _scores(verdict: Verdict) -> Page | None:
    drawn = forest(verdict)
    if drawn is None:
        return None
    left, width = 190, 320
    unit = f.unit(verdict.score)
    parts = [
        text("12", "26", f"Gain over the untouched base: {unit.axis}, 95 % intervals", "title"),
        *_legend([r.result.kind for r in drawn.rows], 50),
    ]
    y = 66.0
    for row in drawn.rows:
        middle = f"{y + ROW / 2:.1f}"
        parts.append(mark("18", middle, row.result.kind))
        parts.append(text("30", middle, row.result.name, "name start", dy=4))
        parts.append(placed(row.strip, left, y, width, ROW))
        parts.append(text(f"{left + width + 18}", middle, row.words, "value start", dy=4))
        y += ROW
    parts.append(placed(drawn.axis, left, y, width, 22))
    parts.append(text(f"{left}", f"{y + 38}", "← worse", "start"))
    parts.append(text(f"{left + width}", f"{y + 38}", "better →", "end"))
    if any(row.decision == "not decided" for row in drawn.rows):
        parts.append(text("12", f"{y + 60}", "A hollow mark is not decided.", "start"))
        y += 22
    return parts, y + 52


def _pareto(verdict: Verdict) -> Page | None:
    drawn = maps(verdict)
    if not drawn:
        return None
    kinds = [r.kind for r in verdict.strategies if r.status == "done"]
    parts = _legend([*kinds, *(["dominated"] if dominated(verdict) else [])], 24)
    y = 40.0
    for one in drawn:
        parts.append(text("12", f"{y + 20}", one.title, "title"))
        parts.append(text("12", f"{y + 40}", one.rises, "start"))
        parts.append(placed(one.plot, 62, y + 54, WIDTH - 86, MAP))
        y += 54 + MAP + 52
    return parts, y


def _curve(verdict: Verdict) -> Page | None:
    panels = [(", ".join(c.names), c.plot, "steps") for c in curves(verdict)]
    if verdict.learning_curve is not None:
        of = verdict.learning_curve
        panels.append((f"{of.method}, by training rows", by_rows(of), "training rows"))
    if not panels:
        return None
    parts = [text("12", "26", "Loss in nats per token", "title"), *_line_legend(48)]
    each, tall = WIDTH / 2, CURVE + 84
    for number, (title, drawn, along) in enumerate(panels):
        x, y = number % 2 * each, 62 + number // 2 * tall
        parts.append(text(f"{x + 12:.0f}", f"{y + 16}", title, "name start"))
        parts.append(placed(drawn, x + 44, y + 28, each - 68, CURVE))
        at = f"{x + 44 + (each - 68) / 2:.0f}"
        parts.append(text(at, f"{y + 28 + CURVE + 36}", along, "axis mid"))
    return parts, 62 + (len(panels) + 1) // 2 * tall


_DRAWN: dict[str, Callable[[Verdict], Page | None]] = {
    "scores": _scores,
    "pareto": _pareto,
    "curve": _curve,
}


def placed(drawn: Markup, x: float, y: float, width: float, height: float) -> Markup:
    return Markup('<svg x="{:g}" y="{:g}" width="{:g}" height="{:g}">{}</svg>').format(
        x, y, width, height, drawn
    )


def _legend(kinds: Sequence[str], y: float) -> list[Markup]:
    """The kinds of strategies that occur, in one line."""
    names = {"method": "trained"}
    parts, x = [], 18
    for kind in (k for k in KINDS if k in kinds):
        words = names.get(kind, kind)
        parts.append(mark(f"{x}", f"{y - 4:g}", kind))
        parts.append(text(f"{x + 12}", f"{y:g}", words, "start"))
        x += 12 + 7 * len(words) + 24
    return parts


def _line_legend(y: float) -> list[Markup]:
    names = {
        "smooth": "training",
        "checks development": "development rows",
        "checks general": "general text",
        "best": "best step",
    }
    parts, x, middle = [], 12, f"{y - 4:g}"
    for css, words in names.items():
        parts.append(line(f"{x}", middle, f"{x + 24}", middle, css))
        parts.append(text(f"{x + 30}", f"{y:g}", words, "start"))
        x += 30 + 7 * len(words) + 20
    return parts


def page(content: Sequence[Markup], height: float, about: str) -> str:
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" class="domainwright" width="{w}" '
            'height="{h:g}" viewBox="0 0 {w} {h:g}" role="img" aria-label="{about}">'
            "<style>{style}</style>"
            '<rect class="paper" width="100%" height="100%"/>{content}</svg>\n'
        ).format(w=WIDTH, h=height, about=about, style=Markup(_style()), content=join(content))
    )


def _style() -> str:
    """The drawing styles with their colours filled in: few programs outside browsers know
    variables, and none of these rules may touch the page that the drawing stands in."""
    palette = Path(core.__file__).with_name("report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([a-z-]+): ([^;]+);", block))
        for block in re.findall(r":root \{(.*?)\}", palette, re.DOTALL)[:2]
    )
    source = (STYLES / "drawing.css").read_text(encoding="utf-8")
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    rules = [
        rule
        for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", source)
        if "--kind:" not in body
        for rule in _of_kinds(selector.strip(), body.strip())
    ]
    plain = "".join(f"{s}{{{_filled(b, light)}}}" for s, b in rules)
    night = "".join(
        f"{s}{{{_filled(';'.join(d for d in b.split(';') if 'var(' in d), light | dark)}}}"
        for s, b in rules
        if "var(" in b
    )
    return f"{plain}@media(prefers-color-scheme:dark){{{night}}}"


def _of_kinds(selector: str, body: str) -> list[tuple[str, str]]:
    """The rule within the drawing; for each kind where the kind decides the colour."""
    scoped = re.sub(r"^svg\b", ".domainwright", selector)
    scoped = scoped if scoped != selector else f".domainwright {selector}"
    if "var(--kind)" not in body:
        return [(scoped, body)]
    return [(f"{scoped}.{k}", body.replace("var(--kind)", f"var(--{k})")) for k in KINDS]


def _filled(body: str, palette: dict[str, str]) -> str:
    return re.sub(r"var\(--([a-z-]+)\)", lambda found: palette[found[1]], body)
