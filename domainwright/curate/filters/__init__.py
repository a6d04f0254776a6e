"""One file per thing that can be wrong with a row. Each looks at one row and says so.

A file registers one frozen dataclass; its fields are the settings a domain may change
(`domains/NAME/curate.yaml`). It has

    default   whether it runs without being asked for (`--with NAME` asks)
    order     when: repairs below 40, then what is dropped, then redaction
    finds     words it may give as a reason
    ready(sample) -> Look     learns what it needs from the sample, and returns the judge

A judge gives None (the row is fine), `Drop` with a reason, or `Change` with the better row.
Copies need all rows at once and are found in `copies`, not here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from domainwright.core.records import Row
from domainwright.core.registry import Folder


@dataclass(frozen=True, slots=True)
class Drop:
    """The row is left out."""

    reason: str
    detail: str
    """What was found, in words. Never a secret: it is written into the dataset."""


@dataclass(frozen=True, slots=True)
class Change:
    """The row is kept in a better form."""

    row: Row
    what: str
    """A reason word: "mojibake", "html", "pii"."""
    count: int
    """Places that were changed."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Finer than `what`: {"EMAIL": 2}."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Placeholder -> what stood there. Never written into the dataset."""


Look = Callable[[Row], Drop | Change | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a filter may learn from before it judges."""

    rows: tuple[Row, ...] = ()
    """The first rows of every file."""
    against: tuple[Row, ...] = ()
    """Rows of the evaluation files."""
    language: str | None = None
    """What most of the sample is written in; None where that cannot be told."""


class Filter(Protocol):
    """What every file in this folder registers."""

    default: ClassVar[bool]
    order: ClassVar[int]
    finds: ClassVar[tuple[str, ...]]

    def ready(self, sample: Sample) -> Look:
        """A judge of one row. Called once, before the first row."""


FILTERS: Folder[type[Filter]] = Folder("domainwright.curate.filters", "curation filter")
