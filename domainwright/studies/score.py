"""A model or a finished run on one file, without a study."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.curate.read import read
from domainwright.evaluate.records import Item
from domainwright.evaluate.tasks import TASKS
from domainwright.models.base import load_base
from domainwright.prompting._sources import PromptSettings, ask
from domainwright.studies.api import Run, load_run
from domainwright.studies.data import TASK_OF, as_conversations
from domainwright.studies.judge import summarise


def score_file(
    model: str, data: Path, *, items: int, new_tokens: int, listen: Listener = quiet
) -> dict[str, Any]:
    """Scores of `model` (a base or a run folder) on the first `items` rows of a file."""
    rows, _ = as_conversations(read(data).rows)
    if not rows or type(rows[0]) not in TASK_OF:
        raise DataError(
            f"{data} holds no rows that can be scored.",
            "give conversations, multiple choice or plain text.",
        )
    rows = rows[:items]
    folder = Path(model)
    if (folder / "verdict.json").is_file() or (folder / "adapter").is_dir():
        run = load_run(folder)
    else:
        run = Run(load_base(model), None, None, PromptSettings(), "base")
    task = TASKS.get(TASK_OF[type(rows[0])])
    prompts = [
        run.prompter.prompt(r) if run.prompter else ask(r, run.settings)  # type: ignore[attr-defined]
        for r in rows
    ]
    by_adapter = [run.uses_adapter(row) for row in rows]
    marked: list[Item] = []
    for chosen in (True, False):  # a gate lets the adapter answer some rows, the base the others
        places = [n for n, passed in enumerate(by_adapter) if passed is chosen]
        if not places:
            continue
        with run.adapter.attached() if run.adapter and chosen else nullcontext():
            marked += task.run(
                run.base,
                [rows[n] for n in places],
                [prompts[n] for n in places],
                decide_by=task.scores[0],
                new_tokens=new_tokens,
                listen=listen,
                stage="evaluate",
            )
    found: dict[str, Any] = summarise(marked)
    interval = found.pop("score")
    return {
        "model": model,
        "strategy": run.strategy,
        "task": TASK_OF[type(rows[0])],
        "score": task.scores[0],
        "items": len(rows),
        "by_adapter": sum(by_adapter),
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        **found,
    }
