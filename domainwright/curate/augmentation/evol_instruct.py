"""A question made harder, or turned to something near it, by whoever writes; then answered anew.

Operators, in turn: constrain, deepen, concretise, reason, breadth. Eliminated: a question that is
nearly the old one, one that quotes the instruction it was written by, an answer that only refuses.

Source: Xu et al. 2023 (WizardLM), arXiv:2304.12244, section 3.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Chat, Row
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance, written
from domainwright.curate.augmentation.eda import asked
from domainwright.curate.augmentation.paraphrase import plain

OPERATORS = {
    "constrain": "Rewrite the question so that it asks for one more condition to be met.",
    "deepen": "Rewrite the question so that it goes deeper into its subject.",
    "concretise": "Rewrite the question so that it asks about a more specific case.",
    "reason": "Rewrite the question so that several steps of thought are needed to answer it.",
    "breadth": "Write a new question of the same domain about something less common.",
}
_COPIED = re.compile(
    r"\b(?:rewrit(?:e|ten)|the (?:given|new|old) question|of the same domain)\b", re.I
)
_REFUSED = re.compile(r"^(?:i['’]?m sorry|sorry|i (?:can(?:no|['’])t|am unable)|as an ai)\b", re.I)


@AUGMENTATIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class EvolInstruct:
    """Harder questions with invented answers: look at some before you trust them."""

    needs: ClassVar[tuple[str, ...]] = ("writer",)
    kinds: ClassVar[tuple[type[Row], ...]] = (Chat,)
    checks: ClassVar[tuple[str, ...]] = ("form", "alike", "leak", "copy")

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        assert tools.writer is not None, "evol_instruct needs a writer"
        names = list(OPERATORS)
        # The first operator moves on from row to row, so that one copy each tries them all.
        wanted = [
            (row, number, names[(place + number - 1) % len(names)])
            for place, row in enumerate(rows)
            for number in range(1, tools.copies + 1)
        ]
        prompts = [
            f"{OPERATORS[name]} Write the question and nothing else.\n\n{asked(row)}"
            for row, _, name in wanted
        ]
        questions = [plain(reply) for reply in tools.writer.write(prompts)]
        answers = [plain(reply) for reply in tools.writer.write(questions)]
        return [
            _made(row, f"{row.id}~evol{number}", name, question, answer, tools)
            for (row, number, name), question, answer in zip(
                wanted, questions, answers, strict=True
            )
        ]


def _made(row: Row, id: str, name: str, question: str, answer: str, tools: Tools) -> Made:
    fault = None
    if not question or not answer:
        fault = ("empty_reply", f"{tools.model} wrote nothing")
    elif found := _COPIED.search(question):
        fault = ("copied_prompt", f"quotes its instruction: {found.group()!r}")
    elif found := _REFUSED.search(answer):
        fault = ("refusal", f"the answer begins {found.group()!r}")
    if fault:
        return Made(source=row, id=id, row=None, before=asked(row), fault=fault)
    made = provenance(row.id, f"evol_instruct {name}", tools, written=True)
    new = written(row, id, made, question, answer)
    return Made(source=row, id=id, row=new, before=asked(row), after=question)
