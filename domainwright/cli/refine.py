"""`dw refine`: a finished run made better, or watched."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def refine(
    run: Annotated[Path, typer.Argument(help="Folder of `dw decide` or `dw train`.")],
    strategy: Annotated[str | None, typer.Option(help="One with an adapter.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="New rows with right answers. Repeatable.")
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help="eda: also make a variant of each proposed row.")
    ] = None,
    share: Annotated[float, typer.Option(help="Of the rows read: those proposed.")] = 0.5,
    steps: Annotated[
        int | None, typer.Option(help="Of retraining; otherwise a fifth of the run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a round.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin that round again.")] = False,
    back: Annotated[
        bool, typer.Option("--roll-back", help="The adapter before, in force again.")
    ] = False,
    watch: Annotated[
        Path | None, typer.Option(help="Do the questions of this file differ?")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train on rows like the errors; keep what is proven better."""
    from domainwright.core.errors import ConfigError

    if back and watch:
        raise ConfigError(
            "--roll-back and --watch are two different things.", "give one of the two."
        )
    training = {
        "--data": data, "--augment": augment, "--steps": steps,
        "--resume": resume, "--fresh": fresh,
    }  # fmt: skip
    if watch:
        training["--strategy"] = strategy
    extra = [name for name, value in training.items() if value]
    if extra and (back or watch):
        verb = "--roll-back" if back else "--watch"
        raise ConfigError(f"{extra[0]} has no meaning with {verb}.", f"leave {extra[0]} out.")
    if back:
        _roll_back(run, strategy, as_json)
    elif watch:
        _watch(run, watch, as_json)
    else:
        from domainwright.cli._refined import show
        from domainwright.cli._screen import progress
        from domainwright.studies.refine.rounds import refine as run_round

        with progress() as (listen, stop):
            found = run_round(
                run,
                strategy=strategy,
                data=data or (),
                augment=augment,
                share=share,
                steps=steps,
                resume=resume,
                fresh=fresh,
                listen=listen,
                stop=stop,
            )
        if as_json:
            print(json.dumps({**asdict(found), "folder": str(found.folder)}, ensure_ascii=False))
        else:
            show(found, run)


def _roll_back(run: Path, strategy: str | None, as_json: bool) -> None:
    from domainwright.cli._screen import visible
    from domainwright.studies.refine.champion import roll_back

    event = roll_back(run, strategy)
    if as_json:
        print(json.dumps(asdict(event)))
    else:
        print(visible(f"in force  {run / event.adapter}"))


def _watch(run: Path, file: Path, as_json: bool) -> None:
    from domainwright.cli._refined import show_drift
    from domainwright.cli._screen import progress
    from domainwright.studies.refine.drift import drift

    with progress() as (listen, _):
        found = drift(run, file, listen=listen)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
    else:
        show_drift(found)
