"""Several candidates over one base: fused in one batch beside one after the other.

    python -m bench.together [--model smollm2-135m] [--candidates 1,2,4,8] [--steps 6]
        [--adapters everywhere,top_third] [--micro-tokens 2048] [--batch 8] [--anyway]

LoRA candidates of different ranks on the medicines of examples/: on every linear layer, or on
those of the top third of the blocks, where the trunk below is read once for all. Both ways
take the same real optimiser steps from the same start, turn about, so a ratio is of one
moment. No ratio is printed where their losses differ. Speed is tokens of a candidate's step
times candidates, per second. One candidate is the same code either way: its ratio is the noise of
the machine. Ends with a table; one JSON line a case goes to
bench/history.jsonl.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._report import add_options, machine_facts, note, publish, refuse_when_busy, spread

RANKS = (16, 8, 4, 32)
"""Of the candidates, over and over."""
WARM = 1
"""Steps that are not counted."""
APART = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest mean difference of the losses, nats per token, that is rounding."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--candidates", default="1,2,4,8")
    parser.add_argument("--adapters", default="everywhere,top_third")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    add_options(parser)
    options = parser.parse_args()

    import torch

    from domainwright.models.base import load_base

    torch.set_num_threads(options.threads)
    load = refuse_when_busy(options)
    base = load_base(options.model, dtype=options.dtype)
    rows = read_rows(base)
    table, failed = [], False
    for adapters in options.adapters.split(","):
        for count in map(int, options.candidates.split(",")):
            line = case(base, rows, adapters, count, options) | load
            failed |= "ratio" not in line
            table.append(line)
            if "ratio" in line:
                publish(line | machine_facts("torch", "transformers"))
            else:
                note(json.dumps(line))
    show(table)
    return 1 if failed else 0


def read_rows(base: Any) -> list[Any]:
    """Questions and answers about medicines, as rows."""
    from bench._steps import EXAMPLES
    from domainwright.curate.read import read
    from domainwright.models.forms import encode_rows
    from domainwright.studies.data import as_conversations

    rows, _ = as_conversations(read(EXAMPLES / "medicines/questions.jsonl").rows)
    encoded = encode_rows(base.template, rows, 256)
    return [row for row in encoded if not row.cut and row.targets]


def case(
    base: Any, rows: Sequence[Any], adapters: str, count: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Both ways with so many candidates, step by step, turn about."""
    from domainwright.train.loop import Stage
    from domainwright.train.order import Order
    from domainwright.train.passes import Packing
    from domainwright.train.together import Together, fused_groups

    seconds: dict[str, list[float]] = {"in turn": [], "fused": []}
    losses: dict[str, list[float]] = {"in turn": [], "fused": []}
    tokens: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            way: start(base, rows, adapters, count, options, Path(folder) / way) for way in seconds
        }
        groups = fused_groups(sides["fused"])
        for step in range(WARM + options.steps):
            chosen = Order(rows, options.batch, 0).step(step)
            tokens.append(sum(len(r.ids) for r in chosen))
            # Who goes first changes from step to step: a machine that slows down hits both.
            for way in sorted(seconds, reverse=bool(step % 2)):
                with Stage(sides[way][0].job) as stage:
                    how = Together(stage, way)
                    begun = time.perf_counter()
                    packing = Packing(base, chosen)
                    found = {}
                    for move in how.moves(sides[way], packing, all_here=True):
                        found |= dict(zip(move, how.take(move, packing), strict=True))
                    if base.device.type == "cuda":
                        import torch

                        torch.cuda.synchronize()
                    seconds[way].append(time.perf_counter() - begun)
                if how.way != way:
                    raise SystemExit(f"fused did not run: {sides[way][0].told}")
                for run in sides[way]:  # groups come in an order of their own
                    losses[way].append(found[run][0])
                    run.state.step += 1
    return _line(base, adapters, count, options, groups, seconds, losses, tokens)


def _line(
    base: Any,
    adapters: str,
    count: int,
    options: argparse.Namespace,
    groups: Any,
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    tokens: list[int],
) -> dict[str, Any]:
    gaps = [abs(a - b) for a, b in zip(losses["in turn"], losses["fused"], strict=True)]
    apart = sum(gaps) / len(gaps)
    dtype = str(base.dtype).removeprefix("torch.")
    speeds = {
        f"{way.replace(' ', '_')}_tokens_per_s": spread(
            [count * n / s for n, s in zip(tokens[WARM:], timed[WARM:], strict=True)]
        )
        for way, timed in seconds.items()
    }
    ratios = [a / b for a, b in zip(seconds["in turn"], seconds["fused"], strict=True)][WARM:]
    line: dict[str, Any] = {
        "bench": "together",
        "model": options.model,
        "dtype": dtype,
        "adapters": adapters,
        "candidates": count,
        "groups": [len(move) for move in groups.moves],
        "batch": options.batch,
        "micro_tokens": options.micro_tokens,
        "threads": options.threads,
        "steps": options.steps,
        "tokens_a_step": round(sum(tokens[WARM:]) / options.steps),
        "mean_loss_difference": round(apart, 7),
    }
    if not apart <= APART.get(dtype, 2e-2):
        return line | {"failed": "the two ways' losses differ"}
    return line | {"ratio": spread(ratios)} | speeds


def start(
    base: Any,
    rows: Sequence[Any],
    adapters: str,
    count: int,
    options: argparse.Namespace,
    folder: Path,
) -> list[Any]:
    """Candidates at their start."""
    from domainwright.methods.lora import Lora, LoraSettings
    from domainwright.train.loop import Job, Run
    from domainwright.train.settings import TrainSettings

    blocks = 1 + max(x.block for x in base.hooks.linears)
    top = tuple(x.path for x in base.hooks.linears if x.block >= blocks - blocks // 3)
    targets = top if adapters == "top_third" else ("all-linear",)
    return [
        Run(
            Job(
                base=base,
                adapter=Lora.build(
                    base, LoraSettings(rank=RANKS[n % len(RANKS)], targets=targets), seed=n
                ),
                rows=rows,
                development=[],
                general=[],
                settings=TrainSettings(batch=options.batch),
                steps=WARM + options.steps,
                learning_rate=2e-4 * (1 + n / 4),
                micro_tokens=options.micro_tokens,
                seed=0,
                folder=folder / str(n),
                run_hash="bench",
            )
        )
        for n in range(count)
    ]


def show(table: Sequence[dict[str, Any]]) -> None:
    note("adapters    candidates  tokens/s in turn  tokens/s fused  fused is faster by")
    for line in table:
        if "ratio" not in line:
            note(f"{line['adapters']:<11} {line['candidates']:>10}  {line['failed']}")
            continue
        ratio = line["ratio"]
        note(
            f"{line['adapters']:<11} {line['candidates']:>10}"
            f" {line['in_turn_tokens_per_s']['median']:>17.1f}"
            f" {line['fused_tokens_per_s']['median']:>15.1f}"
            f"  {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )


if __name__ == "__main__":
    sys.exit(main())
