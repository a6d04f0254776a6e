"""`dw chat`: talk to the base and the winner side by side."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def chat(
    run: Annotated[Path, typer.Argument(help="Folder of `dw decide` or `dw train`.")],
    question: Annotated[
        str | None, typer.Option("-q", "--question", help="Ask once and leave.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="Another strategy of the study.")] = None,
    new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Answers as JSON lines.")] = False,
) -> None:
    """Ask the base and the recommended strategy the same question."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel

    from domainwright.studies.api import load_run

    loaded = load_run(run, strategy)
    console = Console()
    asking = question is None and sys.stdin.isatty()
    if asking:
        console.print(
            f"[bold]{loaded.base.source.name}[/] beside [bold]{loaded.strategy}[/]. Ctrl-D leaves."
        )
    questions = [question] if question else _questions(asking)
    for text in questions:
        plain, _ = loaded.ask(text, new_tokens=new_tokens, bare=True)
        tuned, passages = loaded.ask(text, new_tokens=new_tokens)
        if as_json:
            print(
                json.dumps(
                    {
                        "question": text,
                        "base": plain,
                        "strategy": loaded.strategy,
                        "answer": tuned,
                        "passages": list(passages),
                    },
                    ensure_ascii=False,
                )
            )
            continue
        width = max(30, (console.width - 4) // 2)
        console.print(
            Columns(
                [
                    Panel(plain or "(empty)", title="base", width=width),
                    Panel(tuned or "(empty)", title=loaded.strategy, width=width),
                ]
            ),
            markup=False,
        )
        for passage in passages:
            console.print(f"  quoted: {passage[:110]}…", style="dim", markup=False)


def _questions(asking: bool):  # type: ignore[no-untyped-def]
    while True:
        try:
            line = input("? " if asking else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()
