"""Solved examples, each with the passages that were found for it, ahead of the question's own.

An example shows how an answer is taken out of passages, and how long it is: what a question
with passages alone does not tell. Examples get at most half of the context budget, the
question's passages what is left of it.
"""

from domainwright.core.records import Chat, Choice, Message, Row
from domainwright.models.forms import Prompt, in_one_text, solved, written
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._index import Passage
from domainwright.prompting._sources import MARKERS, Sources, ask
from domainwright.prompting.few_shot import FewShot
from domainwright.prompting.rag import Rag, quotation


@PROMPTINGS.register
class RagFewShot:
    summary = "The nearest solved examples, each with its passages, and the question with its own."
    needs: tuple[str, ...] = ("examples", "documents")

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.rag, self.few_shot = Rag(sources), FewShot(sources)

    def prompt(self, row: Row) -> Prompt:
        settings = self.sources.settings
        shown = self._examples(row, settings.context_tokens // 2)
        room = settings.context_tokens - sum(cost for *_, cost in shown)
        quoted = self.rag.quoted(row, room)
        lead = quotation(row, quoted)
        ids = tuple(example.id for example, *_ in shown)
        passages = tuple(p.shown for p in quoted)
        solutions = [(quotation(example, found), example) for example, found, _ in reversed(shown)]
        if in_one_text(row):
            lead = "".join(before + written(example) for before, example in solutions) + lead
            return ask(row, settings, lead=lead, passages=passages, examples=ids)
        turns = [
            turn
            for before, example in solutions
            for question, answer in [solved(example)]
            for turn in (Message("user", before + question), Message("assistant", answer))
        ]
        return ask(row, settings, before=turns, lead=lead, passages=passages, examples=ids)

    def _examples(self, row: Row, room: int) -> list[tuple[Chat | Choice, list[Passage], int]]:
        """(example, its passages, its tokens), the nearest first; one without passages is none."""
        pool, count = self.few_shot.pool, self.sources.count_tokens
        chosen: list[tuple[Chat | Choice, list[Passage], int]] = []
        for number in self.few_shot.nearest(row):
            if len(chosen) == self.sources.settings.examples:
                break
            example = pool[number]
            own = sum(count(text) for text in solved(example)) + MARKERS
            found = self.rag.quoted(example, room - own, without=row.group)
            cost = own + count(quotation(example, found))
            if found and cost <= room:
                chosen.append((example, found, cost))
                room -= cost
            elif chosen:
                break
        return chosen
