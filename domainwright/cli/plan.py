"""`dw plan`: what a study would take, before anything is run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def plan(
    study: Annotated[Path, typer.Argument(help="Study file (YAML).")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a setting: --set train.steps=50. May be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict time and memory of every strategy; run nothing.

    A probe of a few seconds measures this machine. Exit code 4: a strategy does not fit.
    """
    from domainwright.cli._screen import progress, visible
    from domainwright.studies.api import plan as predict
    from domainwright.studies.plan_table import plan_lines

    with progress() as (listen, _):
        found = predict(study, overrides=settings or [], listen=listen)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        print(visible("\n".join(plan_lines(found))))
    found.require()
