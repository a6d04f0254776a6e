"""`dw doctor`: what this machine can run."""

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what this machine can run, and what is missing."""
    from domainwright.studies.doctor import examine

    found = examine()
    if as_json:
        print(
            json.dumps(
                [{"name": f.name, "ok": f.ok, "found": f.found, "fix": f.fix} for f in found]
            )
        )
    else:
        for f in found:
            print(f"{'ok  ' if f.ok else 'no  '} {f.name:<22} {f.found}")
            if not f.ok and f.fix:
                print(f"{'':<27} fix: {f.fix}")
    if any(f.needed and not f.ok for f in found):
        raise typer.Exit(4)
