"""Our engine on fixed optimiser steps: the counterpart of a TRL + PEFT script on the same input.

    python -m bench.train_steps MODEL_DIR STEPS.json [--dtype bfloat16] [--warmup 2] [--threads 2]

STEPS.json holds tokenised documents, so that both sides read the same tokens in the same steps:

    {"steps": [[{"input_ids": [...], "labels": [...]}, ...], ...],
     "rank": 16, "alpha": 32, "lr": 2e-4, "init": "adapter.safetensors" | null}

`labels` are aligned with `input_ids`; -100 marks tokens without loss. The last line printed
is one JSON object: loss and gradient norm per step, seconds per step, real and labelled
tokens per second, peak resident memory; and the rate of one large matrix product in the base's
type, taken right after the steps, with the share of it that a frozen base's 4 N operations a
token (N parameters, a tied head counted once) are at the speed measured.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch

from bench._steps import job_of, rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("steps", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-tokens", type=int, default=2048)
    options = parser.parse_args()

    from domainwright.methods.lora import Lora, LoraSettings
    from domainwright.models.base import load_base
    from domainwright.train.loop import take_step

    torch.set_num_threads(options.threads)
    spec = json.loads(options.steps.read_text())
    base = load_base(options.model, dtype=options.dtype)
    adapter = Lora.build(base, LoraSettings(rank=spec["rank"], alpha=spec["alpha"]), seed=0)
    if spec.get("init"):
        _start_from(adapter, options.steps.parent / spec["init"])
    adapter.attach()
    steps = [rows_of(step) for step in spec["steps"]]
    parameters = list(adapter.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=spec["lr"], weight_decay=0.0, fused=True)
    folder = Path(tempfile.mkdtemp())
    job = job_of(base, adapter, folder, len(steps), spec["lr"], options.micro_tokens)
    losses, norms, seconds = [], [], []
    for number, rows in enumerate(steps):
        begun = time.perf_counter()
        loss, norm, _ = take_step(job, optimiser, parameters, number, rows)
        seconds.append(time.perf_counter() - begun)
        losses.append(loss)
        norms.append(norm)
    print(json.dumps(_figures(base, options, steps, losses, norms, seconds)))


def _figures(base, options, steps, losses, norms, seconds) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """The line that is printed; rates are those of the steps after the warm-up."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    timed, spent = steps[options.warmup :], sum(seconds[options.warmup :])
    rate = sum(len(r.ids) for s in timed for r in s) / spent
    gflops = product_rate(base.dtype, base.device)
    weights = sum(p.numel() for p in base.model.parameters())
    return {
        "peer": "domainwright",
        "dtype": str(base.dtype).removeprefix("torch."),
        "micro_tokens": options.micro_tokens,
        "loss": losses,
        "grad_norm": norms,
        "seconds_per_step": [round(x, 4) for x in seconds],
        "real_tokens_per_s": round(rate, 1),
        "labelled_tokens_per_s": round(sum(r.targets for s in timed for r in s) / spent, 1),
        "peak_rss_mib": peak,
        "product_gflops": round(gflops, 1),
        "share_of_products": round(rate * 4 * weights / 1e9 / gflops, 3),
    }


def product_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """GFLOP/s of size³ matrix products: the median of nine after a warm-up."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    spent = []
    for _ in range(12):
        begun = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a device that works by itself
        spent.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(spent[3:]) / 1e9


def _start_from(adapter, path: Path) -> None:  # type: ignore[no-untyped-def]
    """Both sides begin with the same A and B: PEFT's tensor names, with its prefix."""
    from safetensors.torch import load_file

    tensors = {name.removeprefix("base_model.model."): t for name, t in load_file(path).items()}
    with torch.no_grad():
        for layer, a, b in zip(adapter.layers, adapter.A, adapter.B, strict=True):
            a.copy_(tensors[f"{layer.path}.lora_A.weight"])
            b.copy_(tensors[f"{layer.path}.lora_B.weight"])


if __name__ == "__main__":
    main()
