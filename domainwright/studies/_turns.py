"""Every strategy of a study over the turns of conversations; see `coherence`.

    trials/lora/turns/2/own.jsonl     second turns after its own replies
    trials/lora/turns/2/file.jsonl    the same after the file's, where the conversation goes on

A turn is asked as the last one is: with the examples and passages that the strategy finds for it,
by the adapter of the row's task, past the gate, out of fold. Each turn of all conversations is one
artifact, so that an interrupted study goes on with the next.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import CapabilityError, ConfigError, DataError, RunFailed
from domainwright.core.records import Chat, Row
from domainwright.evaluate.records import Item
from domainwright.evaluate.turns import Turn, in_turn, replied
from domainwright.studies._choice import parts
from domainwright.studies._crossfit import CrossFit, Sitting
from domainwright.studies._exam import Exam
from domainwright.studies._gate import Gate, input_of
from domainwright.studies._names import is_gated, is_tasked
from domainwright.studies._scorecards import read_items, write_items
from domainwright.studies._tasked import adapter_of
from domainwright.studies.coherence import coherence, conversations
from domainwright.studies.records import StrategyResult
from domainwright.studies.task_records import Coherence
from domainwright.studies.tune import Tuned

TURNS = "turns"
"""Folder within a strategy's, and kind of the artifacts in it."""


@dataclass
class OverTurns:
    """The conversations of one study, asked turn by turn."""

    sitting: Sitting
    gate: Callable[[], Gate]
    found: list[Coherence] = field(default_factory=list)

    def __post_init__(self) -> None:
        exam = self.sitting.exam
        self.rows = conversations(exam.study.evaluate.turns, exam.rows)

    def measure(self, result: StrategyResult) -> None:
        """One strategy, or why it could not be asked: that does not cost it its verdict."""
        if not self.rows or result.status != "done":
            return
        name, exam = result.name, self.sitting.exam
        try:
            turns = self._turns(name)
        except (ConfigError, DataError, RunFailed, CapabilityError) as error:
            count, why = len(self.rows), error.cause
            self.found.append(Coherence(strategy=name, conversations=count, failed=why))
        else:
            self.found.append(coherence(name, self.rows, turns, exam.items[name]))

    def _turns(self, name: str) -> list[Turn]:
        sitting = self.sitting
        if not isinstance(sitting, CrossFit):
            return in_turn(self.rows, self._asking(sitting, name, self.rows))
        found = []
        for fold in sitting.folds:
            here = {row.id for row in fold.exam.rows}
            rows = [row for row in self.rows if row.id in here]
            try:
                found.append(in_turn(rows, self._asking(fold, name, rows)))
            finally:
                fold.trainer.release()  # one adapter of a method in memory, as without folds
        return together(found)

    def _asking(
        self, sitting: Sitting, name: str, rows: Sequence[Chat]
    ) -> Callable[[int, Sequence[Chat], Sequence[Chat]], tuple[list[Item], list[Item]]]:
        """Asks one turn of a strategy, or reads it back."""
        exam, (_, prompting) = sitting.exam, parts(name)
        voices = self._voices(sitting, name, rows)
        before = ""

        def ask(
            number: int, own: Sequence[Chat], file: Sequence[Chat]
        ) -> tuple[list[Item], list[Item]]:
            nonlocal before
            folder = exam.folder / "trials" / name / TURNS / str(number)
            parents = {**exam.parents(name, prompting, "", own), **voices.parents}
            if before:
                parents["turn before"] = before
            mine = read_items(folder, parents, "own.jsonl") if exam.resume else None
            if mine is not None:
                theirs = read_items(folder, parents, "file.jsonl") or []
            else:
                items = voices.asked(exam, prompting, [*own, *file], f"turn {number}")
                mine, theirs = items[: len(own)], items[len(own) :]
                files = {"own.jsonl": mine, "file.jsonl": theirs}
                write_items(folder, TURNS, files, parents)
            before = read_manifest(folder, TURNS, verify=False)["hash"]
            return mine, theirs

        return ask

    def _voices(self, sitting: Sitting, name: str, rows: Sequence[Chat]) -> "Voices":
        trainer, (method, _) = sitting.trainer, parts(name)
        if method is None:
            return Voices({None: None}, lambda row: None)
        if is_tasked(name):
            known, task_of = trainer.tasks(), trainer.data.tasks

            def task(row: Row) -> str | None:
                own = task_of.get(row.id, "")
                return own if own in known else None

            asked = dict.fromkeys(task(row) for row in rows)
            return Voices({one: adapter_of(trainer, method, one, 0) for one in asked}, task)
        tuned = trainer.tune(method)
        if isinstance(tuned, Exception):
            raise tuned
        if is_gated(name):
            gate = self.gate()
            voices: dict[Hashable, Tuned | None] = {True: tuned, False: None}
            return Voices(voices, lambda row: gate.passes(input_of(row)), {"gate": gate.hash})
        return Voices({None: tuned}, lambda row: None)


@dataclass(frozen=True)
class Voices:
    """Who may answer, and who answers which row."""

    each: Mapping[Hashable, Tuned | None]
    """None: the untouched base."""
    who: Callable[[Row], Hashable]
    made_by: Mapping[str, str] = field(default_factory=dict)
    """Artifacts that decide who answers, by content hash."""

    @property
    def parents(self) -> dict[str, str]:
        """Everything that the replies come from beside the rows and the prompts, by hash."""
        made = {str(key): tuned.hash for key, tuned in self.each.items() if tuned}
        return {**{f"adapter {key}": digest for key, digest in made.items()}, **self.made_by}

    def asked(self, exam: Exam, prompting: str, rows: Sequence[Chat], stage: str) -> list[Item]:
        """The rows, each answered by whom it belongs to and marked, in their order."""
        prompt = exam.prompters.get(prompting).prompt
        found = dict[int, Item]()
        whose = [self.who(row) for row in rows]
        for key, tuned in self.each.items():
            here = [n for n, one in enumerate(whose) if one == key]
            if not here:
                continue
            with tuned.adapter.attached() if tuned else nullcontext():
                items = replied(
                    exam.base,
                    [rows[n] for n in here],
                    [prompt(rows[n]) for n in here],
                    decide_by=exam.score,
                    new_tokens=exam.new_tokens,
                    listen=exam.listen,
                    stage=stage,
                )
            found.update(zip(here, items, strict=True))
        return [found[n] for n in range(len(rows))]


def together(folds: Sequence[Sequence[Turn]]) -> list[Turn]:
    """The turns of several folds' conversations as those of all."""
    found = []
    for number in range(max(map(len, folds), default=0)):
        here = [turns[number] for turns in folds if len(turns) > number]
        own, file = (tuple(x for turn in here for x in getattr(turn, w)) for w in ("own", "file"))
        found.append(Turn(number + 1, own, file))
    return found
