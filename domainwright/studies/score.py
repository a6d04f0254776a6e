"""A model or a finished run on one file, without a study."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.curate.dataset import read_dataset
from domainwright.curate.labelled import LabelSet, as_choices, label_set, label_set_of
from domainwright.curate.read import read
from domainwright.curate.tagged import as_extractions, kinds_of
from domainwright.evaluate.records import Item
from domainwright.evaluate.tasks import TASKS
from domainwright.prompting._sources import ask
from domainwright.studies._entities import kinds_of_run
from domainwright.studies.api import run_of
from domainwright.studies.data import TASK_OF, as_conversations
from domainwright.studies.judge import summarise


def score_file(
    model: str, data: Path, *, items: int, new_tokens: int, listen: Listener = quiet
) -> dict[str, Any]:
    """Scores of `model` (a base or a run folder) on the first `items` rows of a file."""
    given = read(data).rows
    labels = _labels_of(Path(model)) or label_set(given)
    kinds = kinds_of_run(Path(model)) or kinds_of(given)
    rows, _ = as_conversations(as_extractions(as_choices(given, labels), kinds))
    if not rows or type(rows[0]) not in TASK_OF:
        raise DataError(
            f"{data} holds no rows that can be scored.",
            "give conversations, multiple choice, labelled texts, tagged sentences or plain text.",
        )
    rows = rows[:items]
    run = run_of(model)
    if data.stem in run.adapters:
        run = run.for_task(data.stem)
    task = TASKS.get(TASK_OF[type(rows[0])])
    prompts = [
        run.prompter.prompt(r) if run.prompter else ask(r, run.settings)  # type: ignore[attr-defined]
        for r in rows
    ]

    def marked(places: Sequence[int]) -> Sequence[Item]:
        return task.run(
            run.base,
            [rows[n] for n in places],
            [prompts[n] for n in places],
            decide_by=task.scores[0],
            new_tokens=new_tokens,
            listen=listen,
            stage="evaluate",
        )

    by_adapter = [run.uses_adapter(row) for row in rows]
    found: dict[str, Any] = summarise(run.parted(by_adapter, marked))
    found["entities"] = [asdict(x) for x in found["entities"]]
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


def _labels_of(run: Path) -> LabelSet | None:
    """The labels that a run was trained on: a file of a few rows may hold only some of them."""
    folder = run / "dataset"
    return label_set_of(read_dataset(folder).train) if folder.is_dir() else None
