"""What a training step of every method costs, against LoRA's on the same tokens.

    python -m bench.methods [--methods lora,prefix,full] [--model smollm2-135m] [--rounds 3]
        [--profile chat] [--batch 8] [--anyway]

Every round takes one step with each method, one after the other, all with the same documents, so
a ratio is of one moment. Each has its default settings; what is compared is time, not
learning. Ends with a table; one JSON line goes to bench/history.jsonl.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy, spread
from bench._steps import MODELS, PROFILES, facts_of, job_of, model_folder, rows_of, write_steps

WARM = 2
"""Rounds that are not counted: the first of each length compiles its products."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="names with commas; all that the base takes without")
    parser.add_argument("--model", default="smollm2-135m", help=f"or {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--profile", choices=list(PROFILES), default="chat")
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser)
    options = parser.parse_args()

    import torch

    from domainwright.methods import METHODS

    torch.set_num_threads(options.threads)
    load = refuse_when_busy(options)
    names = options.methods.split(",") if options.methods else METHODS.names()
    names = ["lora", *(x for x in names if x != "lora")]
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(options.model, Path(folder))
        # One set of documents for all rounds: another number of tokens is another product.
        steps = write_steps(
            Path(folder), model, data=None, profile=options.profile, steps=1, batch=options.batch
        )
        rows = json.loads(steps.read_text())["steps"][0]
        facts = facts_of(steps)
        seconds = measured(str(model), names, rows, options, Path(folder))
    tokens = sum(len(row["input_ids"]) for row in rows)
    publish(
        {
            "bench": "methods",
            "model": options.model,
            "profile": options.profile,
            "rounds": options.rounds,
            **facts,
            "lora_tokens_per_s": spread([tokens / s for s in seconds["lora"]]),
            "time_over_loras": {
                name: spread([a / b for a, b in zip(own, seconds["lora"], strict=True)])
                for name, own in seconds.items()
                if name != "lora"
            },
            **machine_facts("torch", "transformers"),
            **load,
        }
    )
    show(seconds, tokens)
    return 0


def measured(
    model: str, names: list[str], rows: list[dict[str, Any]], options: Any, folder: Path
) -> dict[str, list[float]]:
    """Seconds of a step with each method, round by round."""
    import torch

    from domainwright.core.errors import DomainwrightError
    from domainwright.methods import METHODS
    from domainwright.models.base import load_base
    from domainwright.train.loop import take_step

    base = load_base(model)
    given = rows_of(rows)
    sides: dict[str, tuple[Any, Any]] = {}
    for name in names:
        method = METHODS.get(name)
        try:
            adapter = method.build(base, method.Settings(), seed=0)
        except DomainwrightError as error:
            note(f"{name}: {error}")
            continue
        job = job_of(base, adapter, folder / name, WARM + options.rounds, 1e-6, 2048)
        sides[name] = job, torch.optim.AdamW(adapter.parameters(), lr=1e-6, fused=True)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM + options.rounds):
        for name, (job, optimiser) in sides.items():
            with job.adapter.attached():
                begun = time.perf_counter()
                take_step(job, optimiser, list(job.adapter.parameters()), number, given)
                if number >= WARM:
                    seconds[name].append(time.perf_counter() - begun)
    return seconds


def show(seconds: dict[str, list[float]], tokens: int) -> None:
    note(f"{'method':<18} {'tokens/s':>9}  time over LoRA's")
    for name, own in sorted(seconds.items(), key=lambda pair: min(pair[1])):
        ratio = spread([a / b for a, b in zip(own, seconds["lora"], strict=True)])
        rate = spread([tokens / s for s in own])["median"]
        note(f"{name:<18} {rate:>9.1f}  {ratio['median']:.2f} ({ratio['min']} to {ratio['max']})")


if __name__ == "__main__":
    sys.exit(main())
