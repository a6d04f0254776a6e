"""A finished run opened again: its champion, its rows, and how both are asked and marked."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from domainwright.core.artifacts import read_manifest, sha256_json
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import Listener
from domainwright.core.records import Document, Row
from domainwright.curate.dataset import read_dataset
from domainwright.curate.read import read_all
from domainwright.curate.split import Split
from domainwright.evaluate.records import Item
from domainwright.evaluate.retained import Retained, Suite
from domainwright.evaluate.tasks import TASKS
from domainwright.methods._adapter import Adapter
from domainwright.methods._folders import method_of
from domainwright.prompting._sources import ask
from domainwright.studies._alike import weights_of
from domainwright.studies._beginnings import gone_on
from domainwright.studies._choice import parts, score_name, strategies
from domainwright.studies._exam import suite_of
from domainwright.studies._folder import STUDY_FILE, ours
from domainwright.studies._gate import Gate, input_of
from domainwright.studies._gated import general_inputs, mixture, retained_mixture, route
from domainwright.studies._longest import answer_tokens
from domainwright.studies._retention_tasks import RetentionTasks, retention_tasks
from domainwright.studies._scorecards import Asking, read_items, retained, write_items
from domainwright.studies.api import Run, load_run
from domainwright.studies.data import TASK_OF, WRITTEN, StudyData
from domainwright.studies.records import Training, Verdict, read_verdict
from domainwright.studies.refine.champion import in_force
from domainwright.studies.study import StudySettings, read_study


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run of `dw decide` or `dw train` with its champion loaded."""

    folder: Path
    study: StudySettings
    strategy: str
    names: list[str]
    """Every strategy of the study: training rows look as these ask."""
    own: str
    """The adapter that the run trained, relative to its folder."""
    adapter_hash: str
    """Of the one in force."""
    run: Run
    data: StudyData
    tied: list[list[str]]
    """Groups that near-duplicates tie together."""
    listen: Listener

    @property
    def adapter(self) -> Path:
        """The folder of the adapter in force."""
        return in_force(self.folder, self.own)

    @property
    def method(self) -> str:
        assert self.run.adapter is not None
        return self.run.adapter.method

    @property
    def task(self) -> Any:
        return TASKS.get(self.data.task)

    @property
    def score(self) -> str:
        wanted, rows = self.study.evaluate.score, self.data.split.train
        return score_name(wanted, self.data, self.task.scores, rows)

    @cached_property
    def new_tokens(self) -> int:
        """Longest answer: the study's."""
        if self.study.evaluate.new_tokens is not None or self.data.task not in WRITTEN:
            return self.study.evaluate.new_tokens or 0
        plan = self.folder / "plan.json"
        if plan.is_file():
            return int(json.loads(plan.read_text(encoding="utf-8"))["new_tokens"])
        return answer_tokens(self.run.base, self.data.split.train[:400])

    @cached_property
    def suite(self) -> Suite:
        """What retention is measured on."""
        return suite_of(self.study)

    @cached_property
    def general(self) -> RetentionTasks:
        """The tasks of lm-eval that it is measured on besides."""
        return retention_tasks(self.study, self.run.base, self.listen)

    @cached_property
    def training(self) -> Training:
        """How the run's own adapter was trained."""
        file = self.folder / Path(self.own).parent / "training.json"
        return from_mapping(Training, json.loads(file.read_text(encoding="utf-8")), str(file))

    @property
    def rate(self) -> float:
        return float(self.training.settings["learning_rate"])

    def ask(
        self,
        rows: Sequence[Row],
        adapter: Adapter,
        digest: str,
        place: Path,
        stage: str,
        gate: Gate | None = None,
    ) -> list[Item]:
        """`rows` answered and marked, or read back from `place`.

        Args:
            gate: who answers each row; None: `adapter` all of them.
        """
        if gate is None:
            return self._asked(rows, adapter, digest, place, stage)
        on = self._asked(rows, adapter, digest, place.parent / "adapter-alone", stage)
        # Once for all rounds: where champion and challenger leave a row to the base, both have
        # one and the same answer.
        everyone, bare = self.data.split.dev, self.folder / "refine" / "base" / "scorecard"
        off = {x.id: x for x in self._asked(everyone, None, "", bare, f"{stage}: base")}
        inputs = [(row.id, input_of(row)) for row in rows]
        routes = route(gate, inputs, place.parent / "routes", self.listen, f"gate {stage}")
        items = mixture(routes, on, [off[row.id] for row in rows])
        parents = {"gate": gate.hash, "adapter": digest, "base": self.run.base.sha256}
        write_items(place, "scorecard", {"items.jsonl": items}, parents)
        return items

    def _asked(
        self, rows: Sequence[Row], adapter: Adapter | None, digest: str, place: Path, stage: str
    ) -> list[Item]:
        """`rows` answered with `adapter` or by the bare base."""
        run = self.run
        asked = {
            "strategy": self.strategy,
            "rows": [row.id for row in rows],
            "score": self.score,
            "prompting": as_mapping(run.settings),
            "new_tokens": self.new_tokens,
            "task": self.task.version,
        }
        known = {"dataset": self.data.hash, "base": run.base.sha256, "adapter": digest}
        parents = {**known, "asked": sha256_json(asked)}
        if found := read_items(place, parents, "items.jsonl"):
            return found
        prompter: Any = run.prompter
        asking = Asking(
            base=run.base,
            task=self.task,
            score=self.score,
            new_tokens=self.new_tokens,
            listen=self.listen,
            weights=weights_of(self.data.split.dev, self.score),
        )
        prompt = prompter.prompt if prompter else partial(ask, settings=run.settings)
        with adapter.attached() if adapter else nullcontext():
            return asking.answered(rows, prompt, place, parents, stage)

    def mixed(
        self, gate: Gate | None, tuned: Retained, base: Retained, place: Path, stage: str
    ) -> Retained:
        """What is kept with a gate before the adapter, on the retention suite and tasks."""
        if gate is None:
            return tuned
        inputs = general_inputs(self.suite, base)
        routes = route(gate, inputs, place / "routes-general", self.listen, f"gate {stage}")
        return retained_mixture(routes, tuned, base)

    def retained(
        self, adapter: Adapter | None, digest: str, places: Sequence[Path], stage: str
    ) -> Retained:
        """The retention suite and tasks with `adapter`, or with the bare base.

        Args:
            places: folders in which it may have been kept; the last is written where it was not.
        """
        context = adapter.attached() if adapter else nullcontext()
        run, general = self.run, self.general
        return retained(run.base, self.suite, general, digest, context, places, self.listen, stage)


def open_source(folder: Path, strategy: str | None, listen: Listener) -> Source:
    """Open a finished run.

    Raises:
        ConfigError: the strategy has no adapter.
        DataError: no finished run; its rows, documents or base are not those it was trained on.
        UnknownName: the study has no such strategy.
    """
    study, verdict = study_of(folder)
    run = load_run(folder, strategy)
    if run.adapter is None:
        raise ConfigError(
            f"{run.strategy} has no adapter that could be refined.", _with_adapter(verdict)
        )
    if run.adapters:
        raise ConfigError(
            f"{run.strategy} has an adapter for every task, and a round refines one.",
            _with_adapter(verdict),
        )
    if study.data.task is not None:
        raise ConfigError(
            f"{folder} is about {study.data.task}, a task of lm-eval, and a round asks rows of "
            "files.",
            "run a study on the task's rows as a file, and refine that.",
        )
    own = f"trials/{parts(run.strategy)[0]}/adapter" if verdict else "adapter"
    adapter = in_force(folder, own)
    manifest = read_manifest(adapter, "adapter")
    method = method_of(adapter)
    # A past that is gone or has changed is refused here, before anything is asked.
    gone_on(run.base, method, study.methods.get(method, {}), adapter)
    data, tied = _data(folder, study, verdict)
    if manifest["parents"].get("dataset") != data.hash:
        raise DataError(
            f"The rows in {folder / 'dataset'} are not those that {adapter} was trained on.",
            "restore the folder, or run the study again with --fresh.",
        )
    if verdict is not None:
        names = [r.name for r in verdict.strategies]
    else:
        names, _ = strategies(study.strategies, data, minutes=study.budget.minutes)
    return Source(
        folder=folder,
        study=study,
        strategy=run.strategy if verdict else method,
        names=names,
        own=own,
        adapter_hash=manifest["hash"],
        run=run,
        data=data,
        tied=tied,
        listen=listen,
    )


def study_of(folder: Path) -> tuple[StudySettings, Verdict | None]:
    """(the study as it ran, its verdict; None: a run of one method).

    Raises:
        DataError: the folder holds neither.
    """
    file = folder / "verdict.json"
    if file.is_file():
        verdict = read_verdict(file)
        return from_mapping(StudySettings, verdict.study, str(file)), verdict
    if not ours(folder) or not (folder / "adapter").is_dir():
        raise DataError(
            f"{folder} holds no finished study and no finished run.",
            "give the folder of `dw decide` or `dw train`, such as runs/NAME.",
        )
    return read_study(folder / STUDY_FILE), None


def _with_adapter(verdict: Verdict | None) -> str:
    trained = (
        [r.name for r in verdict.strategies if r.adapter and not r.adapters] if verdict else []
    )
    if not trained:
        return "run a study with a method such as lora."
    return f"name one that has with --strategy: {', '.join(trained)}."


def _data(
    folder: Path, study: StudySettings, verdict: Verdict | None
) -> tuple[StudyData, list[list[str]]]:
    """(the run's rows as they were split, tied groups)."""
    dataset = read_dataset(folder / "dataset")
    reads = read_all(study.data.documents, as_documents=True)
    known = {s.file: s.sha256 for s in verdict.data.sources} if verdict else {}
    for result in reads:
        if known.get(result.file, result.sha256) != result.sha256:
            raise DataError(
                f"{result.file} is not what it was when the study ran.",
                "restore the file, or run the study again with --fresh.",
            )
    entries = [*study.data.train, *study.data.development, *study.data.test]
    named = {str(e["path"]): str(e["task"]) for e in entries if isinstance(e, dict) and "task" in e}
    everyone = [*dataset.train, *dataset.dev, *dataset.test]
    data = StudyData(
        split=Split(
            train=dataset.train, dev=dataset.dev, test=dataset.test, merged_groups=(), facts={}
        ),
        documents=tuple(r for result in reads for r in result.rows if isinstance(r, Document)),
        task=TASK_OF[type(dataset.train[0])],
        hash=dataset.manifest["hash"],
        sources=[],
        set_aside=[],
        leaks={},
        documents_overlap=0,
        tasks={row.id: named.get(row.file, Path(row.file).stem) for row in everyone},
    )
    return data, dataset.manifest["facts"].get("merged_groups", [])
