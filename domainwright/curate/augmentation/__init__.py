"""One file per way to make rows out of others.

A file registers one frozen dataclass; its fields are its settings. It has

    needs               "writer", "documents": what must be given
    kinds               kinds of rows it works on; what it makes are rows of these kinds
    checks              names of `validity.CHECKS` that what it makes must pass
    make(rows, tools)   everything made, valid or not

Rows are made from training rows after the split, and keep the group of their source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from domainwright.core.records import Chat, Document, Message, Provenance, Row
from domainwright.core.registry import Folder


class Writer(Protocol):
    """Whoever writes: the base of a study, or any model that a program brings.

    An attribute `name`, where there is one, is written into the rows' provenance.
    """

    def write(self, prompts: Sequence[str]) -> list[str]:
        """One reply per prompt, in order; "" where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an augmentation may use."""

    seed: int = 0
    copies: int = 1
    """Rows to make of each source: row, or document."""
    writer: Writer | None = None
    documents: Sequence[Document] = ()
    terms: Sequence[str] = ()
    """Words of the domain that no rule may touch."""
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Lower-case word -> words that may stand in its place."""

    @property
    def model(self) -> str | None:
        """The writer's name."""
        if self.writer is None:
            return None
        return str(getattr(self.writer, "name", type(self.writer).__name__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One attempt."""

    source: Row
    id: str
    row: Row | None
    """None: nothing came of it, for `fault`."""
    before: str = ""
    """The text that was changed, or that the row was made from."""
    after: str = ""
    """What is compared with it."""
    fault: tuple[str, str] | None = None
    """(reason, detail)."""


class Augmentation(Protocol):
    """What every file in this folder registers."""

    needs: ClassVar[tuple[str, ...]]
    kinds: ClassVar[tuple[type[Row], ...]]
    checks: ClassVar[tuple[str, ...]]

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        """Every attempt, in an order that follows from rows and seed."""


AUGMENTATIONS: Folder[type[Augmentation]] = Folder(
    "domainwright.curate.augmentation", "augmentation"
)


def provenance(source: str, op: str, tools: Tools, *, written: bool) -> Provenance:
    """Of a new row; the checks are added when it has passed them."""
    return Provenance(
        source_id=source,
        op=op,
        model=tools.model if written else None,
        seed=tools.seed,
        filters=(),
    )


def written(source: Row, id: str, made: Provenance, question: str, answer: str) -> Chat:
    """A conversation that a writer made of `source`, in its group."""
    return Chat(
        id=id,
        group=source.group,
        file=source.file,
        line=source.line,
        date=source.date,
        topic=source.topic,
        provenance=made,
        messages=(Message("user", question), Message("assistant", answer)),
    )
