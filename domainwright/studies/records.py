"""The verdict and its parts. `verdict.json` is these records as plain data, nothing else."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from domainwright.core.config import from_mapping
from domainwright.evaluate.kept import TaskKept
from domainwright.maths.bootstrap import Interval
from domainwright.studies.apart import TaskGain
from domainwright.studies.entities import EntityScore
from domainwright.studies.gating import Gating
from domainwright.studies.inflation import Inflation
from domainwright.studies.prices import PriceSettings
from domainwright.studies.task_records import Coherence, InSequence, TaskScore, Transfer

SCHEMA = 1
"""Version of verdict.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A strategy against the untouched base with a plain prompt, on the same items."""

    mean: float
    low: float
    high: float
    p: float
    """Paired sign-flip permutation test, groups kept whole."""
    p_holm: float
    """The same after Holm's correction over all strategies of the study."""
    mcnemar: float | None = None
    """Exact McNemar p-value, where every mark is right or wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What general ability became. Changes are against the base, paired over items."""

    bits_per_byte: float
    accuracy: float
    nats_change: Interval
    bits_change: Interval
    accuracy_change: Interval
    tasks: list[TaskKept] = field(default_factory=list)
    """Of `evaluate.retention_tasks`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What was predicted for a run before it began; its measurement stands beside it."""

    minutes: float
    peak_rss_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    minutes: float
    steps: int
    best_step: int
    tokens: int
    tokens_per_s: float
    peak_rss_mib: int
    trainable: int
    """Trainable parameters."""
    settings: dict[str, Any]
    """Everything that was chosen: rank, learning rate, schedule, …"""
    planned: Planned | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """Lines of metrics.jsonl: step, loss, development_loss, general_loss, tokens, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """How often one label was answered where one was true, in one group of the test items."""

    group: str
    true: str
    answered: str
    """"other": no label of these."""
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyResult:
    """One strategy on the locked test items."""

    name: str
    kind: Literal["prompting", "method", "combination"]
    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    """Why it failed or was skipped."""
    note: str | None = None
    """What the strategy chose by itself: the instruction of `instructed`."""
    score: Interval | None = None
    difference: Difference | None = None
    """None for zero_shot itself."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of further measures: rouge_l, exact_match, answer_loss (nats per token), …"""
    answered: list[Answered] = field(default_factory=list)
    """Of the first training seed; empty where the test items have no labels."""
    entities: list[EntityScore] = field(default_factory=list)
    """Of all types, then type by type, of the first training seed; empty for other tasks."""
    parsed: float | None = None
    """Share of replies in which an answer was found."""
    retention: Retention | None = None
    tokens_in: float | None = None
    """Mean per answer."""
    tokens_out: float | None = None
    seconds_per_answer: float | None = None
    prepare_seconds: float = 0.0
    """Making ready before the first question: indexing documents, vectors of examples."""
    training: Training | None = None
    adapter: str | None = None
    """Adapter folder, relative to the study folder."""
    gate: Gating | None = None
    """None: no gate, the adapter answers everything."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Task -> folder of its own adapter, of METHOD+tasks; `adapter` then answers what is of no
    task. Empty: one adapter for all."""
    apart: list[TaskGain] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A method at a learning rate, on its way through the search."""

    method: str
    learning_rate: float
    of: int
    """Steps of the whole run."""
    steps: int = 0
    """Steps it was trained."""
    loss: float | None = None
    """On development rows, nats per token, where it stopped."""
    behind: Interval | None = None
    """Its loss minus the best candidate's there, paired over rows."""
    decision: Literal["waiting", "chosen", "stopped", "failed"] = "waiting"
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.method}-{self.learning_rate:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The race for the method and its learning rate, on development rows alone."""

    steps: int
    """Of a whole run."""
    rungs: list[int]
    """Steps at which candidates were compared."""
    runs: float
    """What the race took, in whole runs; trying every candidate to the end takes as many as
    there are candidates."""
    candidates: list[Candidate]

    @property
    def winner(self) -> Candidate:
        return next(c for c in self.candidates if c.decision == "chosen")


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCost:
    """One strategy, in the price book's currency."""

    strategy: str
    thousand: float
    """Answering a thousand questions."""
    once: float
    """Before the first question."""
    refresh: float
    """Once more, when the knowledge has changed."""
    storage_month: float
    total: float
    """All of it over the months."""
    benefit: Interval | None
    """What right answers bring, less wrong ones and the total; None: not weighed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """From how many questions a month on `after` is the cheaper of the two."""

    before: str
    after: str
    questions_month: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Which strategy comes first when one price is another."""

    price: str
    scale: float
    first: str
    changes: bool
    """Whether another strategy comes first than at the prices given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    prices: PriceSettings
    strategies: list[StrategyCost]
    break_evens: list[BreakEven]
    sensitivity: list[Sensitivity]
    first: str
    """Highest benefit where right answers have a value, else the lowest total."""
    gigabytes: dict[str, float] = field(default_factory=dict)
    """Strategy -> what it keeps on disk beside the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    rows: int
    loss: Interval
    """On development rows, nats per token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """The development loss of one method after training on parts of the rows."""

    points: list[CurvePoint]
    more: int
    """Rows more than there are."""
    gain: Interval
    """What they would take off the loss, nats per token."""
    advice: str
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    strategy: str
    text: str
    score: float
    passages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One test item answered by every strategy, for reading side by side."""

    id: str
    question: str
    reference: str
    replies: list[Reply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One data file as it was read."""

    file: str
    role: str
    """"train", "test", "development" or "documents"."""
    format: str
    columns: dict[str, str]
    records: int
    kept: int
    set_aside: dict[str, int]
    """Reason -> rows."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    sources: list[Source]
    train: int
    development: int
    test: int
    tested: int
    """Test items that every strategy answered; the first `tested` of a fixed random order."""
    groups: int
    """Independent groups among the tested items."""
    documents: int
    set_aside: dict[str, int]
    """Reason -> rows, over all files and steps."""
    set_aside_examples: list[dict[str, Any]]
    """A few of them: file, line, id, reason, detail."""
    leaks: dict[str, int]
    """Kind of overlap between training and test -> training rows removed for it."""
    documents_overlap: int
    """Test items whose text also stands in a document: information, not a fault."""
    detectable: float
    """Smallest difference of the score that the test set was expected to show before the run."""
    detectable_measured: float | None = None
    """The same after the run, from the measured spread of the best strategy's differences."""
    folds: int = 0
    """Parts of the rows that were asked in turn, each by models trained on the others; `train` then
    counts all rows and `test` none. 0: one test part."""
    lm_eval: dict[str, str] = field(default_factory=dict)
    """Task of lm-eval -> its version, where the study is about such tasks; empty: own files."""
    labels: dict[str, float] = field(default_factory=dict)
    """Label -> its share of all rows that could be asked, where labels count alike in the score and
    rare ones are asked first; empty: rows count alike."""


QUOTED = 40
"""Characters of an answer that a sentence quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantAnswer:
    """The commonest answer of the training rows, given to every test item."""

    answers: dict[str, str]
    """Task -> answer; "" for items of no task of its own."""
    score: Interval
    leads: dict[str, Interval]
    """Strategy -> by how much it is better, paired."""

    def behind(self, strategy: str) -> bool:
        """Whether the strategy is significantly better."""
        return self.leads[strategy].low > 0

    @property
    def said(self) -> str:
        """What it is called in a sentence."""
        if len(set(self.answers.values())) > 1:
            return "always giving the commonest answer of each task"
        answer = " ".join(next(iter(self.answers.values())).split())
        quoted = answer if len(answer) <= QUOTED else answer[: QUOTED - 1].rstrip() + "…"
        return f"always answering “{quoted}”"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    strategy: str
    sentence: str
    reasons: list[str]
    would_change: list[str] = field(default_factory=list)
    """Limits and sizes at which the answer would be another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    name: str
    created: str
    """UTC, ISO 8601."""
    minutes: float
    """Of the whole study."""
    base: dict[str, Any]
    """name, origin, sha256, parameters, dtype, retention figures of the untouched base."""
    machine: dict[str, Any]
    versions: dict[str, str]
    seed: int
    task: str
    score: str
    """Name of the score the study is decided by."""
    max_forgetting: float
    data: Data
    strategies: list[StrategyResult]
    recommendation: Recommendation
    examples: list[Example]
    study: dict[str, Any]
    """The resolved study: every setting with its value."""
    search: Search | None = None
    """None: the study names its strategies, or has no time for a search."""
    costs: Costs | None = None
    learning_curve: LearningCurve | None = None
    """None: not asked for, or too few rows."""
    tasks: list[TaskScore] = field(default_factory=list)
    """Scores task by task, where the test items are of several."""
    turns: list[Coherence] = field(default_factory=list)
    """Strategies over the turns of conversations, where test items have several."""
    transfer: Transfer | None = None
    """None: not asked for, or fewer than two tasks."""
    in_sequence: InSequence | None = None
    """None: not asked for."""
    inflation: list[Inflation] = field(default_factory=list)
    """What training rows that give test rows away did, where they were kept."""
    constant: ConstantAnswer | None = None
    """None: no two training rows have one answer, or the items are not answered in words."""
    schema: int = SCHEMA

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_verdict(path: Path) -> Verdict:
    """A verdict from its JSON file."""
    import json

    return from_mapping(Verdict, json.loads(path.read_text(encoding="utf-8")), str(path))


if __name__ == "__main__":
    import json

    from domainwright.core.schema import json_schema
    from domainwright.studies import records

    print(json.dumps(json_schema(records.Verdict, "Verdict of a study"), indent=1))
