"""The peer: TRL's SFTTrainer with PEFT on the same steps as `bench.train_steps`.

    python -m bench.peer_trl MODEL_DIR STEPS.json [--preset default|best]
        [--checkpointing on|off] [--weights float32|bfloat16] [--micro N]

`default` is SFTTrainer as it ships, with only `use_cpu` set where there is no GPU. `best` is
the fastest setting of equal loss that was found on a two-core AVX512-BF16 processor: bfloat16
weights, no gradient checkpointing, one document at a time (no padding, so no mask); the other
options override single settings of the preset. Prints one JSON line like `bench.train_steps`.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("steps", type=Path)
    parser.add_argument("--preset", choices=["default", "best"], default="best")
    parser.add_argument("--checkpointing", choices=["on", "off"])
    parser.add_argument("--weights", choices=["float32", "bfloat16"])
    parser.add_argument("--micro", type=int, help="documents a pass")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    spec = json.loads(options.steps.read_text())
    as_it_ships = options.preset == "default"
    each = len(spec["steps"][0])
    options.micro = options.micro or (each if as_it_ships else 1)
    options.weights = options.weights or ("float32" if as_it_ships else "bfloat16")
    options.checkpointing = options.checkpointing or ("on" if as_it_ships else "off")
    clock = _clock()
    trainer = _trainer(options, spec, clock)
    trainer.train()
    _print(options, spec, clock)


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.logs: list[tuple[float, float]] = []

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.seconds.append(time.perf_counter() - self.begun)

        def on_log(self, *_: object, logs: dict | None = None, **__: object) -> None:
            if logs and "loss" in logs:
                self.logs.append((float(logs["loss"]), float(logs["grad_norm"])))

    return Clock()


def _trainer(options: argparse.Namespace, spec: dict, clock: Any) -> Any:
    """SFTTrainer over the documents in the order given, begun with our adapter."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer
    from trl import SFTTrainer

    rows = Dataset.from_list([d for step in spec["steps"] for d in step])

    class InOrder(SFTTrainer):
        """Reads the documents in the order given: no shuffling."""

        def _get_train_sampler(self, *_: object, **__: object) -> object:
            return torch.utils.data.SequentialSampler(rows)

    trainer = InOrder(
        model=options.model,
        args=_config(options, spec),
        train_dataset=rows,
        callbacks=[clock],
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(
            r=spec["rank"],
            lora_alpha=spec["alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    if spec.get("init"):
        set_peft_model_state_dict(trainer.model, load_file(options.steps.parent / spec["init"]))
    return trainer


def _config(options: argparse.Namespace, spec: dict) -> Any:
    import torch
    from trl import SFTConfig

    each = len(spec["steps"][0])
    return SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=len(spec["steps"]),
        per_device_train_batch_size=options.micro,
        gradient_accumulation_steps=each // options.micro,
        max_length=max(len(d["input_ids"]) for step in spec["steps"] for d in step),
        learning_rate=spec["lr"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=0,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=options.checkpointing == "on",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        model_init_kwargs={"dtype": options.weights},
    )


def _print(options: argparse.Namespace, spec: dict, clock: Any) -> None:
    timed, spent = spec["steps"][options.warmup :], sum(clock.seconds[options.warmup :])
    labelled = sum(x != -100 for step in timed for d in step for x in d["labels"][1:])
    real = sum(len(d["input_ids"]) for step in timed for d in step)
    print(
        json.dumps(
            {
                "peer": "trl+peft",
                "preset": options.preset,
                "checkpointing": options.checkpointing,
                "weights": options.weights,
                "micro": options.micro,
                "loss": [loss for loss, _ in clock.logs],
                "grad_norm": [norm for _, norm in clock.logs],
                "seconds_per_step": [round(x, 4) for x in clock.seconds],
                "real_tokens_per_s": round(real / spent, 1),
                "labelled_tokens_per_s": round(labelled / spent, 1),
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
