"""A model or a finished run on one file, without a study."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from domainwright.core.errors import DataError
from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Chat, Row
from domainwright.curate.dataset import read_dataset
from domainwright.curate.labelled import LabelSet, as_choices, label_set, label_set_of
from domainwright.curate.read import read
from domainwright.curate.tagged import as_extractions, kinds_of
from domainwright.evaluate.records import Item
from domainwright.evaluate.tasks import TASKS
from domainwright.evaluate.turns import Ask, in_turn, replied
from domainwright.models.forms import Prompt
from domainwright.prompting._sources import ask
from domainwright.studies._entities import kinds_of_run
from domainwright.studies._run import Run
from domainwright.studies.api import run_of
from domainwright.studies.coherence import coherence, conversations
from domainwright.studies.data import TASK_OF, as_conversations
from domainwright.studies.judge import summarise


def score_file(
    model: str,
    data: Path,
    *,
    items: int,
    new_tokens: int,
    turns: bool = False,
    listen: Listener = quiet,
) -> dict[str, Any]:
    """Scores of `model` (a base or a run folder) on the first `items` rows of a file.

    Args:
        turns: also ask conversations turn by turn, after the model's own replies.

    Raises:
        ConfigError: turns are asked for, and no row has several.
        DataError: the file holds no rows that can be scored.
    """
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
    talks = conversations(turns, rows, "--turns is given")
    prompts = [_prompt(run, r) for r in rows]

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
    answered = run.parted(by_adapter, marked)
    found: dict[str, Any] = summarise(answered)
    if talks:
        spoken = in_turn(talks, _asking(run, task.scores[0], new_tokens, listen))
        found["turns"] = asdict(coherence(run.strategy, talks, spoken, answered))
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


def _prompt(run: Run, row: Row) -> Prompt:
    found: Prompt = run.prompter.prompt(row) if run.prompter else ask(row, run.settings)  # type: ignore[attr-defined]
    return found


def _asking(run: Run, score: str, new_tokens: int, listen: Listener) -> Ask:
    """Asks one turn of conversations, each of whom the run lets answer it."""

    def ask(
        number: int, own: Sequence[Chat], file: Sequence[Chat]
    ) -> tuple[Sequence[Item], Sequence[Item]]:
        rows = [*own, *file]

        def answered(places: Sequence[int]) -> Sequence[Item]:
            return replied(
                run.base,
                [rows[n] for n in places],
                [_prompt(run, rows[n]) for n in places],
                decide_by=score,
                new_tokens=new_tokens,
                listen=listen,
                stage=f"turn {number}",
            )

        items = run.parted([run.uses_adapter(row) for row in rows], answered)
        return items[: len(own)], items[len(own) :]

    return ask


def _labels_of(run: Path) -> LabelSet | None:
    """The labels that a run was trained on: a file of a few rows may hold only some of them."""
    folder = run / "dataset"
    return label_set_of(read_dataset(folder).train) if folder.is_dir() else None
