"""`dw export`: the trained model in a form that others load."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of `dw decide` or `dw train`.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    to: Annotated[
        str, typer.Option(help="merged (a plain model) or peft (an adapter).")
    ] = "merged",
    merge: Annotated[
        str | None,
        typer.Option(help="Of qlora: dequant16 (default), original16 or requant4."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of METHOD+tasks: the task whose adapter is written.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write the tuned model for other programs to load."""
    import json

    from domainwright.studies.export import export as run_export
    from domainwright.studies.export import without_gate

    written = run_export(run, output, to, merge, task)
    lost = without_gate(run)
    if as_json:
        print(json.dumps({"folder": str(written), "form": to, **({"lost": lost} if lost else {})}))
        return
    print(f"{to}  {written}")
    if lost:
        typer.echo(lost, err=True)
