"""The same steps for both sides: profiles of documents, random bases, and how a side is run.

chat          short conversations, about half of the tokens labelled
long_prompt   a long prompt with a short answer
text          plain text, every token labelled
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench._report import HERE

SHARED = HERE.parents[1] / "shared" / "data"
EXAMPLES = HERE.parent / "examples"
PROFILES = {
    "chat": ("medical/qa.jsonl", "medicines/questions.jsonl", (32, 512), 1.0),
    "long_prompt": ("finance/qa.jsonl", "medicines/questions.jsonl", (256, 1024), 0.15),
    "text": ("medical/text.jsonl", "medicines/documents.jsonl", (128, 512), 1.0),
}
"""Profile -> (file of shared/data, file of examples/ where that is missing, tokens from and to,
largest share of them that is labelled)."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-360m": ("LlamaConfig", {"hidden_size": 960, "intermediate_size": 2560,
        "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5}),
    "llama-1b": ("LlamaConfig", {"hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}),
    "qwen-360m": ("Qwen2Config", {"hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}),
    "qwen3-600m": ("Qwen3Config", {"hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}),
    "qwen-1b": ("Qwen2Config", {"hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2}),
}  # fmt: skip
"""Shapes of SmolLM2-360M, Llama-3.2-1B, Qwen2.5-0.5B, Qwen3-0.6B and Qwen2.5-1.5B, all with
SmolLM2's vocabulary and random weights: their speed is the real one's, their answers are none."""
START = {"rank": 16, "alpha": 32, "lr": 2e-4, "init": "start/adapter_model.safetensors"}


def model_folder(name: str, folder: Path) -> Path:
    """The base called `name`: one of MODELS is made in `folder`, others are resolved."""
    from domainwright.models.base import load_base

    if name not in MODELS:
        return load_base(name).source.folder
    import torch
    import transformers

    kind, values = MODELS[name]
    source = load_base("smollm2-135m")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            config = getattr(transformers, kind)(
                **values,
                vocab_size=source.vocabulary,
                tie_word_embeddings=True,
                max_position_embeddings=2048,
                dtype="bfloat16",
            )
            model = transformers.AutoModelForCausalLM.from_config(config)
        finally:
            torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / name)
    source.tokenizer.save_pretrained(folder / name)
    return folder / name


def write_steps(
    folder: Path,
    model: Path,
    *,
    data: Path | None,
    profile: str,
    steps: int,
    batch: int,
    by_length: bool = False,
) -> Path:
    """`folder/steps-….json` and, once, an adapter that both sides begin with."""
    from domainwright.curate.read import read
    from domainwright.methods.lora import Lora, LoraSettings
    from domainwright.models.base import load_base
    from domainwright.models.forms import encode_rows
    from domainwright.studies.data import as_conversations

    base = load_base(str(model))
    if not (folder / "start").exists():
        Lora.build(base, LoraSettings(), seed=0).save(folder / "start")
    shared, example, (least, most), labelled = PROFILES[profile]
    file = data or (SHARED / shared if (SHARED / shared).is_file() else EXAMPLES / example)
    rows, _ = as_conversations(read(file).rows)
    encoded = [r for r in encode_rows(base.template, rows, most) if not r.cut and r.targets]
    alike = [r for r in encoded if len(r.ids) >= least and r.targets <= labelled * len(r.ids)]
    # A file without such documents is taken as it is, and the line says what they were.
    chosen = (alike if len(alike) >= batch else encoded)[: steps * batch]
    if not chosen:
        raise SystemExit(f"{file} holds no document for this bench; give another with --data.")
    chosen = (chosen * (steps * batch))[: steps * batch]
    documents = [_document(r) for r in chosen]
    made = [documents[i : i + batch] for i in range(0, len(documents), batch)]
    if by_length:
        # Inside a step only: which documents a step reads stays as it is.
        made = [sorted(step, key=lambda d: len(d["input_ids"])) for step in made]
    path = folder / f"steps-{profile}-{batch}{'-sorted' if by_length else ''}.json"
    path.write_text(json.dumps({"steps": made, **START}))
    return path


def rows_of(documents: Sequence[dict[str, Any]]) -> list[Any]:
    """The documents of one step, as our loop takes them."""
    from domainwright.models.forms import TrainRow

    return [
        TrainRow(str(i), d["input_ids"], [label != -100 for label in d["labels"]])
        for i, d in enumerate(documents)
    ]


def job_of(base: Any, adapter: Any, folder: Path, steps: int, rate: float, micro: int) -> Any:
    """A job for `take_step`: constant rate, nothing watched."""
    from domainwright.train.loop import Job
    from domainwright.train.settings import TrainSettings

    return Job(
        base=base,
        adapter=adapter,
        settings=TrainSettings(schedule="constant", warmup_share=0.0),
        steps=steps,
        learning_rate=rate,
        micro_tokens=micro,
        seed=0,
        folder=folder,
        run_hash="bench",
    )


def _document(row: Any) -> dict[str, list[int]]:
    labels = [
        t if on and i else -100
        for i, (t, on) in enumerate(zip(row.ids, row.supervised, strict=True))
    ]
    return {"input_ids": row.ids, "labels": labels}


def run_side(module: str, model: Path, steps: Path, extra: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON line of one side, in a process of its own.

    Raises:
        SystemExit: it failed, or its losses are no numbers.
    """
    command = [sys.executable, "-m", module, str(model), str(steps), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not all(math.isfinite(x) for x in result["loss"]) or min(result["grad_norm"]) <= 0:
        raise SystemExit(f"{module}: a loss that is not finite, or no gradient")
    return result


def gap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Mean difference of two sides' losses, nats per token."""
    return statistics.mean(abs(x - y) for x, y in zip(a["loss"], b["loss"], strict=True))


def facts_of(path: Path) -> dict[str, float]:
    """What the documents are like."""
    documents = [d for step in json.loads(path.read_text())["steps"] for d in step]
    tokens = sum(len(d["input_ids"]) for d in documents)
    labelled = sum(x != -100 for d in documents for x in d["labels"])
    return {
        "mean_tokens": round(tokens / len(documents), 1),
        "labelled_share": round(labelled / tokens, 3),
    }
