"""The verdict and its parts. `verdict.json` is these records as plain data, nothing else."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from domainwright.core.config import from_mapping
from domainwright.maths.bootstrap import Interval

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
class StrategyResult:
    """One strategy on the locked test items."""

    name: str
    kind: Literal["prompting", "method", "combination"]
    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    """Why it failed or was skipped."""
    score: Interval | None = None
    difference: Difference | None = None
    """None for zero_shot itself."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of further measures: rouge_l, exact_match, answer_loss (nats per token), …"""
    parsed: float | None = None
    """Share of replies in which an answer was found."""
    retention: Retention | None = None
    tokens_in: float | None = None
    """Mean per answer."""
    tokens_out: float | None = None
    seconds_per_answer: float | None = None
    training: Training | None = None
    adapter: str | None = None
    """Adapter folder, relative to the study folder."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    strategy: str
    sentence: str
    reasons: list[str]


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
    schema: int = SCHEMA

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_verdict(path: Path) -> Verdict:
    """A verdict from its JSON file."""
    import json

    return from_mapping(Verdict, json.loads(path.read_text(encoding="utf-8")), str(path))
