"""`dw evaluate`: score a model or a run on a file, or on tasks of lm-eval."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from domainwright.evaluate._lm_eval_results import Metric, TaskResult


def evaluate(
    model: Annotated[str, typer.Argument(help="A base (alias, hub id, folder) or a run folder.")],
    data: Annotated[Path | None, typer.Option(help="Rows of any kind that a study takes.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Instead: a task of lm-eval. Can be repeated.")
    ] = None,
    include: Annotated[
        Path | None, typer.Option(help="Folder with YAML tasks of your own; its code is run.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Examples a task shows. Default: as it says.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask tasks with the base's chat template.")
    ] = False,
    items: Annotated[
        int | None,
        typer.Option(
            "-n", "--items", "--limit", min=1, help="From the top; else 100 rows, whole tasks."
        ),
    ] = None,
    turns: Annotated[
        bool, typer.Option("--turns", help="Also conversations, turn by turn.")
    ] = False,
    new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a model or a run on a file or on tasks of lm-eval."""
    from domainwright.core.errors import ConfigError

    if (data is None) == (not task):
        raise ConfigError(
            "Either --data or --task says what to score on.", "give one: a file, or a task's name."
        )
    if task:
        if turns:
            raise ConfigError("--turns is for --data, and --task was given.", "drop it.")
        _on_tasks(model, task, include, shots, items, chat, as_json)
        return
    if include or shots is not None or chat:
        raise ConfigError(
            "--include, --shots and --chat are for tasks, and --data was given.", "drop them."
        )
    assert data is not None
    _on_file(model, data, items or 100, new_tokens, turns, as_json)


def _on_file(
    model: str, data: Path, items: int, new_tokens: int, turns: bool, as_json: bool
) -> None:
    from domainwright.cli._screen import progress
    from domainwright.studies.score import score_file

    with progress() as (listen, _):
        found = score_file(
            model, data, items=items, new_tokens=new_tokens, turns=turns, listen=listen
        )
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from domainwright.cli._screen import visible
    from domainwright.maths.bootstrap import Interval
    from domainwright.studies._format import measure, unit
    from domainwright.studies.entities import EntityScore, told

    score = unit(found["score"])
    span = score.levels(Interval(found["mean"], found["low"], found["high"]))
    print(f"{score.label} {span}, 95 % interval, on {found['items']} rows of {data}")
    for name, value in found["metrics"].items():
        if name == "answer_loss":
            print(f"  {measure(name)} {value:.4f}")
        elif name != found["score"]:
            print(f"  {measure(name)} {unit(name).level(value)}")
    print(f"  parsed {found['parsed']:.1%}")
    if found["entities"]:
        print(visible(f"  {told([EntityScore(**x) for x in found['entities']])}"))
    if "turns" in found:
        _show_turns(found["turns"], found["score"])


def _show_turns(turns: dict[str, Any], score: str) -> None:
    from domainwright.cli._screen import visible
    from domainwright.core.config import from_mapping
    from domainwright.studies import coherence
    from domainwright.studies._format import unit
    from domainwright.studies.task_records import Coherence

    found, levels = from_mapping(Coherence, turns, "turns"), unit(score).levels
    for one in found.turns:
        after = f"; after the file's {levels(one.file)}" if one.turn > 1 else ""
        print(
            f"  turn {one.turn}, {one.items} rows: {levels(one.own)} after its own replies{after}"
        )
    print(visible(f"  {coherence.told(found, score)}"))


def _on_tasks(
    model: str,
    tasks: list[str],
    include: Path | None,
    shots: int | None,
    limit: int | None,
    chat: bool,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from domainwright.cli._screen import progress, visible
    from domainwright.studies.lm_eval_tasks import evaluate_tasks

    with progress() as (listen, _):
        found = evaluate_tasks(
            model, tasks, include=include, shots=shots, limit=limit, chat=chat, listen=listen
        )
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    for result in found.results:
        print(visible(_heading(result)))
        width = max(len(m.name) for m in result.metrics)
        for metric in result.metrics:
            print(visible(f"  {metric.name:<{width}}  {_figure(metric)}"))
    for note in found.notes:
        print(visible(f"note: {note}"))


def _heading(result: "TaskResult") -> str:
    shown = "" if result.shots is None else f", {result.shots}-shot"
    return f"{result.name}{shown}" + (f", {len(result.items)} items" if result.items else "")


def _figure(metric: "Metric") -> str:
    error = "" if metric.error is None else f" ± {metric.error:.4f}"
    return f"{metric.value:.4f}{error}" + (
        "  lower is better" if metric.higher_is_better is False else ""
    )
