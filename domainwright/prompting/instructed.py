"""The question after the best of several instructions, chosen on development rows.

Chosen is the instruction after which the right answers are likeliest: reading them is cheap,
and no test row takes part. One of the phrasings says how long the training answers are.
"""

from dataclasses import replace
from statistics import mean, median

from domainwright.core.records import Chat, Choice, Row
from domainwright.models.forms import Prompt
from domainwright.prompting import PROMPTINGS
from domainwright.prompting._sources import Sources, ask

MOST = 32
"""Development rows that are read for each instruction."""
PHRASINGS: tuple[str | None, ...] = (
    None,
    "Answer the question.",
    "Reply with the answer only, in a few words.",
    "Answer in one or two plain sentences.",
    "You are an expert in this field. Answer exactly and briefly.",
    "Give a complete and detailed answer.",
    "Think about what is asked, then give the right answer and nothing else.",
    "Answer as a reference book would: facts, no introduction, no opinion.",
)


@PROMPTINGS.register
class Instructed:
    summary = "The best of several instructions, chosen on development rows."
    needs: tuple[str, ...] = ()

    def __init__(self, sources: Sources) -> None:
        rows = [r for r in sources.development if isinstance(r, (Chat, Choice))][:MOST]
        tried = list(dict.fromkeys((sources.settings.instruction, *PHRASINGS, *_lengths(sources))))
        self.settings = sources.settings
        if not rows or sources.losses is None:
            return
        asked = [replace(sources.settings, instruction=text) for text in tried]
        found = [mean(sources.losses(rows, [ask(r, s) for r in rows])) for s in asked]
        self.settings = asked[min(range(len(asked)), key=found.__getitem__)]

    @property
    def note(self) -> str:
        """What was chosen, for the verdict."""
        return self.settings.instruction or ""

    def prompt(self, row: Row) -> Prompt:
        return ask(row, self.settings)


def _lengths(sources: Sources) -> list[str]:
    words = [len(r.answer.split()) for r in sources.examples if isinstance(r, Chat)]
    return [f"Answer in about {round(median(words))} words."] if words else []
