"""Questions with answers about documents, by whoever writes.

Each passage of a document is shown to the writer, who asks about it and then answers from it. A
number or a name that the passage does not hold drops the row.

Source: after Alberti et al. 2019 (ACL, P19-1620) and Cheng et al. 2024, arXiv:2309.09530: reading
comprehension made out of raw text of the domain.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Document, Row
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance, written
from domainwright.curate.augmentation.paraphrase import plain

ABOUT = (
    "what something in it is or means",
    "a cause or a reason in it",
    "how something in it is done",
    "who or what something in it applies to",
    "a number, time or amount in it",
)
_NUMBER = re.compile(r"^\s*\d+[.):]\s*")
_ABOUT_THE_TEXT = re.compile(
    r"\b(?:this|the|above|following) (?:text|passage|article|paragraph)\b", re.IGNORECASE
)
_FEWEST_WORDS = 12
"""A shorter rest of a document says too little to ask about."""


@AUGMENTATIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Conversations made out of documents."""

    words: int = 150
    """Of a passage."""

    needs: ClassVar[tuple[str, ...]] = ("writer", "documents")
    kinds: ClassVar[tuple[type[Row], ...]] = (Chat,)
    checks: ClassVar[tuple[str, ...]] = ("grounded", "leak", "copy")

    def __post_init__(self) -> None:
        if self.words < _FEWEST_WORDS:
            raise ConfigError(
                f"questions.words is {self.words}.", f"give a whole number from {_FEWEST_WORDS}."
            )

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        assert tools.writer is not None, "questions needs a writer"
        wanted = [
            (document, place, passage, number)
            for document in tools.documents
            for place, passage in enumerate(self._passages(document))
            for number in range(1, tools.copies + 1)
        ]
        asked = tools.writer.write(
            [
                f"Read this text and ask one question about {ABOUT[(number - 1) % len(ABOUT)]}. It "
                f"must be clear without the text. Write the question and nothing else.\n\n{passage}"
                for *_, passage, number in wanted
            ]
        )
        questions = [_question(reply) for reply in asked]
        answers = tools.writer.write(
            [
                "Answer the question in one or two sentences, with what the text says and nothing "
                f"else.\n\nText: {passage}\n\nQuestion: {question}"
                for (_, _, passage, _), question in zip(wanted, questions, strict=True)
            ]
        )
        return [
            _made(document, f"{document.id}#{place}~question{number}", passage, q, plain(a), tools)
            for (document, place, passage, number), q, a in zip(
                wanted, questions, answers, strict=True
            )
        ]

    def _passages(self, document: Document) -> list[str]:
        words = document.text.split()
        cut = [words[n : n + self.words] for n in range(0, len(words), self.words)]
        title = f"{document.heading}: " if document.heading else ""
        return [title + " ".join(part) for part in cut if len(part) >= _FEWEST_WORDS]


def _question(reply: str) -> str:
    """The first question of a reply; "" where there is none."""
    for line in plain(reply).splitlines():
        if "?" in line:
            return _NUMBER.sub("", line[: line.index("?") + 1]).strip()
    return ""


def _made(
    document: Document, id: str, passage: str, question: str, answer: str, tools: Tools
) -> Made:
    if not question or not answer:
        fault = ("no_question", f"{tools.model} asked nothing")
        if question:
            fault = ("empty_reply", f"{tools.model} answered nothing to {question!r}")
        return Made(source=document, id=id, row=None, before=passage, fault=fault)
    if found := _ABOUT_THE_TEXT.search(question):
        fault = ("unclear_question", f"asks about {found.group()!r}, which nobody else sees")
        return Made(source=document, id=id, row=None, before=passage, fault=fault)
    made = provenance(document.id, "questions", tools, written=True)
    row = written(document, id, made, question, answer)
    return Made(source=document, id=id, row=row, before=passage, after=f"{question}\n{answer}")
