"""decide: every strategy on the same locked test items, and what to do about it."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from domainwright.core import machine
from domainwright.core.artifacts import write_json
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import CapabilityError, ConfigError, RunFailed
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, Step, quiet
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, change
from domainwright.maths.crossfit import shared_rows
from domainwright.maths.significance import detectable
from domainwright.models.base import Base
from domainwright.studies import _tasked, coherence, sequence, transfer
from domainwright.studies._asked import TUNED
from domainwright.studies._base import base_of
from domainwright.studies._choice import (
    STAND_IN,
    failed,
    kind,
    of_all_tasks,
    parts,
    score_name,
    strategies,
)
from domainwright.studies._crossfit import prepared, sitting_of, with_prompters
from domainwright.studies._exam import Exam, suite_of
from domainwright.studies._explain import would_change
from domainwright.studies._facts import not_itself
from domainwright.studies._folder import OF_STUDY, STUDY_FILE, claim, open_study
from domainwright.studies._gate import GATE, gate_of
from domainwright.studies._gated import GatedTrials, told
from domainwright.studies._live import Live
from domainwright.studies._names import is_gated, is_tasked
from domainwright.studies._on_ray import RayWorkers, workers_of
from domainwright.studies._repeats import trainings
from domainwright.studies._retention_tasks import retention_tasks
from domainwright.studies._retriever import RETRIEVER
from domainwright.studies._training import Trainer
from domainwright.studies._turns import OverTurns
from domainwright.studies._written import write_study
from domainwright.studies.by_task import by_task
from domainwright.studies.confusion import answered, check_labels
from domainwright.studies.constant import constant
from domainwright.studies.costs import costs
from domainwright.studies.data import StudyData
from domainwright.studies.inflation import inflation
from domainwright.studies.judge import (
    REFERENCE,
    compare,
    measured_detectable,
    pooled,
    recommend,
    retention_record,
    summarise,
)
from domainwright.studies.plan import Plan, make_plan
from domainwright.studies.records import (
    Data,
    StrategyResult,
    Training,
    Verdict,
)
from domainwright.studies.study import StudySettings, write_resolved
from domainwright.studies.tune import Tuned
from domainwright.train.epochs import full_steps
from domainwright.train.preflight import check_detectable


def decide(
    study: StudySettings,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    on: str = "here",
    workers: int | None = None,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Run the study into `folder` and return its verdict.

    Finished parts of an interrupted study are read back, not measured again.

    Args:
        on: "here", or "ray": Ray's workers train, several at once; the verdict is the same.
        workers: of Ray; None: as many as its machines hold.

    Raises:
        ConfigError: `folder` holds another or a finished study, or what is not ours.
        DataError, CapabilityError, RunFailed: see each step.
    """
    place = workers_of(study, on, workers)
    claim(folder, OF_STUDY)
    with lock(folder), place as staff:
        open_study(study, folder, resume=resume, fresh=fresh)
        write_resolved(study, folder / STUDY_FILE)
        return _Study(study, folder, resume, Live(listen), stop, staff).run()


@dataclass
class _Study:
    """One run of `decide`; the parts in the order in which they happen."""

    study: StudySettings
    folder: Path
    resume: bool
    listen: Live
    stop: Callable[[], bool]
    workers: RayWorkers | None

    def run(self) -> Verdict:
        self.begun = time.perf_counter()
        study = self.study
        self.listen(Step("read data", 0, 1))
        load = cache(lambda: base_of(study))
        self.data: StudyData = prepared(study, self.folder, base=load, listen=self.listen)
        self.listen(Step("load base", 0, 1))
        self.base: Base = load()
        self.task = self.data.exam
        # lm-eval offers its metrics in its own order, however long the answers are.
        lengths = () if self.data.of_lm_eval else self.data.split.train
        self.score = score_name(study.evaluate.score, self.data, self.task.scores, lengths)
        names, skipped = strategies(
            study.strategies,
            self.data,
            minutes=study.budget.minutes,
            head=study.train.head,
        )
        self.suite = suite_of(study)
        self.general = retention_tasks(study, self.base, self.listen)
        self.data, self.prompters, of_folds = with_prompters(
            study, self.data, self.base, self.folder, names, self.listen
        )
        self.listen(Step("probe", 0, 1))
        self.plan = self._plan(names)
        self.exam = self._exam()
        rows, folds = self.exam.rows, len(self.data.folds)
        check_labels(study.prices, rows)
        expected = detectable(self.exam.telling) * (shared_rows(folds) ** 0.5 if folds else 1.0)
        check_detectable(len(rows), expected, study.evaluate.difference)
        self.trainer = self._trainer()
        _tasked.check_tasks(names, self.trainer.tasks())
        if study.evaluate.sequence:
            sequence.checked(study.evaluate.sequence, self.trainer.tasks())
        self.sitting = sitting_of(self.exam, self.trainer, of_folds)
        self.listen.plan(self.plan, names, trainings(self.plan.seeds, folds), self.score)
        before = self.exam.retained("base", nullcontext())
        gate = gate_of(study, self.data, self.folder, self.listen)
        self.gated = GatedTrials(self.exam, self.trainer, before, gate)
        self.turns = OverTurns(self.sitting, gate)
        if self.workers and not self.plan.candidates:
            self.sitting.ahead(of_all_tasks(names, study.apart.begin))
            self.listen.made_ahead()
        results: list[StrategyResult] = []
        for name in names:
            self.listen.start(len(results))
            if self.plan.candidates and parts(name)[0]:
                name = name.replace(STAND_IN, self.trainer.winner())
            self.listen.start(len(results), name)
            results.append(self._measured(name, before))
            self.listen.finish(results[-1], self.score)
        if study.strategies == ("auto",) and not folds:
            for name in self.gated.further(results, study.max_forgetting):
                self.listen.add(name)
                self.listen.start(len(results), name)
                results.append(self._measured(name, before))
                self.listen.finish(results[-1], self.score)
        return self._verdict([*results, *skipped], before, expected)

    def _exam(self) -> Exam:
        study = self.study
        return Exam(
            study=study,
            base=self.base,
            data=self.data,
            task=self.task,
            rows=self.data.test_items(self.plan.items, study.seed),
            score=self.score,
            new_tokens=self.plan.new_tokens,
            prompters=self.prompters,
            suite=self.suite,
            general=self.general,
            folder=self.folder,
            resume=self.resume,
            listen=self.listen,
        )

    def _trainer(self) -> Trainer:
        return Trainer(
            study=self.study,
            base=self.base,
            data=self.data,
            plan=self.plan,
            general=self.suite.texts,
            folder=self.folder,
            resume=self.resume,
            listen=self.listen,
            stop=self.stop,
            workers=self.workers,
        )

    def _plan(self, names: Sequence[str]) -> Plan:
        """The plan of an interrupted run is kept: its sizes are part of what was measured."""
        path = self.folder / "plan.json"
        if self.resume and path.exists():
            return from_mapping(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
        spent = time.perf_counter() - self.begun
        plan = make_plan(
            self.study, self.base, self.data, names, self.suite.texts, spent, self.general.tokens
        )
        write_json(path, asdict(plan))
        return plan

    def _measured(self, name: str, before: Retained) -> StrategyResult:
        """One strategy's trial, then its conversations turn by turn."""
        result = self._trial(name, before)
        self.turns.measure(result)
        return result

    def _trial(self, name: str, before: Retained) -> StrategyResult:
        """One strategy, measured or read back."""
        if is_gated(name):
            return self.gated.trial(name)
        if is_tasked(name):
            try:
                runs = self._runs(name)
                return _tasked.TaskTrials(self.exam, self.trainer, before).trial(name, runs)
            except (ConfigError, RunFailed, CapabilityError) as error:
                return failed(name, error)
        method, prompting = parts(name)
        adapter_hash = ""
        training: Training | None = None
        retention = None
        if method:
            outcome = self.trainer.tune(method)
            if isinstance(outcome, Exception):
                return failed(name, outcome)
            adapter_hash, training = outcome.hash, outcome.training
            now = self.exam.retained(method, outcome.adapter.attached(), adapter_hash)
            retention = retention_record(now, change(before, now))
        else:
            retention = retention_record(before, change(before, before))
        try:
            runs = self._runs(name)
        except (ConfigError, RunFailed, CapabilityError) as error:
            # Its prompts do not fit the base's context, or another seed fails. Without the
            # reference nothing is left.
            if name == REFERENCE:
                raise
            return failed(name, error)
        items = self.exam.items[name] = pooled(runs)
        return StrategyResult(
            name=name,
            kind=kind(name),
            status="done",
            retention=retention,
            training=training,
            adapter=f"trials/{method}/adapter" if method else None,
            note=self.prompters.note(prompting),
            prepare_seconds=self.prompters.prepare_seconds(prompting),
            answered=answered(items),
            **summarise(items),
        )

    def _runs(self, name: str) -> list[list[Item]]:
        """A strategy's answers with every seed of its method."""
        runs = [self.sitting.asked(name, 0)]
        for number in range(1, self.plan.seeds if parts(name)[0] else 1):
            self.listen.so_far(self.score, summarise(pooled(runs))["score"])
            runs.append(self.sitting.asked(name, number))
        return runs

    def _verdict(self, results: list[StrategyResult], before: Retained, expected: float) -> Verdict:
        study, limit = self.study, self.study.max_forgetting
        differences = compare(self.exam.items)
        results = [replace(r, difference=differences.get(r.name)) for r in results]
        always = constant(self.exam.items, self.data, self.score)
        advice = recommend(
            results, self.exam.items, score=self.score, max_forgetting=limit, constant=always
        )
        curve = self.trainer.curve(results, advice.strategy)
        more = [*told(results), *_tasked.told(results, self.score)] + (
            [curve.advice] if curve else []
        )
        helped = self.trainer.ablation(results, advice.strategy)
        moved = self.trainer.transfer(results, advice.strategy)
        more += [*([helped] if helped else []), *(transfer.advice(moved) if moved else [])]
        in_turn = self.trainer.sequence(results, advice.strategy)
        more += sequence.advice(in_turn) if in_turn else []
        more += coherence.advice(self.turns.found, advice.strategy, self.score)
        more += [*self.plan.notes, *self.data.notes]
        data = self._data(expected, advice.strategy)
        winner = next(r for r in results if r.name == advice.strategy)
        if data.folds and winner.adapter:
            more = [not_itself(data, winner.name), *more]
        advice = replace(advice, reasons=[*advice.reasons, *more])
        stored = self._gigabytes(results)
        priced = costs(results, study.prices, data, gigabytes=stored, max_forgetting=limit)
        search = self.trainer.search
        changes = would_change(
            results,
            advice,
            score=self.score,
            tested=data.tested,
            max_forgetting=limit,
            constant=always,
            whole=None
            if study.train.steps or data.folds
            else full_steps(len(self.data.split.train), study.train),
            runs=search.runs if search else 1.0,
        )
        verdict = Verdict(
            name=study.name or "study",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            minutes=(time.perf_counter() - self.begun) / 60,
            base=_of_base(self.base, before),
            machine=machine.describe(),
            versions={p: version(p) for p in self._packages()},
            seed=study.seed,
            task=self.data.task,
            score=self.score,
            max_forgetting=limit,
            data=data,
            strategies=results,
            recommendation=replace(advice, would_change=changes),
            examples=self.exam.examples(),
            study=as_mapping(study),
            search=search,
            costs=priced,
            learning_curve=curve,
            tasks=by_task(self.exam.items, self.data.tasks),
            turns=self.turns.found,
            transfer=moved,
            in_sequence=in_turn,
            inflation=inflation(self.exam.items, REFERENCE, self.data.given_away),
            constant=always,
        )
        trained = [name for name, x in self.trainer.tuned.items() if isinstance(x, Tuned)]
        return write_study(self.folder, verdict, trained, list(self.exam.items), self.data.hash)

    def _data(self, expected: float, best: str) -> Data:
        """What the verdict says about the data, with the rows that training set aside."""
        data = replace(
            self.data.record(self.exam.rows, expected),
            detectable_measured=measured_detectable(self.exam.items, best),
        )
        for outcome in self.trainer.tuned.values():
            if isinstance(outcome, Tuned):
                for entry in outcome.set_aside:
                    data.set_aside[entry.reason] = data.set_aside.get(entry.reason, 0) + 1
        return data

    def _packages(self) -> list[str]:
        """Those whose versions the verdict names."""
        return ["domainwright", "torch", "transformers"] + ["lm_eval"] * bool(self.data.of_lm_eval)

    def _gigabytes(self, results: Sequence[StrategyResult]) -> dict[str, float]:
        """What each strategy keeps beside the base: adapter, vectors it searches, gate."""

        def size(folder: Path, pattern: str) -> float:
            return sum(p.stat().st_size for p in folder.glob(pattern)) / 1e9

        vectors = size(self.folder / "vectors", "*")
        retriever = size(self.folder / RETRIEVER, "*.safetensors")
        gate = size(self.folder / GATE, "*.safetensors")
        return {
            r.name: sum(
                size(self.folder / place, "*.safetensors")
                for place in (r.adapter, *r.adapters.values())
                if place
            )
            + (vectors if parts(r.name)[1] != REFERENCE else 0.0)
            + (retriever if parts(r.name)[1] == TUNED else 0.0)
            + (gate if r.gate else 0.0)
            for r in results
        }


def _of_base(base: Base, before: Retained) -> dict[str, Any]:
    """What the verdict says about the base."""
    return {
        "name": base.source.name,
        "origin": base.source.origin,
        "sha256": base.sha256,
        "parameters": base.parameters,
        "dtype": str(base.dtype).removeprefix("torch."),
        "bits_per_byte": before.bits_per_byte,
        "accuracy": before.accuracy,
    }
