"""The peer: TRL's SFTTrainer with PEFT on the same steps as `bench.train_steps`.

    python -m bench.peer_trl MODEL_DIR STEPS.json [--preset default|best]

`default` is SFTTrainer as it ships, with only `use_cpu` set where there is no GPU. `best` is
the fastest setting of equal loss that was found on a two-core AVX512-BF16 processor: bfloat16
weights, no gradient checkpointing, one document at a time (no padding, so no mask).
Prints one JSON line like `bench.train_steps`.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("steps", type=Path)
    parser.add_argument("--preset", choices=["default", "best"], default="best")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import torch
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(options.threads)
    spec = json.loads(options.steps.read_text())
    documents = [d for step in spec["steps"] for d in step]
    each = len(spec["steps"][0])
    micro = each if options.preset == "default" else 1
    rows = Dataset.from_list(documents)

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

    class InOrder(SFTTrainer):
        """Reads the documents in the order given: no shuffling."""

        def _get_train_sampler(self, *_: object, **__: object) -> object:
            return torch.utils.data.SequentialSampler(rows)

    clock = Clock()
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=len(spec["steps"]),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=each // micro,
        max_length=max(len(d["input_ids"]) for d in documents),
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
        gradient_checkpointing=options.preset == "default",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        model_init_kwargs={"dtype": "float32" if options.preset == "default" else "bfloat16"},
    )
    trainer = InOrder(
        model=options.model,
        args=config,
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
    trainer.train()
    timed, spent = spec["steps"][options.warmup :], sum(clock.seconds[options.warmup :])
    labelled = sum(x != -100 for step in timed for d in step for x in d["labels"][1:])
    real = sum(len(d["input_ids"]) for step in timed for d in step)
    print(
        json.dumps(
            {
                "peer": "trl+peft",
                "preset": options.preset,
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
