"""Who asks a study's rows: one exam with one trainer, or one of each for every fold.

    folds/2/dataset/                the rows as fold 2 sees them: its own are asked, others train
    folds/2/trials/lora/adapter/    trained on the others
    folds/2/trials/lora/scorecard/  its own rows, answered
    trials/lora/scorecard/          all rows, each as its fold answered it

Nothing of a fold's own rows reaches what answers them: examples, indices, instructions, selected
and made rows, adapters all come from the other folds. Steps and rate are the plan's; a run watches
the rows it is trained on, so none of its states is chosen by other rows. `trials/lora/adapter` is
trained on all rows with the same settings, and is the one that is shipped; what it forgets is
measured on itself, its score is that of the folds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError, RunFailed
from domainwright.core.progress import Listener, quiet
from domainwright.curate.split import folds, independent, undivided
from domainwright.evaluate.records import Item
from domainwright.models.base import Base
from domainwright.models.encoder import Encoder
from domainwright.prompting import PROMPTINGS
from domainwright.studies._asked import TUNED, Prompters, as_asked, prompters_of
from domainwright.studies._base import base_of
from domainwright.studies._choice import parts
from domainwright.studies._exam import Exam
from domainwright.studies._few import folds_for
from domainwright.studies._names import is_tasked
from domainwright.studies._scorecards import write_items
from domainwright.studies._tasked import asked_by_task
from domainwright.studies._training import Trainer
from domainwright.studies.data import StudyData, find, laid_out, prepare
from domainwright.studies.study import StudySettings

FOLDS = "folds"
"""Folder within the study's."""


def prepared(
    study: StudySettings,
    folder: Path,
    *,
    base: Callable[[], Base] | None = None,
    listen: Listener = quiet,
) -> StudyData:
    """As `data.prepare`, in folds where the study asks for them or its rows are few.

    Raises:
        DataError: as `data.prepare`; fewer groups than folds.
    """
    found = find(study, listen)
    rows, dev = found.parts["train"], found.parts["development"]
    count = folds_for(study, len(rows), lambda: independent(rows))
    load = base or cache(lambda: base_of(study))
    if not count:
        return prepare(study, folder, base=load, listen=listen, found=found)
    divided = [replace(one, dev=tuple(dev)) for one in folds(rows, count, seed=study.seed)]
    places = [folder / FOLDS / str(number) for number in range(1, count + 1)]
    each = [
        laid_out(study, found, one, place, base=load, listen=listen)
        for one, place in zip(divided, places, strict=True)
    ]
    whole = laid_out(study, found, undivided(rows, dev), folder, base=load, listen=listen)
    leaks = {kind for one in each for kind in one.leaks}
    return replace(
        whole,
        crossfit=True,
        folds=tuple(replace(one, crossfit=True) for one in each),
        leaks={kind: sum(one.leaks.get(kind, 0) for one in each) for kind in sorted(leaks)},
        documents_overlap=sum(one.documents_overlap for one in each),
    )


def with_prompters(
    study: StudySettings,
    data: StudyData,
    base: Base,
    folder: Path,
    names: Sequence[str],
    listen: Listener = quiet,
    *,
    encoder: Callable[[], Encoder] | None = None,
) -> tuple[StudyData, Prompters, list[Prompters]]:
    """(the data as the strategies called `names` ask, the prompting strategies of the whole and of
    every fold).

    Args:
        encoder: as of `prompters_of`.
    """
    vectors = folder / "vectors"  # of texts, whatever fold they are in
    own = prompters_of(study, base, data, folder, listen, encoder=encoder)
    each, of_folds = [], []
    for number, fold in enumerate(data.folds, 1):
        place = folder / FOLDS / str(number)
        made = prompters_of(study, base, fold, place, listen, encoder=encoder, vectors=vectors)
        each.append(as_asked(study, fold, base, made, names))
        of_folds.append(made)
    data = replace(data, folds=tuple(each))
    return as_asked(study, data, base, own, names), own, of_folds


def learns(name: str) -> bool:
    """Whether a strategy takes anything from the rows that are not asked.

    >>> learns("zero_shot"), learns("few_shot"), learns("instructed")
    (False, True, True)
    """
    method, prompting = parts(name)
    shown = "examples" in PROMPTINGS.get(prompting).needs
    return method is not None or shown or prompting in ("instructed", TUNED)


@dataclass
class Sitting:
    """Test items and what trains for them."""

    exam: Exam
    trainer: Trainer

    def asked(self, name: str, number: int) -> list[Item]:
        """The answers of a strategy, its method trained with the study's seed of that number.

        Raises:
            RunFailed, CapabilityError: a training failed.
            ConfigError: prompts do not fit the base's context.
        """
        method, prompting = parts(name)
        part = f"seed-{number}/scorecard" if number else "scorecard"
        if method is None:
            return self.exam.ask(name, prompting, "", part)
        if is_tasked(name):
            return asked_by_task(name, number, self.exam, self.trainer)
        trainer = self.trainer
        tuned = trainer.further(method, number) if number else trainer.tune(method)
        if isinstance(tuned, Exception):
            raise tuned
        with tuned.adapter.attached():
            return self.exam.ask(name, prompting, tuned.hash, part)

    def ahead(self, methods: Sequence[str]) -> None:
        """Have all trainings of these methods made, where there is someone to do it."""
        self.trainer.ahead(methods)


@dataclass
class CrossFit(Sitting):
    """The same in folds. Its own exam has all rows, its own trainer the models that are shipped."""

    folds: Sequence[Sitting]

    def asked(self, name: str, number: int) -> list[Item]:
        """Every row's answer by what did not learn from it, in the order of the rows.

        Raises:
            As `Sitting.asked`; the cause tells the fold.
        """
        self.exam.prompters.get(parts(name)[1])  # what is shipped draws on all rows
        part = f"seed-{number}/scorecard" if number else "scorecard"
        found, cards, count = dict[str, Item](), dict[str, str](), len(self.folds)
        for place, fold in enumerate(self.folds, 1):
            where = f"{place}/{count}"
            if not fold.exam.rows:
                continue
            try:
                items = fold.asked(name, number)
            except (RunFailed, CapabilityError) as error:
                raise type(error)(f"Fold {where}: {error.cause}", error.fix) from error
            finally:
                # One adapter of a method in memory, as without folds.
                fold.trainer.release()
            found |= {x.id: replace(x, fold=where if learns(name) else "") for x in items}
            card = fold.exam.folder / "trials" / name / part
            cards[f"fold {where}"] = read_manifest(card, verify=False)["hash"]
        items = [found[row.id] for row in self.exam.rows]
        folder = self.exam.folder / "trials" / name / part
        write_items(folder, "scorecard", {"items.jsonl": items}, cards)
        return items

    def ahead(self, methods: Sequence[str]) -> None:
        """Have all trainings of these methods made, where there is someone to do it."""
        for fold in self.folds:
            fold.ahead(methods)
        self.trainer.ahead(methods, seeded=False)


def sitting_of(exam: Exam, trainer: Trainer, of_folds: Sequence[Prompters]) -> Sitting:
    """The exam and the trainer of a study, in folds where its data have some."""
    data = exam.data
    if not data.folds:
        return Sitting(exam, trainer)
    each = []
    for number, (fold, prompters) in enumerate(zip(data.folds, of_folds, strict=True), 1):
        place, own = exam.folder / FOLDS / str(number), {row.id for row in fold.split.test}
        trainer_there = Trainer(
            study=trainer.study,
            base=trainer.base,
            data=fold,
            plan=trainer.plan,
            general=trainer.general,
            folder=place,
            resume=True,  # what is released and asked for once more is read back
            listen=trainer.listen,
            stop=trainer.stop,
            workers=trainer.workers,
            lessons=exam.folder,
        )
        rows = [row for row in exam.rows if row.id in own]
        there = replace(exam, data=fold, rows=rows, prompters=prompters, folder=place, items={})
        each.append(Sitting(there, trainer_there))
    return CrossFit(exam, trainer, each)
