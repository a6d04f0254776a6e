"""The stages of a sequence: each a run on one task, from the state in which the last one ended."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from domainwright.core.records import Row
from domainwright.studies._watched import general_rows, watched_rows
from domainwright.studies.ablation import Losses
from domainwright.studies.tune import Tuned, Wanted
from domainwright.train.loss import losses_of_rows
from domainwright.train.monitor import Monitor
from domainwright.train.passes import Packing

PASS = 2048
"""Tokens read at once."""


class Stages:
    """Trains the stages in `stage-N` beside the method's own run, and reads every task after each.

    Args:
        whole: the method's run on all tasks.
        order: the tasks.
        train: a run that is there already is read back.
    """

    def __init__(
        self, whole: Wanted, order: Sequence[str], train: Callable[[Wanted], Tuned]
    ) -> None:
        self.whole, self.order, self.train = whole, order, train
        base, settings = whole.base, whole.settings
        self.development = {
            task: [row for row in whole.development if whole.tasks.get(row.id) == task]
            for task in order
        }
        self.watched = [
            row
            for rows in self.development.values()
            if rows
            for row in watched_rows(base, rows, settings)
        ]
        self.general = Packing(base, general_rows(base, whole.general, settings))

    def __call__(self, rows: Sequence[Row], number: int, steps: int) -> tuple[Losses, float]:
        """As `sequence.Stage`."""
        monitor = Monitor(self.general)  # reads the base alone
        tuned = self.train(self._wanted(rows, number, steps)) if number else None
        with tuned.adapter.attached() if tuned else nullcontext():
            losses = losses_of_rows(self.whole.base, self.watched, PASS)
            away = monitor.read(PASS)["general_kl"]
        read = zip(self.watched, losses, strict=True)
        return [(row.id, loss, row.targets) for row, loss in read], away

    def _wanted(self, rows: Sequence[Row], number: int, steps: int) -> Wanted:
        folder = self.whole.folder
        return replace(
            self.whole,
            rows=rows,
            development=self.development[self.order[number - 1]],
            settings=replace(self.whole.settings, steps=None, tasks=None),
            steps=steps,
            folder=folder / f"stage-{number}",
            planned=None,
            start=None,
            shares=None,
            begin=folder / f"stage-{number - 1}" / "adapter" if number > 1 else None,
        )
