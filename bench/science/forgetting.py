"""Gain and forgetting of the default recipe beside plain LoRA, on real data of four domains.

    python -m bench.science.forgetting [--domains medical,legal] [--seeds 1] [--steps 60]

Three arms, the same rows in the same order, equal steps:

    peft    LoRA at the defaults of PEFT 0.21 and TRL 1.16: r 8, alpha 8, queries and values, 2e-5
    plain   the default recipe without replay
    ours    the default recipe

Each ends as trained, whatever it forgets; an arm is then drawn back to shares s of its change
(`train.draw_back`), which gives a curve of domain loss against general loss. Printed is the end
of each arm, and at the domain loss that `peft` or `plain` ends with, what share of its forgetting
ours has. One JSON line an arm goes to bench/science/forgetting.jsonl.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from domainwright.curate.read import read_all
from domainwright.evaluate.retained import shipped_suite
from domainwright.models.base import Base, load_base
from domainwright.models.forms import encode_rows
from domainwright.studies.data import as_conversations
from domainwright.studies.tune import Wanted, tune
from domainwright.train.draw_back import between
from domainwright.train.loss import losses_of_rows
from domainwright.train.settings import TrainSettings

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {name: f"{name}/qa.jsonl" for name in ("medical", "legal", "finance", "science")}
WORDS = 150
"""Longest question and answer together: sixty steps of longer ones take too long on two cores."""
ROWS, DEVELOPMENT = 480, 40
SHARES = (0.0, 0.03, 0.06, 0.12, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
OURS = TrainSettings(max_forgetting=1e9)
ARMS: dict[str, tuple[TrainSettings, dict[str, Any]]] = {
    "peft": (
        replace(OURS, replay=None, learning_rate=2e-5, warmup_share=0.0),
        {"rank": 8, "alpha": 8, "targets": ["q", "v"]},
    ),
    "plain": (replace(OURS, replay=None), {}),
    "ours": (OURS, {}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domains", default=",".join(FILES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    if not DATA.is_dir():
        print("skipped: there is no ../shared/data beside this checkout")
        return 0
    base = load_base("smollm2-135m")
    table = []
    for domain in options.domains.split(","):
        for seed in range(options.seeds):
            curves = {arm: measure(base, domain, arm, seed, options.steps) for arm in ARMS}
            table += [line(domain, seed, curves, other) for other in ("peft", "plain")]
            print("\n".join(table[-2:]), flush=True)
    print("\n".join(["", *table]))
    return 0


def measure(base: Base, domain: str, arm: str, seed: int, steps: int) -> list[dict[str, float]]:
    """The arm's curve: domain and general loss, nats per token, by share of its change."""
    settings, method = ARMS[arm]
    rows = rows_of(domain, seed)
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Wanted(
            base=base,
            method="lora",
            rows=rows[DEVELOPMENT:],
            development=rows[:DEVELOPMENT],
            general=shipped_suite().texts,
            settings=replace(settings, steps=steps, checks=1),
            method_settings=method,
            steps=steps,
            seed=seed,
            folder=Path(temporary),
            parents={},
        )
        begun = time.perf_counter()
        tuned = tune(wanted)
        seconds = time.perf_counter() - begun
    adapter = tuned.adapter
    watched = {
        "domain": encode_rows(base.template, rows[:DEVELOPMENT], 1024),
        "general": encode_rows(base.template, shipped_suite().texts, 1024)[:24],
    }
    end = {k: v.detach().clone() for k, v in adapter.state_dict().items()}
    bare = {k: v if ".A" in k or k.startswith("A") else torch.zeros_like(v) for k, v in end.items()}
    curve = []
    for share in SHARES:
        adapter.load_state_dict(between(adapter, bare, end, share))
        point = {"share": share}
        with adapter.attached():
            for name, texts in watched.items():
                losses = losses_of_rows(base, texts, 2048)
                point[name] = sum(losses) / sum(row.targets for row in texts)
        curve.append(point)
    record = {
        "claim": "S-forgetting",
        "domain": domain,
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "curve": [{k: round(v, 5) for k, v in point.items()} for point in curve],
    }
    with (Path(__file__).parent / "forgetting.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(
        f"{domain:8} {arm:6} seed {seed}: domain {curve[0]['domain']:.3f} -> "
        f"{curve[-1]['domain']:.3f}, general {curve[0]['general']:.3f} -> "
        f"{curve[-1]['general']:.3f} nats per token, {seconds:.0f} s",
        flush=True,
    )
    return curve


def rows_of(domain: str, seed: int) -> list[Any]:
    """Rows short enough, whole groups in a drawn order: development rows first."""
    (read,) = read_all([str(DATA / FILES[domain])])
    rows, _ = as_conversations(read.rows)
    short = [r for r in rows if sum(len(m.content.split()) for m in r.messages) <= WORDS]  # type: ignore[attr-defined]
    groups = sorted({r.group for r in short})
    drawn = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    place = {groups[n]: i for i, n in enumerate(drawn)}
    return sorted(short, key=lambda r: (place[r.group], r.id))[: ROWS + DEVELOPMENT]


def forgetting_at(curve: list[dict[str, float]], domain: float) -> float | None:
    """Rise of the general loss where the curve first reaches a domain loss; None: nowhere."""
    for before, after in pairwise(curve):
        if after["domain"] <= domain <= before["domain"]:
            width = before["domain"] - after["domain"]
            part = (before["domain"] - domain) / width if width else 0.0
            general = before["general"] + part * (after["general"] - before["general"])
            return general - curve[0]["general"]
    return None


def line(domain: str, seed: int, curves: dict[str, list[dict[str, float]]], other: str) -> str:
    """What ours forgets where it has learned as much as the other arm at its end."""
    theirs, ours = curves[other], curves["ours"]
    gained = theirs[0]["domain"] - theirs[-1]["domain"]
    forgot = theirs[-1]["general"] - theirs[0]["general"]
    same = forgetting_at(ours, theirs[-1]["domain"])
    said = "ours does not get there" if same is None else f"ours forgets {same:+.4f} there"
    return (
        f"{domain:8} seed {seed}: {other} gains {gained:.3f} and forgets {forgot:+.4f} nats per "
        f"token; {said}"
    )


if __name__ == "__main__":
    sys.exit(main())
