"""`dw curate`: from whatever people have to data one can trust."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def curate(
    files: Annotated[list[Path] | None, typer.Argument(help="Data files, or folders.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the curated dataset.")
    ] = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Read documents to quote, not rows to learn.")
    ] = False,
    domain: Annotated[
        str | None, typer.Option(help="Use this domain's preset (see dw domains).")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation file: rows that give it away are dropped. Repeatable."),
    ] = None,
    use: Annotated[
        list[str] | None, typer.Option("--with", help="Run this filter too. Repeatable.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option("--without", help="Do not run this filter. Repeatable.")
    ] = None,
    select: Annotated[
        str | None, typer.Option(help="Keep --rows rows: k_center, dpp, random, …")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="How many rows --select keeps.")] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="With --select relevance: texts that the rows should be like."),
    ] = None,
    secrets: Annotated[
        Path | None, typer.Option(help="Write here what was replaced (mode 0600).")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a dataset in -o.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes that judge (one for each core).")
    ] = None,
    on: Annotated[str, typer.Option(help="here, or ray: its cluster (RAY_ADDRESS).")] = "here",
    explain: Annotated[
        str | None, typer.Option(metavar="ID", help="Tell what became of one row in -o.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Repair, redact and drop with a reason; find copies and leaks.

    Every record is kept or in dropped.jsonl. Interrupted? Run it again.
    """
    from domainwright.core.errors import ConfigError

    given = list(files or [])
    if explain is not None:
        folder = output or (given[0] if len(given) == 1 else None)
        if folder is None:
            raise ConfigError("--explain needs one dataset.", "write --explain ID -o DATASET.")
        _explain(folder, explain, as_json)
        return
    if output is None:
        raise ConfigError("No folder is given for the dataset.", "add -o DATASET.")
    _check_selection(select, rows, target)
    _curate(
        *(given, output, secrets, as_json, fresh),
        as_documents=documents,
        domain=domain,
        against=tuple(against or ()),
        use=tuple(use or ()),
        leave_out=tuple(leave_out or ()),
        workers=workers,
        on=on,
        select=(select, rows, target),
    )


def _check_selection(select: str | None, rows: int | None, target: Path | None) -> None:
    from domainwright.core.errors import ConfigError

    if (select is None) != (rows is None):
        raise ConfigError(
            f"--select is {select} and --rows is {rows}.",
            "give both, such as --select k_center --rows 200, or none.",
        )
    if target is not None and select is None:
        raise ConfigError(
            f"--target is {target}, and nothing is selected.",
            "add --select relevance --rows 200, or leave --target out.",
        )


def _curate(
    files: list[Path],
    output: Path,
    secrets: Path | None,
    as_json: bool,
    fresh: bool,
    select: tuple[str | None, int | None, Path | None],
    **wish: Any,
) -> None:
    from dataclasses import asdict

    from domainwright.cli._screen import progress
    from domainwright.curate import pipeline
    from domainwright.curate.secrets import check_secrets_file, write_secrets
    from domainwright.curate.select import SelectSettings

    if secrets is not None:
        check_secrets_file(secrets, output)
    method, rows, target = select
    if method is not None and rows is not None:
        aim = None if target is None else str(target)
        wish["select"] = SelectSettings(method=method, rows=rows, target=aim)
    wanted = pipeline.Wish(files=tuple(files), keep_secrets=secrets is not None, **wish)
    with progress() as (listen, _):
        result = pipeline.curate(wanted, output, fresh=fresh, listen=listen)
    if secrets is not None:
        write_secrets(secrets, result.secrets)
    if as_json:
        shown = asdict(result)
        del shown["secrets"]
        print(json.dumps(shown, ensure_ascii=False))
    else:
        _print(result)


def _print(result: Any) -> None:
    from collections import Counter

    from rich.console import Console
    from rich.text import Text

    from domainwright.cli._screen import visible

    console = Console(width=min(80, Console().width), highlight=False)
    share = result.kept / result.records
    console.print()
    console.print(
        Text.assemble(
            (f"{result.kept:,} rows kept", "bold green"),
            f" of {result.records:,} records ({share:.1%}), {result.changed:,} of them repaired;"
            f" {result.dropped:,} dropped",
        )
    )
    counts = Counter[str]()
    for by_reason in result.reasons.values():
        counts.update(by_reason)
    told = {reason: entries[0] for reason, entries in result.samples.items()}
    rows = [("dropped", reason, count, "red") for reason, count in counts.most_common()]
    rows += [("changed", what, count, "yellow") for what, count in result.changes.items()]
    most = max((count for _, _, count, _ in rows), default=1)
    if rows:
        console.print()
    for done, reason, count, style in rows:
        line = Text.assemble(
            f"{done} {reason:<22}{count:>8,} ",
            (f"{'█' * max(1, round(8 * count / most)):<9}", style),
        )
        if done == "dropped":
            first = told[reason]
            words = visible(f"line {first['line']}: {first['detail']}").replace("\n", " ")
            line.append(words, "dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
    console.print()
    for name in (*result.tables, "dropped.jsonl", "changed.jsonl", "report.html"):
        console.print(Text(f"  {Path(result.folder) / name}"), soft_wrap=True)
    console.print(Text(f"  dw curate --explain ID -o {result.folder}", "dim"), soft_wrap=True)


def _explain(folder: Path, row: str, as_json: bool) -> None:
    from domainwright.cli._screen import visible
    from domainwright.curate.curated import explain

    story = explain(folder, row)
    if as_json:
        print(json.dumps({"id": row, "story": story}, ensure_ascii=False))
        return
    print(visible(f"{row}  ({story[0]['file']}, line {story[0]['line']})"))
    for step in story:
        if step["was"] == "kept":
            print(visible(f"  kept in {step['table']}"))
        elif step["was"] == "dropped":
            print(visible(f"  dropped by {step['filter']} as {step['reason']}: {step['detail']}"))
        else:
            kinds = ", ".join(f"{kind} {count}" for kind, count in step.get("kinds", {}).items())
            places = f"{step['before']} place{'s' if step['before'] != 1 else ''}"
            print(
                visible(
                    f"  changed by {step['filter']} in {places}" + (f": {kinds}" if kinds else "")
                )
            )
