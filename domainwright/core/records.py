"""What flows through the house: one frozen class per kind of row, and what was set aside."""

from dataclasses import dataclass
from typing import Protocol, Self

ASKING = ("user", "text")
"""Roles of a turn that is answered."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """"system", "user" or "assistant"; or "text": a prompt that is read as it stands, by no chat
    template, and so is the whole conversation."""
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """How a row was made that stands in no file."""

    source_id: str
    """Of the row or document it was made from; several are joined by a space."""
    op: str
    """What was done: "eda synonyms", "paraphrase"."""
    model: str | None
    """Who wrote it; None: a rule."""
    seed: int
    filters: tuple[str, ...]
    """Checks it passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where a row comes from. Every kind of row below adds its contents."""

    id: str
    """Unique in the study. Taken from the file, or made from file name and line."""
    group: str
    """Rows of one group (document, patient, contract) never sit on two sides of a split."""
    file: str
    line: int
    """Line in a line-based file, or the 1-based position of the record. Counts from 1."""
    date: str | None = None
    """ISO 8601, for splits by time."""
    topic: str | None = None
    provenance: Provenance | None = None
    """None: the row stands in its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat(Row):
    """A conversation that ends with the assistant's answer."""

    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """The last user turn, or the prompt."""
        return next(m.content for m in reversed(self.messages) if m.role in ASKING)

    @property
    def answer(self) -> str:
        said = self.messages[-1].content
        return said.strip() if self.literal else said

    @property
    def literal(self) -> bool:
        """Whether it is plain text: a prompt and, with the space ahead of it, its answer."""
        return any(m.role == "text" for m in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Row):
    """A question with one right choice among several."""

    question: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice, from 0."""
    context: str = ""
    ask: str | None = None
    """Of a text to be labelled: what is asked about it, at the head of a prompt; "" where the
    user's own instruction asks. None: the question asks itself."""
    delimiter: str | None = None
    """What stands between a question that is a prompt as it stands, its `ask` ahead of it, and
    each choice. None: question and choices are put in the house's form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(Row):
    """A text and what it is: one of the labels that the rows of its files have."""

    text: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged(Row):
    """A sentence whose words are tagged: the entities in it."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    """One of each word, BIO: "B-DRUG", "I-DRUG", "O"."""

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction(Chat):
    """A tagged sentence as a question: the answer lists its entities, one `TYPE: words` a line."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    kinds: tuple[str, ...]
    """The types of entities of all rows of its files, in alphabetical order."""
    ask: str
    """What is asked about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Row):
    """Plain text of the domain, to be continued."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference(Row):
    """Two replies to one prompt; `chosen` is preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated(Row):
    """One reply and whether it was wanted (KTO rows)."""

    prompt: tuple[Message, ...]
    reply: str
    wanted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Row):
    """What retrieval may quote: a section or a page of something longer, or the whole of it."""

    title: str
    text: str
    section: str = ""
    """Headings above the text, highest first: "Care > Doses"."""
    page: int | None = None
    """Where the document has pages. Counts from 1."""

    @property
    def heading(self) -> str:
        """Title and section."""
        return ": ".join(part for part in (self.title, self.section) if part)


class Placed(Protocol):
    """Whatever stands at a line of a file: a row, or a row as tokens."""

    @property
    def id(self) -> str: ...

    @property
    def file(self) -> str: ...

    @property
    def line(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A record that was not used, and why. One line of `set_aside.jsonl`."""

    file: str
    line: int
    id: str | None
    reason: str
    """A short registry-like word: "empty_answer", "not_json", "near_duplicate"."""
    detail: str
    """What was found, in words, with the offending value."""

    @classmethod
    def of(cls, row: Placed, reason: str, detail: str) -> Self:
        """`row`, not used."""
        return cls(file=row.file, line=row.line, id=row.id, reason=reason, detail=detail)
