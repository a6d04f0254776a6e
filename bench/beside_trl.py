"""Training speed beside TRL + PEFT: the same documents in the same steps, turn about.

    python -m bench.beside_trl [--pairs 3] [--steps 6] [--preset best|default]
        [--profile chat|long_prompt|text] [--data FILE] [--model NAME] [--anyway]
    python -m bench.beside_trl --grid            search TRL's fastest setting of equal loss
    python -m bench.beside_trl --sweep 4,8,16,32   our tokens/s by documents per step

Each pair runs us and the peer one after the other in processes of their own; the ratio is
taken pair by pair, so a machine whose speed drifts does not favour either. No ratio is
printed when the losses differ: mean |difference| must stay below 0.02 nats (bfloat16, two
different orders of rounding), or, where a step has few labels and both sides round far from
float32's losses, ours must be the nearer to them. One JSON line a measurement goes to
bench/history.jsonl.
"""

import argparse
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from bench._report import (
    add_options,
    machine_facts,
    note,
    publish,
    refuse_when_busy,
    spread,
)
from bench._steps import MODELS, PROFILES, facts_of, gap, model_folder, run_side, write_steps

LARGEST_LOSS_DIFFERENCE = 0.02
LARGEST_FALL = 0.05
"""Of tokens/s, when the documents per step double."""
PACKAGES = ("torch", "transformers", "trl", "peft")
OURS, PEER = "bench.train_steps", "bench.peer_trl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--preset", choices=["default", "best"], default="best")
    parser.add_argument("--profile", choices=list(PROFILES), default="chat")
    parser.add_argument("--data", type=Path, help="a file of your own instead of the profile's")
    parser.add_argument("--model", default="smollm2-135m", help=f"or {', '.join(MODELS)}")
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--sweep", metavar="4,8,16,32")
    add_options(parser)
    options = parser.parse_args()
    load = refuse_when_busy(options)
    with tempfile.TemporaryDirectory() as folder:
        model = model_folder(options.model, Path(folder))
        if options.grid:
            return grid(Path(folder), model, options, load)
        if options.sweep:
            return sweep(Path(folder), model, options, load)
        return side_by_side(Path(folder), model, options, load)


def _steps(
    folder: Path, model: Path, options: argparse.Namespace, batch: int, by_length: bool = False
) -> Path:
    return write_steps(
        folder,
        model,
        data=options.data,
        profile=options.profile,
        steps=options.steps,
        batch=batch,
        by_length=by_length,
    )


def _head(name: str, options: argparse.Namespace, steps: Path) -> dict[str, Any]:
    return {
        "bench": name,
        "model": options.model,
        "profile": options.profile,
        "data": options.data.name if options.data else None,
        "steps": options.steps,
        **facts_of(steps),
    }


def side_by_side(
    folder: Path, model: Path, options: argparse.Namespace, load: dict[str, Any]
) -> int:
    """Pairs of us and the peer; the ratio with its spread."""
    steps = _steps(folder, model, options, options.batch)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for pair in range(options.pairs):
        sides = [(OURS, ours, []), (PEER, theirs, ["--preset", options.preset])]
        for module, results, extra in sides if pair % 2 == 0 else reversed(sides):
            results.append(run_side(module, model, steps, extra))
    apart = max(gap(a, b) for a, b in zip(ours, theirs, strict=True))
    from_float32 = {}
    if not apart < LARGEST_LOSS_DIFFERENCE:
        exact = run_side(OURS, model, steps, ["--dtype", "float32"])
        away, peer_away = gap(ours[0], exact), gap(theirs[0], exact)
        from_float32 = {"from_float32": round(away, 5), "peer_from_float32": round(peer_away, 5)}
        if away > peer_away:
            note(f"no ratio: the losses differ by {apart:.4f} nats on average; {from_float32}")
            return 5
    rates = [[x["real_tokens_per_s"] for x in side] for side in (ours, theirs)]
    publish(
        {
            **_head("beside_trl", options, steps),
            "preset": options.preset,
            "pairs": options.pairs,
            "documents_per_step": options.batch,
            "ours_tokens_per_s": spread(rates[0]),
            "peer_tokens_per_s": spread(rates[1]),
            "ratio": spread([a / b for a, b in zip(*rates, strict=True)]),
            "mean_loss_difference": round(apart, 5),
            **from_float32,
            "product_gflops": spread([x["product_gflops"] for x in ours]),
            "share_of_products": spread([x["share_of_products"] for x in ours]),
            "ours_peak_rss_mib": max(x["peak_rss_mib"] for x in ours),
            "peer_peak_rss_mib": max(x["peak_rss_mib"] for x in theirs),
            **machine_facts(*PACKAGES),
            **load,
        }
    )
    return 0


def grid(folder: Path, model: Path, options: argparse.Namespace, load: dict[str, Any]) -> int:
    """Every setting of the peer, and which of those with our loss is the fastest.

    Documents ordered by length inside a step are the peer's group_by_length without its
    change of what a step reads: padding falls, the sum of the losses does not change.
    """
    plain = {False: _steps(folder, model, options, options.batch)}
    plain[True] = _steps(folder, model, options, options.batch, by_length=True)
    reference = run_side(OURS, model, plain[False])
    found = []
    for checkpointing, weights, micro, sort in product(
        ("off", "on"), ("bfloat16", "float32"), (1, 2, 8), (False, True)
    ):
        if (micro == 1 and sort) or options.batch % micro:
            continue  # without padding there is nothing to gain by sorting
        extra = ["--checkpointing", checkpointing, "--weights", weights, "--micro", str(micro)]
        line = {"checkpointing": checkpointing, "weights": weights, "micro": micro, "sorted": sort}
        try:
            result = run_side(PEER, model, plain[sort], extra)
        except SystemExit as error:
            note(f"{line}: {str(error).splitlines()[-1]}")
            continue
        apart = gap(reference, result)
        line |= {
            "tokens_per_s": result["real_tokens_per_s"],
            "peak_rss_mib": result["peak_rss_mib"],
            "mean_loss_difference": round(apart, 5),
            "equal": apart < LARGEST_LOSS_DIFFERENCE,
        }
        note("  ".join(f"{k} {v}" for k, v in line.items()))
        found.append(line)
    equal = [x for x in found if x["equal"]]
    if not equal:
        note("no best: no setting of the peer has our loss")
        return 5
    publish(
        {
            **_head("trl_grid", options, plain[False]),
            "documents_per_step": options.batch,
            "best": max(equal, key=lambda x: x["tokens_per_s"]),
            "leanest": min(equal, key=lambda x: x["peak_rss_mib"]),
            "grid": found,
            "ours_tokens_per_s": reference["real_tokens_per_s"],
            "ours_peak_rss_mib": reference["peak_rss_mib"],
            **machine_facts(*PACKAGES),
            **load,
        }
    )
    return 0


def sweep(folder: Path, model: Path, options: argparse.Namespace, load: dict[str, Any]) -> int:
    """Our speed by documents per step; doubling them must not cost more than 5 %."""
    sizes = sorted(int(x) for x in options.sweep.split(","))
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    steps = {size: _steps(folder, model, options, size) for size in sizes}
    for turn in range(options.pairs):
        for size in sizes if turn % 2 == 0 else reversed(sizes):
            rates[size].append(run_side(OURS, model, steps[size])["real_tokens_per_s"])
    medians = {size: spread(rates[size])["median"] for size in sizes}
    falls = {f"{a}-{b}": round(1 - medians[b] / medians[a], 3) for a, b in pairwise(sizes)}
    publish(
        {
            **_head("batch_sweep", options, steps[sizes[0]]),
            "tokens_per_s": {size: spread(rates[size]) for size in sizes},
            "falls": falls,
            "ok": max(falls.values(), default=0.0) <= LARGEST_FALL,
            **machine_facts("torch", "transformers"),
            **load,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
