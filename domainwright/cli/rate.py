"""`dw rate`: which learning rate a method should begin with."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

BAR, LINES = 40, 20


def rate(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).")],
    method: Annotated[str, typer.Option(help="Method to test; see `dw methods`.")],
    low: Annotated[float | None, typer.Option(help="First rate.")] = None,
    high: Annotated[float | None, typer.Option(help="Last rate.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the test.")] = 60,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: --set train.batch=4. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say with which learning rate a method should begin."""
    from domainwright.cli._screen import progress
    from domainwright.studies.rates import find_rate

    with progress() as (listen, _):
        found = find_rate(
            study, method, low=low, high=high, steps=steps, overrides=settings or [], listen=listen
        )
    if as_json:
        print(json.dumps(asdict(found)))
        return
    most, least = max(found.losses), min(found.losses)
    print("rate      loss less the base's")
    for number, (tested, loss) in enumerate(zip(found.rates, found.losses, strict=True)):
        if number % max(1, len(found.rates) // 20) and tested not in (
            found.suggested,
            found.lowest,
        ):
            continue
        bar = "█" * round(BAR * (loss - least) / ((most - least) or 1))
        here = {found.suggested: "  falls fastest", found.lowest: "  lowest"}.get(tested, "")
        print(f"{tested:.1e}   {loss:+7.3f}  {bar}{here}")
    print(f"\nBegin with train.learning_rate {found.suggested:.1e}; stay below {found.lowest:.1e}.")
