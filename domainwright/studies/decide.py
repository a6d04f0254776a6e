"""decide: every strategy on the same locked test items, and what to do about it."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from domainwright.core import machine
from domainwright.core.artifacts import (
    read_manifest,
    seal,
    sha256_json,
    write_json,
)
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import CapabilityError, ConfigError, DataError, RunFailed
from domainwright.core.lock import lock
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Choice, Row, Text
from domainwright.curate.read import read_all
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, Suite, change, measure, shipped_suite
from domainwright.evaluate.tasks import TASKS
from domainwright.maths.significance import detectable
from domainwright.models.base import Base
from domainwright.models.forms import Prompt
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources
from domainwright.studies._base import base_of
from domainwright.studies._choice import failed, kind, parts, score_name, strategies
from domainwright.studies._folder import OF_STUDY, STUDY_FILE, claim, open_study
from domainwright.studies._format import unit
from domainwright.studies._scorecards import read_items, write_items
from domainwright.studies.card import model_card
from domainwright.studies.data import StudyData, prepare
from domainwright.studies.judge import (
    REFERENCE,
    compare,
    measured_detectable,
    recommend,
    retention_record,
    summarise,
)
from domainwright.studies.plan import Plan, make_plan
from domainwright.studies.records import (
    Example,
    Reply,
    StrategyResult,
    Training,
    Verdict,
    read_verdict,
)
from domainwright.studies.report import write_report
from domainwright.studies.study import StudySettings, write_resolved
from domainwright.studies.tune import Tuned, tune
from domainwright.train.preflight import check_detectable

EXAMPLES = 8
"""Test items shown side by side in the report."""


def decide(
    study: StudySettings,
    folder: Path,
    *,
    resume: bool = False,
    fresh: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Verdict:
    """Run the study into `folder` and return its verdict.

    Finished parts of an interrupted study are read back, not measured again.

    Raises:
        ConfigError: `folder` holds another or a finished study, or what is not ours.
        DataError, CapabilityError, RunFailed: see each step.
    """
    claim(folder, OF_STUDY)
    with lock(folder):
        open_study(study, folder, resume=resume, fresh=fresh)
        write_resolved(study, folder / STUDY_FILE)
        return _Study(study, folder, resume, listen, stop).run()


@dataclass
class _Study:
    """One run of `decide`; the parts in the order in which they happen."""

    study: StudySettings
    folder: Path
    resume: bool
    listen: Listener
    stop: Callable[[], bool]

    def run(self) -> Verdict:
        self.begun = time.perf_counter()
        study = self.study
        self.listen(Step("read data", 0, 1))
        self.data: StudyData = prepare(study, self.folder)
        self.listen(Step("load base", 0, 1))
        self.base: Base = base_of(study)
        self.task = TASKS.get(self.data.task)
        self.score = score_name(
            study.evaluate.score, self.data.task, self.task.scores, self.data.split.train
        )
        names, skipped = strategies(
            study.strategies, self.data.task, documents=bool(self.data.documents)
        )
        self.suite = self._suite()
        self.listen(Step("probe", 0, 1))
        self.plan = self._plan(names)
        self.rows: list[Row] = self.data.test_items(self.plan.items, study.seed)
        expected = detectable(len(self.rows))
        check_detectable(len(self.rows), expected, study.evaluate.difference)
        self.sources = Sources(
            examples=[r for r in self.data.split.train if not isinstance(r, Text)],  # type: ignore[misc]
            documents=self.data.documents,
            settings=study.prompting,
            count_tokens=lambda text: len(self.base.template.tokens(text)),
            listen=self.listen,
            vectors=self.folder / "vectors",
        )
        self.prompters: dict[str, Any] = {}
        self.tuned: dict[str, Tuned | RunFailed | CapabilityError] = {}
        self.items: dict[str, list[Item]] = {}
        before = self._retained("base", nullcontext())
        results = []
        for name in names:
            results.append(self._trial(name, before))
            self.listen(
                Step("strategies", len(results), len(names), _facts(results[-1], self.score))
            )
        return self._verdict([*results, *skipped], before, expected)

    def _plan(self, names: Sequence[str]) -> Plan:
        """The plan of an interrupted run is kept: its sizes are part of what was measured."""
        path = self.folder / "plan.json"
        if self.resume and path.exists():
            return from_mapping(Plan, json.loads(path.read_text(encoding="utf-8")), str(path))
        plan = make_plan(self.study, self.base, self.data, names, self.suite.texts)
        write_json(path, asdict(plan))
        return plan

    def _suite(self) -> Suite:
        suite = shipped_suite()
        extra = []
        for result in read_all(self.study.evaluate.retention):
            other = [r for r in result.rows if not isinstance(r, (Text, Choice))]
            if other:
                raise DataError(
                    f"evaluate.retention: {result.file} holds {type(other[0]).__name__.lower()} "
                    "rows.",
                    "give plain text or multiple choice.",
                )
            extra += result.rows
        return Suite(
            suite.texts + tuple(r for r in extra if isinstance(r, Text)),
            suite.choices + tuple(r for r in extra if isinstance(r, Choice)),
        )

    def _trial(self, name: str, before: Retained) -> StrategyResult:
        """One strategy, measured or read back."""
        method, prompting = parts(name)
        adapter_hash = ""
        training: Training | None = None
        context: Any = nullcontext()
        retention = None
        if method:
            outcome = self._tune(method)
            if isinstance(outcome, Exception):
                return failed(name, outcome)
            adapter_hash, training = outcome.hash, outcome.training
            context = outcome.adapter.attached()
            now = self._retained(method, outcome.adapter.attached(), adapter_hash)
            retention = retention_record(now, change(before, now))
        else:
            retention = retention_record(before, change(before, before))
        try:
            with context:
                self.items[name] = self._ask(name, prompting, adapter_hash)
        except ConfigError as error:
            # Its prompts do not fit the base's context. Without the reference nothing is left.
            if name == REFERENCE:
                raise
            return failed(name, error)
        return StrategyResult(
            name=name,
            kind=kind(name),
            status="done",
            retention=retention,
            training=training,
            adapter=f"trials/{method}/adapter" if method else None,
            **summarise(self.items[name]),
        )

    def _tune(self, method: str) -> Tuned | RunFailed | CapabilityError:
        if method not in self.tuned:
            study = self.study
            try:
                self.tuned[method] = tune(
                    self.base,
                    method,
                    self.data.split.train,
                    self.data.split.dev,
                    self.suite.texts,
                    study.train,
                    method_settings=study.methods.get(method, {}),
                    steps=self.plan.steps,
                    seed=study.seed,
                    folder=self.folder / "trials" / method,
                    parents={"dataset": self.data.hash, "base": self.base.sha256},
                    memory_gb=study.budget.memory_gb,
                    planned=self.plan.run_of(method),
                    resume=self.resume,
                    listen=self.listen,
                    stop=self.stop,
                )
            except (RunFailed, CapabilityError) as error:
                # One strategy that fails its checks must not lose the others their verdict.
                self.tuned[method] = error
        return self.tuned[method]

    def _ask(self, name: str, prompting: str, adapter_hash: str) -> list[Item]:
        parents = {
            "dataset": self.data.hash,
            "base": self.base.sha256,
            "asked": sha256_json(
                {
                    "strategy": name,
                    "rows": [r.id for r in self.rows],
                    "score": self.score,
                    "prompting": as_mapping(self.study.prompting),
                    "new_tokens": self.plan.new_tokens,
                    "task": self.task.version,
                    "domain": self.study.domain,
                }
            ),
        }
        if adapter_hash:
            parents["adapter"] = adapter_hash
        if "documents" in PROMPTINGS.get(prompting).needs:
            parents |= {s.file: s.sha256 for s in self.data.sources if s.role == "documents"}
        folder = self.folder / "trials" / name / "scorecard"
        if found := read_items(folder, parents, "items.jsonl") if self.resume else None:
            return found
        if prompting not in self.prompters:
            self.prompters[prompting] = PROMPTINGS.get(prompting)(self.sources)
        begun = time.perf_counter()
        prompts: list[Prompt] = [self.prompters[prompting].prompt(row) for row in self.rows]
        # Finding examples and passages is part of answering.
        search = (time.perf_counter() - begun) / len(self.rows)
        items = [
            replace(item, seconds=item.seconds + search)
            for item in self.task.run(
                self.base,
                self.rows,
                prompts,
                decide_by=self.score,
                new_tokens=self.plan.new_tokens,
                listen=self.listen,
                stage=name,
            )
        ]
        write_items(folder, "scorecard", {"items.jsonl": items}, parents)
        return items

    def _retained(self, name: str, context: Any, adapter_hash: str = "") -> Retained:
        suite = sha256_json(
            [[asdict(r) for r in rows] for rows in (self.suite.texts, self.suite.choices)]
        )
        parents = {"base": self.base.sha256, "suite": suite, "adapter": adapter_hash}
        folder = self.folder / "trials" / name / "retention"
        # Also without --resume: lora and lora+rag share one adapter, measured once.
        texts = read_items(folder, parents, "texts.jsonl")
        choices = read_items(folder, parents, "choices.jsonl")
        if texts and choices:
            return Retained(tuple(texts), tuple(choices))
        with context:
            now = measure(self.base, self.suite, listen=self.listen, stage=f"retention {name}")
        write_items(
            folder, "retention", {"texts.jsonl": now.texts, "choices.jsonl": now.choices}, parents
        )
        return now

    def _verdict(self, results: list[StrategyResult], before: Retained, expected: float) -> Verdict:
        study, base = self.study, self.base
        differences = compare(self.items)
        results = [replace(r, difference=differences.get(r.name)) for r in results]
        advice = recommend(
            results, self.items, score=self.score, max_forgetting=study.train.max_forgetting
        )
        advice = replace(advice, reasons=[*advice.reasons, *self.plan.notes])
        data = replace(
            self.data.record(self.rows, expected),
            detectable_measured=measured_detectable(self.items, advice.strategy),
        )
        for outcome in self.tuned.values():
            if isinstance(outcome, Tuned):
                for entry in outcome.set_aside:
                    data.set_aside[entry.reason] = data.set_aside.get(entry.reason, 0) + 1
        verdict = Verdict(
            name=study.name or "study",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            minutes=(time.perf_counter() - self.begun) / 60,
            base={
                "name": base.source.name,
                "origin": base.source.origin,
                "sha256": base.sha256,
                "parameters": base.parameters,
                "dtype": str(base.dtype).removeprefix("torch."),
                "bits_per_byte": before.bits_per_byte,
                "accuracy": before.accuracy,
            },
            machine=machine.describe(),
            versions={p: version(p) for p in ("domainwright", "torch", "transformers")},
            seed=study.seed,
            task=self.data.task,
            score=self.score,
            max_forgetting=study.train.max_forgetting,
            data=data,
            strategies=results,
            recommendation=advice,
            examples=self._examples(),
            study=as_mapping(study),
        )
        write_json(self.folder / "verdict.json", verdict.as_json())
        # As everyone else will read it: the report must be the same when it is made again.
        verdict = read_verdict(self.folder / "verdict.json")
        write_report(verdict, self.folder / "report.html")
        for name, outcome in self.tuned.items():
            if isinstance(outcome, Tuned):
                trained = [r.name for r in results if r.adapter == f"trials/{name}/adapter"]
                # A method that ran in a combination only has the combination's card.
                card = model_card(verdict, name if name in trained else trained[0])
                (self.folder / "trials" / name / "adapter" / "README.md").write_text(
                    card, encoding="utf-8"
                )
        scorecards = {
            name: read_manifest(self.folder / "trials" / name / "scorecard")["hash"]
            for name in self.items
        }
        seal(
            self.folder,
            "verdict",
            # Without report.html: `dw report` makes it anew, maybe with a newer version.
            [self.folder / f for f in ("verdict.json", STUDY_FILE, "plan.json")],
            parents={"dataset": self.data.hash, **scorecards},
        )
        return verdict

    def _examples(self) -> list[Example]:
        """The first test items, as every strategy answered them."""
        names = list(self.items)
        shown = []
        for number in range(min(EXAMPLES, len(self.rows))):
            first = self.items[names[0]][number]
            shown.append(
                Example(
                    id=first.id,
                    question=first.question,
                    reference=first.reference,
                    replies=[
                        Reply(
                            strategy=n,
                            text=self.items[n][number].reply,
                            score=self.items[n][number].mark.correct,
                            passages=list(self.items[n][number].passages),
                        )
                        for n in names
                    ],
                )
            )
        return shown


def _facts(result: StrategyResult, score: str) -> dict[str, str]:
    if result.score is None:
        return {result.name: result.status}
    return {result.name: f"{unit(score).label} {unit(score).levels(result.score)}"}
