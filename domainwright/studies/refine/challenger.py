"""A challenger: trained from the champion's state on, then measured beside it.

The learning rate is constant at the champion's for a short part and falls as 1 - sqrt for the rest:
a decay branch of a run with the schedule "wsd".

Source: Hägele et al. 2024 (arXiv:2405.18392); methods.md §4.6.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from domainwright.core.artifacts import read_manifest
from domainwright.core.records import Row
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import change
from domainwright.models.tuned_encoder import load_tuned
from domainwright.studies._asked import as_asked, prompters_of
from domainwright.studies._gate import GATE, Gate, widened
from domainwright.studies._retriever import RETRIEVER
from domainwright.studies.refine import acceptance
from domainwright.studies.refine.halves import Halves
from domainwright.studies.refine.records import Decision
from domainwright.studies.refine.source import Source
from domainwright.studies.tune import Tuned, Wanted, tune

DECAY = 0.8
"""Share of the steps in which the learning rate falls."""


@dataclass(frozen=True)
class Ring:
    """Where champion and challenger meet: one round's folder, one run's rows."""

    source: Source
    folder: Path
    halves: Halves

    def train(
        self,
        rows: Sequence[Row],
        steps: int,
        seed: int,
        *,
        resume: bool,
        stop: Callable[[], bool],
    ) -> Tuned:
        """The challenger, from the champion's state on.

        Raises:
            RunFailed: it fails its own checks.
        """
        source = self.source
        study, base = source.study, source.run.base
        # The rows of a round are new; what it searches with is the study's.
        prompters = prompters_of(
            study,
            base,
            source.data,
            source.folder,
            source.listen,
            encoder=lambda: load_tuned(source.folder / RETRIEVER),
        )
        split = replace(source.data.split, train=tuple(rows), dev=tuple(self.halves.looked_at))
        data = replace(source.data, split=split)
        lessons = as_asked(study, data, base, prompters, source.names).lessons
        settings = replace(
            study.train,
            steps=steps,
            schedule="wsd",
            decay_share=DECAY,
            learning_rate=source.rate,
        )
        method = source.method
        wanted = Wanted(
            base=base,
            method=method,
            rows=lessons.train,
            development=lessons.dev,
            general=source.suite.texts,
            settings=settings,
            method_settings=study.methods.get(method, {}),
            steps=None,
            seed=seed,
            folder=self.folder / "trial",
            parents={
                "dataset": source.data.hash,
                "base": base.sha256,
                "proposed": read_manifest(self.folder / "data", "dataset")["hash"],
            },
            memory_gb=study.budget.memory_gb,
            lessons=source.folder / "lessons",
            begin=source.adapter,
            tasks=source.data.tasks,
            shares=source.data.shares,
            alike=source.data.alike,
            hidden=source.data.split.test,
        )
        return tune(wanted, resume=resume, listen=source.listen, stop=stop)

    def gate(self, rows: Sequence[Row]) -> Gate | None:
        """The challenger's gate: the champion's, with new rows among these added to it.

        Without new rows it stays: a gate is made of questions, whatever adapter is behind it. Its
        threshold is fitted on the half that is looked at; the other half has to judge.
        """
        gate, split = self.source.run.gate, self.source.data.split
        known = {row.id for row in split.train}
        learned = {r.id: r for r in rows if r.id not in known and r.provenance is None}
        if gate is None or not learned:
            return gate
        new, looked = [*learned.values()], self.halves.looked_at
        return widened(gate, new, looked, self.folder / GATE, self.source.listen)

    def judge(
        self,
        tuned: Tuned,
        rows: Sequence[Row],
        champion: Sequence[Item],
        rules: acceptance.Rules,
    ) -> Decision:
        """Champion against challenger on the held-out rows, on the retention suite and its tasks.

        Args:
            rows: those that the challenger was trained on.
            champion: its items of the held-out rows.
        """
        source, folder = self.source, self.folder
        held = self.halves.held_out
        place = folder / "challenger" / "scorecard"
        gate, wider = source.run.gate, self.gate(rows)
        challenger = source.ask(held, tuned.adapter, tuned.hash, place, "challenger", wider)
        top = source.folder
        kept = [top / "trials" / "base", top / "refine" / "base"]
        base = source.retained(None, "", kept, "base")
        adapter, digest = source.run.adapter, source.adapter_hash
        kept = [(top / source.own).parent, folder / "champion"]
        old = source.retained(adapter, digest, kept, "champion")
        old = source.mixed(gate, old, base, folder / "champion", "champion")
        kept = [folder / "challenger"]
        new = source.retained(tuned.adapter, tuned.hash, kept, "challenger")
        new = source.mixed(wider, new, base, folder / "challenger", "challenger")
        part_of = {row.id: row.topic or source.data.tasks.get(row.id) for row in held}
        return acceptance.decide(
            champion, challenger, part_of, change(base, new), change(old, new), rules
        )
