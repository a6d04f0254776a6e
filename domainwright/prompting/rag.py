"""Retrieved passages ahead of the question.

The passages are the user's reference documents. Without documents they are the training
rows themselves, and then none of the test item's own group is ever quoted.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from domainwright.core.records import Document, Extraction, Row
from domainwright.models.encoder import Encoder
from domainwright.models.forms import Prompt, in_one_text, solved
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._index import Index, Passage, passages_of
from domainwright.prompting._sources import Sources, ask, question_of

LEAD = "Answer the question with the help of these passages.\n\n"
LEAD_OF_TEXT = "These passages may help with the text behind them.\n\n"
FEWEST_WORDS = 30
"""A passage that would be cut to fewer words is not quoted."""


@PROMPTINGS.register
class Rag:
    summary = "Passages found for the question by words and meaning, quoted ahead of it."
    needs: tuple[str, ...] = ("documents",)
    kinds: tuple[str, ...] = ("lexical", "dense")
    """Searches whose rankings count."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.from_training = not sources.documents
        encoder = self.encoder(sources)
        self.passages = passages_of(sources.documents or _as_documents(sources))
        shown = [p.shown for p in self.passages]
        self.index = Index(shown, sources.listen, sources.vectors, self.kinds, encoder)
        self.groups = np.array([p.group for p in self.passages])

    def encoder(self, sources: Sources) -> Encoder | None:
        """What makes the vectors. None: the encoder of this process."""
        return None

    def prompt(self, row: Row) -> Prompt:
        settings = self.sources.settings
        quoted = self.quoted(row, settings.context_tokens)
        passages = tuple(p.shown for p in quoted)
        return ask(row, settings, lead=quotation(row, quoted), passages=passages)

    def quoted(self, row: Row, room: int, without: str | None = None) -> list[Passage]:
        """The passages that a prompt of this item quotes, in at most `room` tokens.

        Args:
            without: a further group whose training rows must not be quoted.
        """
        allowed = None
        if self.from_training:
            allowed = (self.groups != row.group) & (self.groups != without)
        found: list[Passage] = []
        room -= self.sources.count_tokens("".join(_around(row)))
        for number in self.index.search(question_of(row), allowed):
            if len(found) == self.sources.settings.passages:
                break
            passage = self._fit(self.passages[number], room)
            if passage:
                found.append(passage)
                room -= self.sources.count_tokens(passage.shown) + 4
        return found

    def _fit(self, passage: Passage, room: int) -> Passage | None:
        """The passage, cut at the end to fit `room` tokens; None if hardly any would be left."""
        cost = self.sources.count_tokens(passage.shown) + 4
        if cost <= room:
            return passage
        words = passage.text.split()
        # Words differ in tokens: begin with the average and shorten until it fits.
        for kept in range(int(len(words) * room / cost), FEWEST_WORDS - 1, -3):
            cut = replace(passage, text=" ".join(words[:kept]))
            if self.sources.count_tokens(cut.shown) + 4 <= room:
                return cut
        return None


def quotation(row: Row, quoted: Sequence[Passage]) -> str:
    """What is put ahead of the item's question; empty where nothing was found."""
    lead, end = _around(row)
    lines = "".join(f"[{n}] {p.shown}\n" for n, p in enumerate(quoted, 1))
    return lead + lines + end if lines else ""


def _around(row: Row) -> tuple[str, str]:
    """What stands before and after the passages of an item."""
    if isinstance(row, Extraction):
        return LEAD_OF_TEXT, "\nText: "
    return ("", "") if in_one_text(row) else (LEAD, "\nQuestion: ")


def _as_documents(sources: Sources) -> list[Document]:
    found = []
    for row in sources.examples:
        question, answer = solved(row)
        found.append(
            Document(
                id=row.id,
                group=row.group,
                file=row.file,
                line=row.line,
                title="",
                text=f"{question} {answer}",
            )
        )
    return found
