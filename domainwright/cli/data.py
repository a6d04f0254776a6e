"""`dw data`: look at data as the model will see it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from domainwright.curate.labels import LabelErrors

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


@app.command()
def labels(
    file: Annotated[Path, typer.Argument(help="Texts with a label, or always the same choices.")],
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="Rows to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List rows whose label is probably wrong. Nothing is dropped."""
    from domainwright.cli._screen import progress
    from domainwright.curate.labels import label_errors
    from domainwright.curate.read import read

    result = read(file)
    with progress() as (listen, _):
        found = label_errors(result.rows, listen=listen)
    if as_json:
        unread = [asdict(x) for x in result.set_aside]
        told = {"file": result.file, **asdict(found), "set_aside": unread}
        print(json.dumps(told, ensure_ascii=False))
        return
    _print_labels(found, rows)
    if result.set_aside:
        print(f"{len(result.set_aside)} records are no rows: dw data show FILE tells why.")


def _print_labels(found: "LabelErrors", rows: int) -> None:
    from domainwright.cli._screen import visible

    counts = ", ".join(f"{n} {x}" for x, n in zip(found.labels, found.counts, strict=True))
    print(visible(f"{found.rows} rows: {counts}"))
    print(f"{found.agree:.1%} have the label that other groups' rows foretell ({found.reads}).")
    print(f"About {found.wrong_share:.1%} of the labels are wrong, by estimate.")
    for suspect in found.suspects[:rows]:
        print(
            visible(
                f"  {suspect.margin:+.3f}  {suspect.id} (line {suspect.line}): "
                f"{suspect.given!r}, likelier {suspect.likelier!r}"
            )
        )
    if len(found.suspects) > rows:
        print(f"  and {len(found.suspects) - rows} more; --json lists all.")


@app.command()
def terms(
    file: Annotated[Path, typer.Argument(help="Training rows.")],
    documents: Annotated[Path, typer.Option(help="A file or a folder of the domain's texts.")],
    base: Annotated[
        str | None, typer.Option(help="Base with whose tokens the terms are counted.")
    ] = None,
    general: Annotated[
        Path | None,
        typer.Option(help="Everyday texts to compare with; better than the few shipped."),
    ] = None,
    rows: Annotated[int, typer.Option("-n", "--rows", min=0, help="Terms to list.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the documents' own words that no training row holds."""
    from domainwright.cli._screen import visible
    from domainwright.studies.vocabulary import vocabulary

    found = vocabulary(file, documents, base, general)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    print(f"{len(found.terms):,} terms, {found.coverage:.1%} of them in the training rows")
    if found.fertility is not None:
        usual = found.general_fertility
        beside = "" if usual is None else f", {usual:.2f} a word of general text"
        print(f"{found.fertility:.2f} tokens a term{beside}")
    for term in found.missing[:rows]:
        print(visible(f"  {term.word}: {term.documents} times in the documents"))
    if len(found.missing) > rows:
        print(f"  and {len(found.missing) - rows:,} more; --json lists all.")


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
