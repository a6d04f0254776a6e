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
    task: Annotated[
        str | None, typer.Option(help="Of METHOD+tasks: the task whose adapter answers.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Answers as JSON lines.")] = False,
) -> None:
    """Ask the base and the recommended strategy the same question."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from domainwright.cli._screen import visible
    from domainwright.studies.api import load_run

    loaded = load_run(run, strategy)
    tasks = list(loaded.adapters)
    loaded = loaded if task is None else loaded.for_task(task)
    console = Console()
    asking = question is None and sys.stdin.isatty()
    if asking:
        beside = "" if loaded.strategy == "zero_shot" else f" beside {loaded.strategy}"
        greeting = f"{visible(loaded.base.source.name)}{beside}. Ctrl-D leaves."
        console.print(greeting, markup=False, highlight=False, soft_wrap=True)
    questions = _questions(asking) if question is None else [_readable(question)]
    for text in questions:
        plain = loaded.reply(text, new_tokens=new_tokens, bare=True)
        # The plain prompt is the base: the same answer twice would say nothing.
        same = loaded.strategy == "zero_shot"
        tuned = plain if same else loaded.reply(text, new_tokens=new_tokens)
        if as_json:
            print(
                json.dumps(
                    {
                        "question": text,
                        "base": plain.text,
                        "strategy": loaded.strategy,
                        "answer": tuned.text,
                        "answered_by": tuned.given_by,
                        **({"task": task} if tasks else {}),
                        "passages": list(tuned.passages),
                    },
                    ensure_ascii=False,
                )
            )
            continue
        # Side by side where both fit, else one below the other.
        width = (console.width - 2) // 2 if console.width >= 60 else console.width
        panels = [
            # Text, not str: brackets in an answer are no markup. Folded: words without spaces
            # (addresses, Chinese) would be cut.
            Panel(
                Text(visible(reply.text) or "(empty)", overflow="fold"),
                title=Text(title),
                width=width,
            )
            for title, reply in (("base", plain), (loaded.strategy, tuned))[: 1 if same else 2]
        ]
        console.print(Columns(panels))
        if by := _by(tuned.given_by, loaded.gate is not None, tasks, task):
            console.print(Text(visible(f"  answered by the {by}"), style="dim"))
        for passage in tuned.passages:
            short = passage if len(passage) <= 110 else f"{passage[:109]}…"
            console.print(Text(visible(f"  quoted: {short}"), style="dim"))


def _by(given_by: str, gated: bool, tasks: list[str], task: str | None) -> str:
    """Who answered, where it is not the same for every question."""
    if gated:
        return "adapter" if given_by == "adapter" else "base: outside the domain"
    if tasks and task is None:
        return f"{given_by} for no task; --task has {', '.join(tasks)}"
    return f"{given_by} for task {task}" if tasks else ""


def _questions(asking: bool):  # type: ignore[no-untyped-def]
    while True:
        try:
            line = input("? " if asking else "")
        except EOFError:
            return
        if line.strip():
            yield _readable(line.strip())


def _readable(text: str) -> str:
    """Bytes that are no UTF-8 reach Python as lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
