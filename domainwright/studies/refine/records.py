"""What a round of refinement finds and decides; its JSON files are these records as plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from domainwright.evaluate.retained import Change
from domainwright.maths.bootstrap import Interval
from domainwright.studies.records import Difference, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """One row that was answered wrongly."""

    id: str
    question: str
    wanted: str
    given: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Errors that are about the same thing."""

    words: list[str]
    """What sets their questions apart from those answered rightly, most telling first."""
    errors: int
    rows: list[str]
    """Ids of all of them."""
    examples: list[Wrong]
    advice: str
    """What to write or collect, in a sentence."""

    @property
    def name(self) -> str:
        """What the cluster is called."""
        return ", ".join(self.words) or "all errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often one label was given where another was wanted."""

    wanted: str
    given: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What the champion gets wrong in the half of the development rows that is looked at."""

    asked: int
    wrong: int
    rule: str
    """From when on a row counts as wrong."""
    clusters: list[Cluster]
    confusions: list[Confusion] = field(default_factory=list)
    """Of multiple choice whose choices are always the same."""
    reported: list[Wrong] = field(default_factory=list)
    """Replies that users rated as not wanted: errors without a right answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The rows that the challenger learns beside old ones."""

    source: str
    """"data" (new files) or "repeated" (training rows)."""
    offered: int
    """Rows to choose from, with those set aside."""
    chosen: int
    made: int
    """Of them made by an augmentation."""
    set_aside: dict[str, int]
    """Reason -> rows: offered = chosen + set aside. Training rows that are not read again are not
    set aside."""
    times: int
    """How often each proposed row is read."""
    old: int
    """Old training rows read beside them."""
    changed: dict[str, int] = field(default_factory=dict)
    """What curation did -> rows that it changed; empty where the study does not curate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One task or topic of the rows."""

    name: str
    items: int
    difference: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Champion against challenger, on development rows that nobody looked at."""

    accepted: bool
    sentence: str
    reasons: list[str]
    """Everything that spoke for or against, in sentences."""
    items: int
    groups: int
    level: float
    """Significance level of this round."""
    champion: Interval | None = None
    """Its score there."""
    challenger: Interval | None = None
    difference: Difference | None = None
    """Challenger minus champion, paired; None: nothing was trained, or it failed its checks."""
    parts: list[Part] = field(default_factory=list)
    against_base: Change | None = None
    """What the challenger forgot of general ability."""
    against_champion: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refined:
    """One round, as `refine/round-N` holds it."""

    folder: Path
    round: int
    strategy: str
    score: str
    errors: Errors
    proposal: Proposal
    decision: Decision
    training: Training | None
    in_force: str
    """Adapter that answers now, relative to the run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One test of whether new questions are drawn as the training questions were."""

    what: str
    """"vectors" or "loss"."""
    statistic: float
    """MMD² of sentence vectors; difference of the mean losses, nats per token."""
    p: float
    """By permutation of whole groups."""
    p_holm: float
    """The same after Holm's correction for both tests."""
    interval: Interval | None = None
    """Of the difference, for the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """New questions beside the training questions."""

    moved: bool
    sentence: str
    level: float
    new: int
    known: int
    """Questions compared."""
    shifts: list[Shift]
    words: list[str]
    """What the new questions have and the known ones have not."""
    examples: list[str]
    """New questions farthest from every known one."""
    set_aside: dict[str, int]
    """Reason -> records of the file that hold no question."""
