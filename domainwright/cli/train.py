"""`dw train`: one method on a study's data."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def train(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).")],
    method: Annotated[str, typer.Option(help="Method to train; see `dw methods`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: --set train.steps=50. May be repeated."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Log to mlflow, optuna, tensorboard, trackio, wandb."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train one method; the adapter is written to OUTPUT/adapter."""
    from domainwright.cli._screen import progress
    from domainwright.studies.api import train_method as run

    overrides = list(settings or [])
    if track:
        overrides.append(f"track=[{', '.join(track)}]")
    with progress() as (listen, stop):
        figures = run(
            study, method, output, overrides=overrides, resume=resume, listen=listen, stop=stop
        )
    if as_json:
        print(json.dumps(asdict(figures)))
        return
    first, best = figures.history[0], figures.history[-1]
    for line in figures.history:
        if line["step"] == figures.best_step and "development_loss" in line:
            best = line
    print(
        f"development loss {first['development_loss']:.4f} -> {best['development_loss']:.4f} "
        f"(step {figures.best_step} of {figures.steps})"
    )
    print(f"general loss     {first['general_loss']:.4f} -> {best['general_loss']:.4f}")
    print(
        f"{figures.minutes:.1f} minutes, {figures.tokens_per_s:.0f} tokens/s, peak "
        f"{figures.peak_rss_mib / 1024:.1f} GiB, {figures.trainable:,} trainable parameters"
    )
    if figures.settings.get("alike"):
        print("labels   read equally often, for one has most rows; with")
        print("         --set evaluate.score=accuracy_norm every row is read once an epoch")
    print(f"adapter  {output / 'adapter'}")
