"""What a program calls: every verb of the command line that computes, as a function."""

import difflib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from domainwright.core.config import from_mapping
from domainwright.core.errors import ConfigError, DataError, UnknownName
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.records import Chat, Choice, Document
from domainwright.evaluate.retained import shipped_suite
from domainwright.methods import METHODS
from domainwright.models.base import load_base
from domainwright.models.encoder import default_encoder
from domainwright.models.tuned_encoder import load_tuned
from domainwright.prompting._sources import PromptSettings, Sources
from domainwright.studies._asked import as_asked, prompters_of
from domainwright.studies._base import base_of
from domainwright.studies._choice import parts, strategies
from domainwright.studies._crossfit import prepared, with_prompters
from domainwright.studies._entities import kinds_of_run
from domainwright.studies._folder import OF_RUN, STUDY_FILE, claim, ours
from domainwright.studies._format import unit
from domainwright.studies._gate import gate_in_force, load_gate
from domainwright.studies._names import is_gated, is_tasked, stem
from domainwright.studies._opened import open_adapter
from domainwright.studies._retention_tasks import retention_tasks
from domainwright.studies._retriever import RETRIEVER
from domainwright.studies._run import Run
from domainwright.studies._shape import unwritten
from domainwright.studies.data import prepare
from domainwright.studies.decide import decide as run_study
from domainwright.studies.judge import REFERENCE
from domainwright.studies.plan import Plan, make_plan
from domainwright.studies.records import StrategyResult, Training, Verdict, read_verdict
from domainwright.studies.refine.champion import in_force
from domainwright.studies.study import StudySettings, read_study, write_resolved
from domainwright.studies.tracking import check_trackers, tracked
from domainwright.studies.tune import Wanted, tune

if TYPE_CHECKING:
    import polars

    from domainwright.studies.plot import Drawing

RUNS = Path("runs")
ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))


@dataclass(frozen=True)
class Decided:
    """A verdict with its folder. Fields of the verdict are read through it."""

    verdict: Verdict
    folder: Path

    def __getattr__(self, name: str) -> object:
        # pickle and copy ask for such names before there is a verdict to look into.
        if name.startswith("__") or name in ("verdict", "folder"):
            raise AttributeError(name)
        return getattr(self.verdict, name)

    def table(self) -> "polars.DataFrame":
        """One row per strategy: score, difference and forgetting with their intervals, costs."""
        import polars

        return polars.DataFrame([_flat(r, self.verdict) for r in self.verdict.strategies])

    def plot(self, kind: str = "scores") -> "Drawing":
        """A drawing of the report, for a notebook or to be saved: scores, pareto or curve.

        Raises:
            ConfigError: there is no such plot.
            DataError: the study measured nothing that it could show.
        """
        from domainwright.studies.plot import draw

        return draw(self.verdict, kind)

    @property
    def best(self) -> "Run":
        """The recommended strategy, ready to answer."""
        return load_run(self.folder)


def _flat(r: StrategyResult, verdict: Verdict) -> dict[str, object]:
    """The numbers of a strategy by plain names; None where there is none."""
    lost = r.retention.nats_change if r.retention else None
    priced = verdict.costs.strategies if verdict.costs else []
    cost = next((c for c in priced if c.strategy == r.name), None)
    training = r.training
    return {
        "strategy": r.name,
        "kind": r.kind,
        "status": r.status,
        "recommended": r.name == verdict.recommendation.strategy,
        **{f"score{k}": getattr(r.score, v, None) for k, v in ENDS},
        **{f"difference{k}": getattr(r.difference, v, None) for k, v in ENDS},
        "p_holm": getattr(r.difference, "p_holm", None),
        **{f"forgetting{k}": getattr(lost, v, None) for k, v in ENDS},
        "tokens_in": r.tokens_in,
        "tokens_out": r.tokens_out,
        "seconds_per_answer": r.seconds_per_answer,
        "training_minutes": training.minutes if training else None,
        "peak_rss_mib": training.peak_rss_mib if training else None,
        "trainable": training.trainable if training else None,
        "cost_of_thousand": cost.thousand if cost else None,
        "cost_in_all": cost.total if cost else None,
    }


def decide(
    study: str | Path | StudySettings,
    folder: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    fresh: bool = False,
    on: str = "here",
    workers: int | None = None,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Decided:
    """Measure every strategy of a study and decide.

    Args:
        study: path of a study file, or settings.
        folder: where to write; None: runs/<name>.
        overrides: "a.b=value" each, as with --set.
        on: "here", or "ray": Ray's workers train, on as many machines as it has.
        workers: trainings at once on Ray; None: as many as its machines hold.
    """
    settings = resolved(study, overrides)
    check_trackers(settings.track)
    target = Path(folder) if folder else RUNS / str(settings.name or "study")
    with tracked(settings, target, listen) as told:
        verdict = run_study(
            settings,
            target,
            resume=resume,
            fresh=fresh,
            on=on,
            workers=workers,
            listen=told,
            stop=stop,
        )
        lower = float(unit(verdict.score).lower_is_better)
        results = [_flat(r, verdict) | {"lower_is_better": lower} for r in verdict.strategies]
        files = [target / "verdict.json", target / "report.html"]
        told.finish(results, files, verdict.recommendation.sentence)
    return Decided(verdict, target)


def plan(
    study: str | Path | StudySettings,
    *,
    overrides: Sequence[str] = (),
    listen: Listener = quiet,
) -> Plan:
    """What a study would take: time and peak memory per strategy, from a probe of a few seconds.

    Nothing is trained, asked or written; rows that the base would write are not counted. A strategy
    that does not fit is part of the answer: `plan.strategies[n].run.fits`; `plan.require()` raises
    for it.
    """
    settings = resolved(study, overrides)
    listen(Step("read data", 0, 1))
    with tempfile.TemporaryDirectory() as folder:
        load = cache(lambda: base_of(settings))
        data = prepared(unwritten(settings), Path(folder), base=load, listen=listen)
        listen(Step("load base", 0, 1))
        base = load()
        names, _ = strategies(
            settings.strategies,
            data,
            minutes=settings.budget.minutes,
            head=settings.train.head,
        )
        untuned = default_encoder
        data, _, _ = with_prompters(
            settings, data, base, Path(folder), names, listen, encoder=untuned
        )
    listen(Step("probe", 0, 1))
    general = retention_tasks(settings, base, listen)
    texts = shipped_suite().texts
    found = make_plan(settings, base, data, names, texts, retention_tokens=general.tokens)
    listen(Step("probe", 1, 1))
    return found


def train_method(
    study: str | Path | StudySettings,
    method: str,
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    listen: Listener = quiet,
    stop: Callable[[], bool] = lambda: False,
) -> Training:
    """Train one method on a study's training rows; the adapter lands in `folder/adapter`.

    Raises:
        ConfigError: the folder holds a run and `resume` is off, or something else.
    """
    settings = resolved(study, overrides)
    check_trackers(settings.track)
    folder = Path(folder)
    METHODS.get(method)
    claim(folder, OF_RUN)
    if (folder / "plan.json").exists():
        raise ConfigError(f"{folder} holds a study.", "give another folder with -o.")
    if ours(folder) and not resume:
        raise ConfigError(
            f"{folder} holds a run.",
            "add --resume to go on with it, or give another folder with -o.",
        )
    write_resolved(settings, folder / STUDY_FILE)
    wanted = wanted_of(settings, method, folder, listen)
    with tracked(settings, folder, listen) as told:
        training = tune(wanted, resume=resume, listen=told, stop=stop).training
        told.finish([{"strategy": method, **asdict(training)}], [folder / "training.json"], "")
    return training


def wanted_of(study: StudySettings, method: str, folder: Path, listen: Listener) -> Wanted:
    """The run of one method on a study's rows, which are prepared in `folder`."""
    load = cache(lambda: base_of(study))
    data = prepare(study, folder, base=load, listen=listen)
    base = load()
    names, _ = strategies(study.strategies, data, minutes=study.budget.minutes)
    prompters = prompters_of(study, base, data, folder, listen)
    lessons = as_asked(study, data, base, prompters, names).lessons
    return Wanted(
        base=base,
        method=method,
        rows=lessons.train,
        development=lessons.dev,
        general=shipped_suite().texts,
        hidden=data.split.test,
        settings=study.train,
        method_settings=study.methods.get(method, {}),
        steps=None,
        seed=study.seed,
        folder=folder,
        parents={"dataset": data.hash, "base": base.sha256},
        memory_gb=study.budget.memory_gb,
        tasks=data.tasks,
        shares=data.shares,
        alike=data.alike,
    )


def load_run(folder: str | Path, strategy: str | None = None) -> Run:
    """A study's recommended strategy (or the one named), or a run of `train_method`.

    Of an adapter that was refined, the one in force answers; see `studies.refine.champion`.

    Raises:
        DataError: the folder holds neither.
        UnknownName: the study has no such strategy, or it was not measured.
    """
    folder = Path(folder)
    if (folder / "verdict.json").is_file():
        verdict = read_verdict(folder / "verdict.json")
        if strategy is not None:
            _check_strategy(strategy, verdict, folder)
        study = from_mapping(StudySettings, verdict.study, str(folder / "verdict.json"))
        return _load(study, folder, strategy or verdict.recommendation.strategy)
    if (folder / "adapter").is_dir() and (folder / STUDY_FILE).is_file():
        if strategy is not None:
            raise UnknownName(
                f"{folder} is a run of one method, so it has no strategy {strategy!r}.",
                "leave --strategy out.",
            )
        study = read_study(folder / STUDY_FILE)
        base = base_of(study)
        adapter = open_adapter(base, in_force(folder, "adapter"))
        kinds = kinds_of_run(folder)
        return Run(base, adapter, None, study.prompting, "adapter", kinds=kinds)
    raise DataError(
        f"{folder} holds no finished study and no run.",
        "give the folder of `dw decide` or `dw train`, such as runs/NAME.",
    )


def run_of(model: str | Path) -> Run:
    """The run in the folder `model`, or else the base of that name, with nothing on it."""
    folder = Path(model)
    if (folder / "verdict.json").is_file() or (folder / "adapter").is_dir():
        return load_run(folder)
    return Run(load_base(str(model)), None, None, PromptSettings(), "base")


def resolved(study: str | Path | StudySettings, overrides: Sequence[str]) -> StudySettings:
    if not isinstance(study, StudySettings):
        return read_study(study, overrides)
    if overrides:
        raise ConfigError(
            f"overrides are for study files, and settings were given: {', '.join(overrides)}.",
            "change the settings with dataclasses.replace.",
        )
    return study


def _check_strategy(strategy: str, verdict: Verdict, folder: Path) -> None:
    done = [r.name for r in verdict.strategies if r.status == "done"]
    # A method that was trained for a combination can also be asked alone.
    trained = {p for name in done for p in name.split("+") if p in METHODS}
    if strategy not in {*done, *trained}:
        near = difflib.get_close_matches(strategy, done, n=1)
        raise UnknownName(
            f"The study in {folder} measured no strategy called {strategy!r}.",
            f"use {near[0]!r}." if near else f"use one of: {', '.join(done)}.",
        )


def _load(study: StudySettings, folder: Path, strategy: str) -> Run:
    from domainwright.curate.dataset import read_dataset
    from domainwright.curate.read import read_all
    from domainwright.prompting import PROMPTINGS

    base = base_of(study)
    adapter, prompter, asked = None, None, strategy
    if (chosen := _instruction(folder, strategy)) is not None:
        study = replace(study, prompting=replace(study.prompting, instruction=chosen or None))
        strategy = strategy.replace("instructed", REFERENCE)
    apart = _apart(folder, asked)
    for part in stem(strategy).split("+"):
        if part in METHODS and apart and apart.adapter is None:
            continue  # what is of no task is the untouched base's
        if part in METHODS:
            adapter = open_adapter(base, in_force(folder, f"trials/{part}/adapter"))
            continue
        documents = [
            row
            for result in read_all(study.data.documents, as_documents=True)
            for row in result.rows
            if isinstance(row, Document)
        ]
        train = read_dataset(folder / "dataset").train
        prompter = PROMPTINGS.get(part)(
            Sources(
                examples=[r for r in train if isinstance(r, (Chat, Choice)) and not r.provenance],
                documents=documents,
                settings=study.prompting,
                count_tokens=lambda text: len(base.template.tokens(text)),
                vectors=folder / "vectors",
                tuned=lambda: load_tuned(folder / RETRIEVER),
            )
        )
    own = f"trials/{parts(asked)[0]}/adapter"
    gate = load_gate(gate_in_force(folder, own)) if is_gated(asked) else None
    kinds = kinds_of_run(folder)
    adapters = {task: folder / place for task, place in apart.adapters.items()} if apart else {}
    return Run(base, adapter, prompter, study.prompting, asked, gate, kinds, adapters)


def _apart(folder: Path, strategy: str) -> StrategyResult | None:
    """The result of a strategy that has an adapter for every task."""
    if not is_tasked(strategy):
        return None
    return next(r for r in read_verdict(folder / "verdict.json").strategies if r.name == strategy)


def _instruction(folder: Path, strategy: str) -> str | None:
    """The instruction that `instructed` chose in the study; None: it is no part of the strategy."""
    if "instructed" not in strategy.split("+"):
        return None
    verdict = read_verdict(folder / "verdict.json")
    return next((r.note or "" for r in verdict.strategies if r.name == strategy), "")
