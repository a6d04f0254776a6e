"""`dw data`: look at data as the model will see it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Look at data as the model will see it.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def group() -> None:
    """Look at data as the model will see it."""


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A data file.")],
    base: Annotated[
        str, typer.Option(help="Base whose template and tokens are shown.")
    ] = "smollm2-135m",
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="Rows to print.")] = 3,
    format: Annotated[str | None, typer.Option(help="Override the detected format.")] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", help="Override a column: --column question=Frage."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print rows, supervised tokens coloured, and what was set aside."""
    from domainwright.core.errors import ConfigError
    from domainwright.studies.look import look

    mapping = {}
    for pair in columns or []:
        role, sign, name = pair.partition("=")
        if not sign:
            raise ConfigError(f"--column {pair!r} has no value.", "write --column ROLE=COLUMN.")
        mapping[role] = name
    seen = look(file, base, rows, format=format, columns=mapping)
    if as_json:
        print(
            json.dumps(
                {
                    "file": seen.result.file,
                    "format": seen.result.format,
                    "columns": seen.result.columns,
                    "records": seen.result.records,
                    "kept": len(seen.result.rows),
                    "set_aside": [asdict(x) for x in seen.result.set_aside],
                    "rows": [
                        {"id": r.id, "tokens": r.tokens, "supervised": r.supervised}
                        for r in seen.rows
                    ],
                },
                ensure_ascii=False,
            )
        )
        return
    _print(seen)


def _print(seen: object) -> None:
    from rich.console import Console
    from rich.text import Text

    from domainwright.cli._screen import visible
    from domainwright.studies.look import Look

    assert isinstance(seen, Look)
    console, result = Console(), seen.result

    def say(text: str, style: str = "") -> None:
        # Text, not str: brackets in a file's words are no markup.
        console.print(Text(visible(text), style))

    used = ", ".join(f"{role}={column}" for role, column in result.columns.items())
    say(f"{result.file}: {result.format} ({used})")
    say(f"{result.records} records = {len(result.rows)} rows + {len(result.set_aside)} set aside")
    for reason, count in Counter(x.reason for x in result.set_aside).most_common():
        first = next(x for x in result.set_aside if x.reason == reason)
        say(f"  {count} {reason}, first in line {first.line}: {first.detail}")
    for row in seen.rows:
        console.print()
        count = sum(row.supervised)
        say(f"{row.id}: {len(row.tokens)} tokens, {count} supervised", "bold")
        text = Text()
        for token, on in zip(row.tokens, row.supervised, strict=True):
            text.append(visible(token), "black on green" if on else "dim")
        console.print(text)
    if seen.rows:
        console.print()
        parts = (("supervised", "black on green"), ("  read, without loss", "dim"))
        console.print(Text.assemble(*parts))
