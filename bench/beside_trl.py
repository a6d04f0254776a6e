"""Training speed beside TRL + PEFT: the same documents in the same steps, turn about.

    python -m bench.beside_trl [--pairs 3] [--steps 6] [--preset best|default] [--data FILE]

Each pair runs us and the peer one after the other in processes of their own; the ratio is
taken pair by pair, so a machine whose speed drifts does not favour either. No ratio is
printed when the losses differ: mean |difference| must stay below 0.02 nats (bfloat16, two
different orders of rounding). One JSON line goes to bench/history.jsonl.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
LARGEST_LOSS_DIFFERENCE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--preset", choices=["default", "best"], default="best")
    parser.add_argument(
        "--data", type=Path, default=HERE.parent / "examples/medicines/questions.jsonl"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    model = _write_steps(folder, options)
    ours, theirs = [], []
    for pair in range(options.pairs):
        sides = [
            ("bench.train_steps", ours, []),
            ("bench.peer_trl", theirs, ["--preset", options.preset]),
        ]
        for module, results, extra in sides if pair % 2 == 0 else reversed(sides):
            results.append(_run(module, model, folder / "steps.json", extra))
    gap = statistics.mean(
        abs(a - b)
        for x, y in zip(ours, theirs, strict=True)
        for a, b in zip(x["loss"], y["loss"], strict=True)
    )
    if not gap < LARGEST_LOSS_DIFFERENCE:
        print(f"no ratio: the losses differ by {gap:.4f} nats on average", file=sys.stderr)
        return 5
    ratios = [
        a["real_tokens_per_s"] / b["real_tokens_per_s"] for a, b in zip(ours, theirs, strict=True)
    ]
    line = {
        "bench": "beside_trl",
        "preset": options.preset,
        "data": options.data.name,
        "pairs": options.pairs,
        "steps": options.steps,
        "documents_per_step": options.batch,
        "mean_tokens": round(_mean_tokens(folder / "steps.json"), 1),
        "ours_tokens_per_s": _spread([x["real_tokens_per_s"] for x in ours]),
        "peer_tokens_per_s": _spread([x["real_tokens_per_s"] for x in theirs]),
        "ratio": _spread(ratios),
        "mean_loss_difference": round(gap, 5),
        "ours_peak_rss_mib": max(x["peak_rss_mib"] for x in ours),
        "peer_peak_rss_mib": max(x["peak_rss_mib"] for x in theirs),
        **_machine(),
    }
    print(json.dumps(line))
    with open(HERE / "history.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return 0


def _write_steps(folder: Path, options: argparse.Namespace) -> Path:
    """steps.json and a shared start for both sides; returns the base's folder."""
    from domainwright.curate.read import read
    from domainwright.methods.lora import Lora, LoraSettings
    from domainwright.models.base import load_base
    from domainwright.models.forms import encode_rows

    base = load_base("smollm2-135m")
    adapter = Lora.build(base, LoraSettings(), seed=0)
    adapter.save(folder / "start")
    rows = [r for r in encode_rows(base.template, read(options.data).rows, 1024) if not r.cut]
    chosen = rows[: options.steps * options.batch]
    documents = [
        {
            "input_ids": r.ids,
            "labels": [
                t if on and i else -100
                for i, (t, on) in enumerate(zip(r.ids, r.supervised, strict=True))
            ],
        }
        for r in chosen
    ]
    steps = [documents[i : i + options.batch] for i in range(0, len(documents), options.batch)]
    (folder / "steps.json").write_text(
        json.dumps(
            {
                "steps": steps,
                "rank": 16,
                "alpha": 32,
                "lr": 2e-4,
                "init": "start/adapter_model.safetensors",
            }
        )
    )
    return base.source.folder


def _run(module: str, model: Path, steps: Path, extra: list[str]) -> dict:
    command = [sys.executable, "-m", module, str(model), str(steps), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-2000:]}")
    result: dict = json.loads(done.stdout.strip().splitlines()[-1])
    if not all(math.isfinite(x) for x in result["loss"]) or min(result["grad_norm"]) <= 0:
        raise SystemExit(f"{module}: a loss that is not finite, or no gradient")
    return result


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }


def _mean_tokens(path: Path) -> float:
    steps = json.loads(path.read_text())["steps"]
    return statistics.mean(len(d["input_ids"]) for s in steps for d in s)


def _machine() -> dict[str, object]:
    from importlib.metadata import version

    from domainwright.core import machine

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    ).stdout.strip()
    return {
        "processor": machine.processor(),
        "cores": machine.cores(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {p: version(p) for p in ("torch", "transformers", "trl", "peft")},
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    sys.exit(main())
