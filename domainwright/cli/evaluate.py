"""`dw evaluate`: score a model or a run on a file."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A base (alias, hub id, folder) or a run folder.")],
    data: Annotated[Path, typer.Option(help="Conversations, multiple choice or plain text.")],
    items: Annotated[
        int, typer.Option("-n", "--items", min=1, help="Rows scored, from the top.")
    ] = 100,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a model or a run on a file, with intervals."""
    from domainwright.cli._screen import progress
    from domainwright.studies.score import score_file

    with progress() as (listen, _):
        found = score_file(model, data, items=items, new_tokens=new_tokens, listen=listen)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from domainwright.maths.bootstrap import Interval
    from domainwright.studies._format import measure, unit

    score = unit(found["score"])
    span = score.levels(Interval(found["mean"], found["low"], found["high"]))
    print(f"{score.label} {span}, 95 % interval, on {found['items']} rows of {data}")
    for name, value in found["metrics"].items():
        if name == "answer_loss":
            print(f"  {measure(name)} {value:.4f}")
        elif name != found["score"]:
            print(f"  {measure(name)} {unit(name).level(value)}")
    print(f"  parsed {found['parsed']:.1%}")
