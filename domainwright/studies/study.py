"""The study file: YAML with values and registry names, read strictly."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from domainwright.core.artifacts import write_atomic
from domainwright.core.config import as_mapping, from_mapping
from domainwright.core.errors import ConfigError
from domainwright.curate.augment import AugmentSettings
from domainwright.curate.mixing import MixSettings
from domainwright.curate.select import SelectSettings
from domainwright.methods import METHODS
from domainwright.prompting._sources import PromptSettings
from domainwright.studies._few import check_folds
from domainwright.studies._names import check_strategies
from domainwright.studies._paths import data_located, located, past_located
from domainwright.studies._task_settings import TaskSettings, check_task, tasks_located
from domainwright.studies._yaml import read_yaml, write_yaml
from domainwright.studies.prices import PriceSettings, read_prices
from domainwright.studies.trackers import TRACKERS
from domainwright.train.settings import TrainSettings

DOMAINS = Path(__file__).parents[1] / "domains"
MARK = "# Written by Domainwright: the study as it ran, every default written out.\n"
"""First line of a resolved study, by which a folder of ours is told from the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where the rows come from. Paths are relative to the study file."""

    train: tuple[str | dict, ...] = ()
    """A file or a folder, a list of them, or {path, format, columns, share, task} each. With `task`
    they are learnt instead of the task's own rows."""
    task: str | None = None
    """A task, group or tag of lm-eval that the study is about, or the path of its YAML file: its
    documents are learnt and asked, its metrics decide."""
    include: str | None = None
    """Folder with YAML tasks of your own, among which `task` is. Code in it is run."""
    test: tuple[str | dict, ...] = ()
    """Test rows of your own. Empty: a part of the training rows is locked away for it."""
    development: tuple[str | dict, ...] = ()
    documents: tuple[str | dict, ...] = ()
    """What retrieval may quote: files or a folder of texts."""
    test_share: float = 0.2
    """Share of the rows in the test part when no test file is given. In (0, 1)."""
    development_share: float = 0.1
    split_by_date: bool = False
    """Test on the newest rows instead of random groups."""
    folds: int | Literal["auto"] | None = "auto"
    """Ask every row, each by what learned from the other folds. "auto": five folds where a split
    would leave too few groups to test and to watch on; None: always a split."""
    curate: bool = False
    """Repair, redact and drop training rows with a reason before the split, by the domain's preset.
    Test and development rows of your own stay as they are."""
    select: SelectSettings | None = None
    """Train on some of the training rows, chosen after the split: {method: k_center, rows: 200}."""
    augment: tuple[AugmentSettings, ...] = ()
    """Make more training rows after the split: {method: eda, copies: 2}, or a list."""
    mix: MixSettings | None = None
    """How tasks share an epoch: {kind: temperature}. None: each row once."""
    leaks: Literal["drop", "keep"] = "drop"
    """Training rows that give a test row away: set aside, or learned, and then the verdict says
    what that did to the scores."""

    def __post_init__(self) -> None:
        if not self.train and not self.task:
            raise ConfigError(
                "data.train names no file.", "give a file, a list of files, or data.task."
            )
        if self.include and not self.task:
            raise ConfigError(
                f"data.include is {self.include}, and no task is named.", "name it: data.task."
            )
        ways = [way.method for way in self.augment]
        if len(set(ways)) < len(ways):
            raise ConfigError(
                f"data.augment names one method twice: {', '.join(ways)}.",
                "write it once, with more `copies`.",
            )
        for name in ("test_share", "development_share"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(
                    f"data.{name} is {getattr(self, name)}, outside (0, 1).",
                    "give a share of the rows such as 0.2.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    minutes: float = 30.0
    """Time the study may take; test items and training steps not given are chosen to fit."""
    memory_gb: float | None = None
    """Memory training may take. None: three quarters of the machine's."""

    def __post_init__(self) -> None:
        for name in ("minutes", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"budget.{name} is {value}.", "give a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    items: int | None = None
    """Test items asked. None: as many as the budget allows, at most 200."""
    score: str = "auto"
    """What decides: token_f1, rouge_l, exact_match; accuracy_norm, accuracy, balanced_accuracy;
    entity_f1; with `data.task` a metric of the task, as lm-eval names it."""
    new_tokens: int | None = None
    """Longest answer. None: half more than 95 % of the training answers
    need, at most 128."""
    difference: float | None = None
    """Refuse a test set that cannot show a difference of this size. In score points of 0 to 1."""
    learning_curve: bool = False
    """Also train the best method on a quarter and on half of the rows, to say whether more rows
    would help. Costs three quarters of a run."""
    transfer: bool = False
    """Also train the best method without each task of the files in turn, to say which tasks help or
    hurt which. Costs nearly a run for every task."""
    sequence: tuple[str, ...] = ()
    """Also train the best method on these tasks one after the other, in this order, to say what is
    lost on the way and what helps the next. Costs a run."""
    turns: bool | Literal["auto"] = "auto"
    """Also ask conversations turn by turn, after the strategy's own replies. "auto": some of them,
    where enough test items have several turns; see `coherence`."""
    retention: tuple[str | dict, ...] = ()
    """Further general text or choice files on which forgetting is measured."""
    retention_tasks: tuple[str | TaskSettings, ...] = ()
    """Tasks of lm-eval on which forgetting is shown beside them: names, or {task, shots, limit,
    max_drop}."""
    max_forgetting: float | None = None
    """Most that a recommended strategy may forget, nats per token. None: train.max_forgetting,
    which also limits the states that a run keeps."""

    def __post_init__(self) -> None:
        for name in ("items", "new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"evaluate.{name} is {value}.", "give a whole number from 1.")
        if self.max_forgetting is not None and not self.max_forgetting >= 0:
            raise ConfigError(
                f"evaluate.max_forgetting is {self.max_forgetting}.",
                "give nats per token from 0, such as 0.05.",
            )
        if self.difference is not None and not 0 < self.difference <= 1:
            raise ConfigError(
                f"evaluate.difference is {self.difference}, outside (0, 1].",
                "give score points such as 0.05.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """When the adapter of METHOD+gated answers."""

    share: float = 0.95
    """Share of the development rows that reach the adapter. In (0, 1]."""
    nearest: int = 5
    """Training rows, the nearest ones, whose mean cosine tells whether an input belongs."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"gate.share is {self.share}, outside (0, 1].",
                "give a share of the rows such as 0.95.",
            )
        if self.nearest < 1:
            raise ConfigError(f"gate.nearest is {self.nearest}.", "give a whole number from 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApartSettings:
    """How METHOD+tasks trains an adapter for every task."""

    begin: Literal["shared", "base"] = "shared"
    """From the method's adapter of all tasks, or from nothing: then none of all tasks is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    base: str
    data: DataSettings
    name: str | None = None
    """None: the name of the study file or of its folder."""
    domain: str | None = None
    """A folder in domains/: brings an instruction and terms."""
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    strategies: tuple[str, ...] = ("auto",)
    """auto, or names: zero_shot, few_shot, rag, lora, combinations such as lora+rag, lora+gated
    and lora+tasks."""
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    prompting: PromptSettings = field(default_factory=PromptSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    apart: ApartSettings = field(default_factory=ApartSettings)
    prices: PriceSettings = field(default_factory=PriceSettings)
    """What things cost: settings, or the path of a price book."""
    track: tuple[str, ...] = ()
    """Where figures are kept besides the study's folder: mlflow, trackio, tensorboard, wandb."""
    methods: dict[str, Any] = field(default_factory=dict)
    """Settings of single methods: {lora: {rank: 8}}."""
    seed: int = 0
    seeds: int | None = None
    """Trainings of every trained strategy, each with a seed of its own. Scores are their means,
    and intervals hold the luck of the seeds too. None: one, or with folds up to three, as many as
    the budget has time for."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    quantise: Literal["nf4", "fp4"] | None = None
    """Hold the linear layers of the base in 4 bits, for all strategies. None: full weights."""
    revision: str | None = None
    """Of a base from the hub."""
    allow_pickle: bool = False
    trust_remote_code: bool = False

    @property
    def max_forgetting(self) -> float:
        """Most that a recommended strategy may forget, nats per token of general text."""
        limit = self.evaluate.max_forgetting
        return self.train.max_forgetting if limit is None else limit

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ConfigError(f"seeds is {self.seeds}.", "give a whole number from 1.")
        if not self.base.strip():
            raise ConfigError("base is empty.", "give an alias, a hub id or a folder.")
        if self.name is not None and (self.name.strip(". ") == "" or {"/", "\\"} & set(self.name)):
            raise ConfigError(
                f"name is {self.name!r}, which is no name for a folder.",
                "give a word such as medicines.",
            )
        check_strategies(self.strategies)
        check_folds(self)
        check_task(self)
        if len(set(self.track)) < len(self.track):
            raise ConfigError(
                f"track names one twice: {', '.join(self.track)}.", "remove the repeated name."
            )
        for tracker in self.track:
            if tracker not in TRACKERS:
                TRACKERS.get(tracker)  # its own error names the nearest
        for method, settings in self.methods.items():
            from_mapping(METHODS.get(method).Settings, settings, f"methods {method}")


def read_study(path: Path | str, overrides: Sequence[str] = ()) -> StudySettings:
    """The study in a YAML file; `overrides` are "a.b=value" with YAML values.

    Paths become absolute, and the domain's instruction is filled in.

    Raises:
        ConfigError: the file is missing, no YAML, or a setting is unknown or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"There is no study file {path}.",
            "give the path of a YAML file; `dw decide --help` shows one.",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no UTF-8 text (byte {error.start}).", "save it again as UTF-8."
        ) from error
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no settings.", "write `name: value` lines there.")
    for override in overrides:
        _override(raw, override)
    folder = path.resolve().parent
    if isinstance(raw.get("prices"), str):
        raw["prices"] = as_mapping(read_prices(folder / Path(raw["prices"]).expanduser()))
    study = from_mapping(StudySettings, raw, path.name)
    data = data_located(study.data, folder)
    evaluate = replace(
        study.evaluate,
        retention=located(study.evaluate.retention, folder),
        retention_tasks=tasks_located(study.evaluate.retention_tasks, folder),
    )
    base = study.base
    if (folder / base).is_dir():
        base = str(folder / base)
    train = study.train
    if train.distil and train.distil.teacher and (folder / train.distil.teacher).is_dir():
        teacher = str(folder / train.distil.teacher)
        train = replace(train, distil=replace(train.distil, teacher=teacher))
    if train.replay and train.replay.source:
        source = str(folder / Path(train.replay.source).expanduser())
        train = replace(train, replay=replace(train.replay, source=source))
    methods = {name: past_located(own, folder) for name, own in study.methods.items()}
    name = study.name or (folder.name if path.stem == "study" else path.stem)
    prompting = study.prompting
    if study.domain and prompting.instruction is None:
        prompting = replace(prompting, instruction=read_domain(study.domain)["instruction"])
    return replace(
        study,
        base=base,
        data=data,
        evaluate=evaluate,
        train=train,
        methods=methods,
        name=name,
        prompting=prompting,
    )


def read_domain(name: str) -> dict[str, Any]:
    """What a domain brings.

    Raises:
        ConfigError: no such domain.
    """
    known = sorted(p.parent.name for p in DOMAINS.glob("*/domain.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            f"There is no domain called {name!r}.",
            f"use {near[0]!r}." if near else f"choose among: {', '.join(known)}.",
        )
    file = DOMAINS / name / "domain.yaml"
    data: dict[str, Any] = read_yaml(file.read_text(encoding="utf-8"), str(file))
    return data


def write_resolved(study: StudySettings, path: Path) -> None:
    """The study with every default written out; running it again repeats the study."""
    write_atomic(path, MARK + write_yaml(plain(as_mapping(study))))


def plain(data: Any) -> Any:
    """Tuples as lists, as JSON and YAML have them."""
    if isinstance(data, Mapping):
        return {k: plain(v) for k, v in data.items()}
    return [plain(x) for x in data] if isinstance(data, (list, tuple)) else data


def _override(raw: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ConfigError(
            f"--set {text!r} has no value.", "write --set name=value, such as --set train.steps=50."
        )
    *way, last = key.split(".")
    place = raw
    for part in way:
        if place.get(part) is None:  # also where the file turns it off with null
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(
                f"--set {key}: {part!r} holds a value, not settings.", "name a setting that exists."
            )
    place[last] = read_yaml(value, f"--set {key}")
