"""Gain and forgetting of the default recipe beside plain LoRA, on real data of four domains.

    python -m bench.science.forgetting [--domains medical,legal] [--seeds 1] [--steps 60]

Three arms, the same rows in the same order, equal steps:

    peft    LoRA at the defaults of PEFT 0.21 and TRL 1.16: r 8, alpha 8, queries and values, 2e-5
    plain   the default recipe without replay
    ours    the default recipe

Each ends as trained, whatever it forgets, and is then drawn back to shares of its change
(`train.draw_back`), which gives a curve of domain loss against what general text became: its
loss, and the mean KL(base ‖ model) of its tokens. Printed is the end of each arm, and where ours
is when it has the domain loss that `peft` or `plain` ends with. One JSON line an arm goes to
bench/science/forgetting.jsonl.
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
from domainwright.train.monitor import Monitor
from domainwright.train.passes import Packing
from domainwright.train.settings import TrainSettings

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {name: f"{name}/qa.jsonl" for name in ("medical", "legal", "finance", "science")}
WORDS = 100
"""Longest question and answer together, where there are enough such rows: sixty steps of longer
ones take too long on two cores."""
ROWS, DEVELOPMENT, GENERAL = 480, 32, 16
SHARES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
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
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--arms", default=",".join(ARMS))
    options = parser.parse_args()
    if not DATA.is_dir():
        print("skipped: there is no ../shared/data beside this checkout")
        return 0
    base = load_base("smollm2-135m")
    table = []
    for domain in options.domains.split(","):
        for seed in range(options.first, options.first + options.seeds):
            curves = {
                arm: measure(base, domain, arm, seed, options.steps)
                for arm in options.arms.split(",")
            }
            if "ours" in curves:
                table += [line(domain, seed, curves, other) for other in curves if other != "ours"]
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
    own = encode_rows(base.template, rows[:DEVELOPMENT], 1024)
    general = encode_rows(base.template, shipped_suite().texts, 1024)[:GENERAL]
    monitor = Monitor(Packing(base, general))
    end = {k: v.detach().clone() for k, v in adapter.state_dict().items()}
    bare = {k: v if ".A" in k or k.startswith("A") else torch.zeros_like(v) for k, v in end.items()}
    curve = []
    for share in SHARES:
        adapter.load_state_dict(between(adapter, bare, end, share))
        with adapter.attached():
            learned = sum(losses_of_rows(base, own, 2048)) / sum(row.targets for row in own)
            curve.append({"share": share, "domain": learned, **monitor.read(2048)})
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
        f"{curve[-1]['domain']:.3f}, general {curve[0]['general_loss']:.3f} -> "
        f"{curve[-1]['general_loss']:.3f} nats per token, {curve[-1]['general_kl']:.4f} from the "
        f"base, {seconds:.0f} s",
        flush=True,
    )
    return curve


def rows_of(domain: str, seed: int, words: int = WORDS) -> list[Any]:
    """Rows short enough, whole groups in a drawn order: development rows first."""
    (read,) = read_all([str(DATA / FILES[domain])])
    rows, _ = as_conversations(read.rows)
    lengths = [sum(len(m.content.split()) for m in r.messages) for r in rows]  # type: ignore[attr-defined]
    limit = max(words, sorted(lengths)[: ROWS + DEVELOPMENT][-1])
    short = [r for r, length in zip(rows, lengths, strict=True) if length <= limit]
    groups = sorted({r.group for r in short})
    drawn = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    place = {groups[n]: i for i, n in enumerate(drawn)}
    return sorted(short, key=lambda r: (place[r.group], r.id))[: ROWS + DEVELOPMENT]


def where(curve: list[dict[str, float]], domain: float, name: str) -> float | None:
    """What a curve has of `name` where it first reaches a domain loss; None: nowhere."""
    for before, after in pairwise(curve):
        if after["domain"] <= domain <= before["domain"]:
            width = before["domain"] - after["domain"]
            part = (before["domain"] - domain) / width if width else 0.0
            return before[name] + part * (after[name] - before[name])
    return None


def line(domain: str, seed: int, curves: dict[str, list[dict[str, float]]], other: str) -> str:
    """What ours forgets where it has learned as much as the other arm at its end."""
    theirs, ours = curves[other], curves["ours"]
    start, end = theirs[0], theirs[-1]
    said = f"{domain:8} seed {seed}: {other} gains {start['domain'] - end['domain']:.3f};"
    # An end within a hundredth of their gain is as much learned as theirs.
    near = ours[-1]["domain"] - end["domain"] < 0.01 * (start["domain"] - end["domain"])
    goal = max(end["domain"], ours[-1]["domain"]) if near else end["domain"]
    for name, title in (("general_loss", "general loss"), ("general_kl", "distance")):
        same = where(ours, goal, name)
        at = "not reached" if same is None else f"{same - start[name]:+.4f}"
        said += f" {title} {end[name] - start[name]:+.4f}, ours there {at};"
    return said.removesuffix(";")


if __name__ == "__main__":
    sys.exit(main())
