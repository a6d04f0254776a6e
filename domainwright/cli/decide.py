"""`dw decide`: which strategy to use, measured."""

import json
from pathlib import Path
from typing import Annotated

import typer


def decide(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write; or runs/<name>."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: train.steps=50. Repeatable."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Shorthand for budget.minutes.")] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(help="Most to forget, nats per token of general text.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted study.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the study in the folder, then start.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Log to mlflow, optuna, trackio, tensorboard…"),
    ] = None,
    on: Annotated[str, typer.Option(help="here, or ray (see RAY_ADDRESS).")] = "here",
    workers: Annotated[
        int | None, typer.Option(help="Trainings at once on Ray (as many as fit).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Measure every strategy on your data and say which to use.

    A study file needs two lines:

    \b
      base: smollm2-135m
      data: {train: answers.jsonl, documents: handbook.jsonl}
    """
    from domainwright.cli._screen import progress
    from domainwright.studies.api import decide as run

    overrides = list(settings or [])
    if minutes is not None:
        overrides.append(f"budget.minutes={minutes}")
    if max_forgetting is not None:
        overrides.append(f"evaluate.max_forgetting={max_forgetting}")
    if track:
        overrides.append(f"track=[{', '.join(track)}]")
    with progress() as (listen, stop):
        decided = run(
            study,
            output,
            overrides=overrides,
            resume=resume,
            fresh=fresh,
            on=on,
            workers=workers,
            listen=listen,
            stop=stop,
        )
    if as_json:
        print(json.dumps(decided.verdict.as_json(), ensure_ascii=False))
        return
    from domainwright.cli._verdict import show

    show(decided.verdict, decided.folder)
