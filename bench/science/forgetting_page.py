"""docs/forgetting.md and its plot from forgetting.jsonl. `python -m bench.science.forgetting_page`

Of every domain, seed and arm the last line counts.
"""

import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean

from bench.science.drawings import curves
from bench.science.forgetting import FILES, where
from domainwright.studies._svg import text
from domainwright.studies.plot import Drawing, page

RESULTS = Path(__file__).parent / "forgetting.jsonl"
DOCS = Path(__file__).parents[2] / "docs"
Curve = list[dict[str, float]]
HEAD = """# What the default recipe forgets

The same real rows of each domain in the same order, {steps} steps of 8, `smollm2-135m`: LoRA
without replay ("plain"), and the default recipe, which reads texts that the base wrote itself
beside the rows and holds to the base's own distribution on them (`train.replay`). Measured is what
each has learned, on {development} development rows, and how far it has moved from the base on
general text, mean KL(base ‖ model) in nats per token. "There" is the default recipe drawn back to
where it has learned as much as plain LoRA at its end, or its own end where it has learned less.
The last two columns are the other way about: plain LoRA drawn back to where it has moved as far as
the default recipe at its end, what it has then learned, and how much more the default recipe has.

`python -m bench.science.forgetting --arms plain,ours --steps {steps}` (`--first 1` for the second
seed), one core with others at work; this page: `python -m bench.science.forgetting_page`.

![distance from the base against what was learned](images/forgetting.svg)

| domain | seed | plain learned | default learned | plain moved | default moved, there | share | \
plain learned, as far | default learned more |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
TAIL = """
Means of the shares: {ratios}. A third or less in four of four domains was the goal;
{met}. The other goal, to learn more at equal distance, is reached in {more} of {runs} runs,
by {least} to {largest} nats per token. The loss on general text fell in every run, with and
without replay: by that measure nothing is forgotten here. LoRA at PEFT's and TRL's defaults
(rank 8, queries and values, 2e-5) learned {peft} nats per token of finance in these steps and
moved {moved}; at that little the default recipe has moved {there}. One base of 135 million
parameters and short runs: larger ones are not measured.
"""


def main() -> int:
    found = newest()
    (DOCS / "forgetting.md").write_text(written(found), encoding="utf-8")
    drawn(found).save(DOCS / "images" / "forgetting.svg")
    return 0


def newest() -> dict[tuple[str, int], dict[str, Curve]]:
    """(domain, seed) -> arm -> curve."""
    found: dict[tuple[str, int], dict[str, Curve]] = {}
    for entry in RESULTS.read_text(encoding="utf-8").splitlines():
        record = json.loads(entry)
        place = found.setdefault((record["domain"], record["seed"]), {})
        place[record["arm"]] = record["curve"]
    order = list(FILES)
    return dict(sorted(found.items(), key=lambda x: (order.index(x[0][0]), x[0][1])))


def written(found: Mapping[tuple[str, int], dict[str, Curve]]) -> str:
    rows, gains, ratios = [], list[float](), dict[str, list[float]]()
    for (domain, seed), arms in found.items():
        if not {"plain", "ours"} <= set(arms):
            continue
        plain, ours = arms["plain"], arms["ours"]
        there = moved_there(ours, plain[-1]["domain"])
        share = there / plain[-1]["general_kl"]
        ratios.setdefault(domain, []).append(share)
        as_far = plain[0]["domain"] - loss_at(plain, ours[-1]["general_kl"])
        gains.append(learned(ours) - as_far)
        rows.append(
            f"| {domain} | {seed} | {learned(plain):.3f} | {learned(ours):.3f} | "
            f"{plain[-1]['general_kl']:.4f} | {there:.4f} | {share:.2f} | "
            f"{as_far:.3f} | {learned(ours) - as_far:+.3f} |"
        )
    means = {domain: mean(x) for domain, x in ratios.items()}
    within = sum(x <= 1 / 3 for x in means.values())
    peft = next(arms for arms in found.values() if "peft" in arms)
    end = peft["peft"][-1]
    return (
        HEAD.format(steps=40, development=32)
        + "\n".join(rows)
        + "\n"
        + TAIL.format(
            ratios=", ".join(f"{x:.2f} ({domain})" for domain, x in means.items()),
            met=f"{within} of {len(means)} reach it",
            more=sum(x > 0 for x in gains),
            runs=len(gains),
            least=f"{min(gains):.3f}",
            largest=f"{max(gains):.3f}",
            peft=f"{learned(peft['peft']):.3f}",
            moved=f"{end['general_kl']:.4f}",
            there=f"{moved_there(peft['ours'], end['domain']):.4f}",
        )
    )


def learned(curve: Curve) -> float:
    return curve[0]["domain"] - curve[-1]["domain"]


def moved_there(ours: Curve, goal: float) -> float:
    """Distance of the default recipe where it has the other arm's loss, or at its own end."""
    same = where(ours, goal, "general_kl")
    return ours[-1]["general_kl"] if same is None else same


def loss_at(curve: Curve, distance: float) -> float:
    """Domain loss of a recipe drawn back to a distance that it reaches."""
    for near, far in pairwise(curve):
        if near["general_kl"] <= distance <= far["general_kl"]:
            part = (distance - near["general_kl"]) / (far["general_kl"] - near["general_kl"])
            return near["domain"] + part * (far["domain"] - near["domain"])
    raise ValueError(f"the curve ends at {curve[-1]['general_kl']}, before {distance}")


def drawn(found: Mapping[tuple[str, int], dict[str, Curve]]) -> Drawing:
    """Every domain's default recipe as a line, plain LoRA as a hollow mark; of the first seed."""
    lines = {}
    for arm, words in (("ours", ""), ("plain", ", plain")):
        for domain in FILES:
            curve = found[domain, 0][arm]
            points = curve if arm == "ours" else curve[-1:]
            lines[domain + words] = [
                (curve[0]["domain"] - p["domain"], p["general_kl"]) for p in points
            ]
    about = "distance from the base against what was learned, default recipe and plain LoRA"
    parts, height = curves(
        lines,
        "learned on development rows, nats per token",
        "moved from the base on general text, nats per token",
        powers=False,
    )
    title = text("12", "26", "Default recipe (filled) and plain LoRA (hollow), seed 0", "title")
    return Drawing(page([title, *parts], height, about))


if __name__ == "__main__":
    sys.exit(main())
