"""METHOD+tasks: an adapter for every task of the files, and each row answered by its own task's.

    trials/lora/tasks/refunds/adapter/     trained on the rows of "refunds" alone

Each begins from the method's adapter of all tasks, or with `apart: {begin: base}` from nothing, and
takes the share of the steps that its task has of the rows, so that all together take as many as
that one. What is of no task of the training rows is answered by the adapter of all tasks, with
`begin: base` by the untouched base. Forgetting is that of the adapter that forgets most.

Those of `multitask_prompt` begin from a run of their own, in which every task is learned apart
beside the others (`side-by-side`); an adapter of all tasks is made where the study names it.

Training one task moves no other task's adapter. Source: methods.md §5.2.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import compress

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import DataError
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, change
from domainwright.studies import _format as f
from domainwright.studies._choice import kind, of_all_tasks, parts
from domainwright.studies._exam import Exam
from domainwright.studies._names import is_tasked, untasked
from domainwright.studies._scorecards import write_items
from domainwright.studies._training import Trainer, folder_of
from domainwright.studies.apart import TaskGain
from domainwright.studies.by_task import FEWEST_ITEMS
from domainwright.studies.confusion import answered
from domainwright.studies.judge import lead, pooled, retention_record, summarise
from domainwright.studies.records import Retention, StrategyResult, Training
from domainwright.studies.tune import Tuned


def asked_by_task(name: str, number: int, exam: Exam, trainer: Trainer) -> list[Item]:
    """The test items, each as its task's adapter answers it, in the order of the rows.

    Raises:
        RunFailed, CapabilityError: a training failed.
    """
    method, prompting = parts(name)
    assert method is not None
    known = trainer.tasks()
    where = f"seed-{number}/scorecard" if number else "scorecard"
    of_row = {row.id: trainer.data.tasks.get(row.id, "") for row in exam.rows}
    found, cards = dict[str, Item](), dict[str, str]()
    for task in (*known, None):
        rows = [r for r in exam.rows if (of_row[r.id] if of_row[r.id] in known else None) == task]
        if not rows:
            continue
        tuned = adapter_of(trainer, method, task, number)
        part = f"{where}-{folder_of(task)}" if task is not None else f"{where}-of-no-task"
        with tuned.adapter.attached() if tuned else nullcontext():
            items = exam.ask(name, prompting, tuned.hash if tuned else "", part, rows)
        found |= {x.id: x for x in items}
        cards[part] = read_manifest(exam.folder / "trials" / name / part, verify=False)["hash"]
    items = [found[row.id] for row in exam.rows]
    write_items(exam.folder / "trials" / name / where, "scorecard", {"items.jsonl": items}, cards)
    return items


def adapter_of(trainer: Trainer, method: str, task: str | None, number: int) -> Tuned | None:
    """The task's adapter; of no task the one of all tasks, or None for the base."""
    if task is not None:
        return trainer.of_task(method, task, number)
    if not _has_all(method, trainer):
        return None
    found = trainer.further(method, number) if number else trainer.tune(method)
    if isinstance(found, Exception):
        raise found
    return found


def _has_all(method: str, trainer: Trainer) -> bool:
    study = trainer.study
    return method in of_all_tasks(study.strategies, study.apart.begin)


def check_tasks(names: Sequence[str], tasks: Sequence[str]) -> None:
    """Refuse adapters by task where there is one task.

    Raises:
        DataError: naming the strategy.
    """
    wanted = [name for name in names if is_tasked(name)]
    if wanted and len(tasks) < 2:
        raise DataError(
            f"{wanted[0]} trains an adapter for every task, and the training rows are of one task, "
            f"{tasks[0] or 'unnamed'}.",
            f"give each task a file of its own with `task:`, or take {untasked(wanted[0])}.",
        )


@dataclass
class TaskTrials:
    """The strategies of one study that have an adapter for every task."""

    exam: Exam
    trainer: Trainer
    before: Retained
    """The untouched base on the retention suite."""

    def trial(self, name: str, runs: Sequence[Sequence[Item]]) -> StrategyResult:
        """One such strategy, measured.

        Args:
            runs: its answers with every seed.
        """
        method, prompting = parts(name)
        assert method is not None
        exam, trainer, known = self.exam, self.trainer, self.trainer.tasks()
        tuned = {task: trainer.of_task(method, task) for task in known}
        kept = {
            task: self._retention(f"{method}/tasks/{folder_of(task)}", one)
            for task, one in tuned.items()
        }
        worst = max(kept.values(), key=lambda one: one.nats_change.mean)
        # Of each task of lm-eval what its worst adapter keeps: any of them may be over its limit.
        same = zip(*(one.tasks for one in kept.values()), strict=True)
        worst = replace(worst, tasks=[max(own, key=lambda task: task.lost) for own in same])
        items = exam.items[name] = pooled(runs)
        twin = exam.items.get(untasked(name))
        return StrategyResult(
            name=name,
            kind=kind(name),
            status="done",
            retention=worst,
            training=together([one.training for one in tuned.values()]),
            adapter=f"trials/{method}/adapter" if _has_all(method, trainer) else None,
            adapters={t: f"trials/{method}/tasks/{folder_of(t)}/adapter" for t in known},
            apart=gains(items, twin, trainer.data.tasks, known) if twin else [],
            note=exam.prompters.note(prompting),
            prepare_seconds=exam.prompters.prepare_seconds(prompting),
            answered=answered(items),
            **summarise(items),
        )

    def _retention(self, place: str, tuned: Tuned) -> Retention:
        now = self.exam.retained(place, tuned.adapter.attached(), tuned.hash)
        return retention_record(now, change(self.before, now))


def together(trainings: Sequence[Training]) -> Training:
    """The trainings of all tasks as one: times, steps, tokens and parameters added up."""
    first = trainings[0]
    minutes, tokens = sum(x.minutes for x in trainings), sum(x.tokens for x in trainings)
    return replace(
        first,
        minutes=minutes,
        steps=sum(x.steps for x in trainings),
        best_step=sum(x.best_step for x in trainings),
        tokens=tokens,
        tokens_per_s=tokens / (60 * minutes) if minutes else first.tokens_per_s,
        peak_rss_mib=max(x.peak_rss_mib for x in trainings),
        trainable=sum(x.trainable for x in trainings),
        planned=None,
        history=[],
    )


def gains(
    items: Sequence[Item], shared: Sequence[Item], task_of: Mapping[str, str], tasks: Sequence[str]
) -> list[TaskGain]:
    """By how much each task's own adapter is better than the one of all tasks, item by item.

    A task with fewer than `by_task.FEWEST_ITEMS` test items is left out.
    """
    found = []
    for task in tasks:
        here = [task_of.get(x.id, "") == task for x in items]
        if sum(here) >= FEWEST_ITEMS:
            gain = lead(list(compress(items, here)), list(compress(shared, here)))
            found.append(TaskGain(task=task, items=sum(here), gain=gain))
    return found


def told(results: Sequence[StrategyResult], score: str) -> list[str]:
    """What adapters of their own brought, in a sentence for each strategy."""
    said = []
    for r in results:
        if not r.adapters:
            continue
        each = "; ".join(f"{x.task} {f.unit(score).changes(x.gain)}" for x in r.apart)
        against = f" Against the adapter of all tasks, task by task: {each}." if each else ""
        said.append(
            f"{r.name} has an adapter for each of {len(r.adapters)} tasks.{against} Its forgetting "
            "is that of the one that forgets most."
        )
    return said
