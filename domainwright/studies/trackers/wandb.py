"""Weights & Biases: offline in the study's own folder, unless WANDB_MODE says otherwise."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from domainwright.studies.trackers import EXPERIMENT, TRACKERS


@TRACKERS.register
class WeightsAndBiases:
    """A run in the project "domainwright"; `wandb sync` sends an offline one."""

    libraries = ("wandb",)

    def __init__(self, name: str, folder: Path, known: str | None) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", EXPERIMENT),
            name=name,
            id=known,
            resume="allow" if known and mode == "online" else None,
            dir=str(folder),
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.identity = str(self.run.id)
        self.axes: set[str] = set()

    def parameters(self, values: Mapping[str, str]) -> None:
        self.run.config.update(dict(values), allow_val_change=True)

    def metrics(self, run: str, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        if run not in self.axes:
            # Its own steps only rise; every training run begins again at 0.
            self.run.define_metric(f"{run}/*", step_metric=f"{run}/step")
            self.axes.add(run)
        for step, values in lines:
            told = {f"{run}/{name}": value for name, value in values.items()}
            self.run.log({f"{run}/step": step, **told})

    def result(self, strategy: str, values: Mapping[str, float]) -> None:
        self.run.summary.update({f"{strategy}/result/{k}": v for k, v in values.items()})

    def files(self, paths: Sequence[Path], sentence: str) -> None:
        self.run.summary["verdict"] = sentence
        kept = self.wandb.Artifact(f"{EXPERIMENT}-{self.identity}", type="verdict")
        for path in paths:
            kept.add_file(str(path))
        self.run.log_artifact(kept)

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
