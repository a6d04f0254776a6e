"""The same question, or text, in other words, by whoever writes.

A model that read a fact in one wording hardly knows it; several wordings help. Answers and
choices stay. Copies of one row are asked for in different styles.

Source: Ovadia et al. 2024, arXiv:2312.05934; checks: see `validity`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from domainwright.core.records import Chat, Choice, Row, Text
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance
from domainwright.curate.augmentation.eda import asked, asking

STYLES = (
    "Say the following in other words.",
    "Rewrite the following in a shorter way.",
    "Rewrite the following in plain everyday words.",
    "Rewrite the following in formal words.",
    "Rewrite the following, beginning with another word.",
    "Rewrite the following as somebody else would put it.",
)
_RULES = "Keep its meaning, every number, unit and name. Write the new wording and nothing else."
_LABEL = re.compile(
    r"^(?:(?:sure|certainly|of course|here(?:'s| is| are))\b[^\n]*|[\w ]{1,30}:)[ \t]*\n+", re.I
)
_LEAD = re.compile(
    r"^(?:paraphrased?|rewritten|rewrite|new wording|question|answer)[\w ]{0,20}:\s*", re.I
)


@AUGMENTATIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Paraphrase:
    """Other wordings of what is asked; of plain text, of the text."""

    needs: ClassVar[tuple[str, ...]] = ("writer",)
    kinds: ClassVar[tuple[type[Row], ...]] = (Chat, Choice, Text)
    checks: ClassVar[tuple[str, ...]] = (
        "form",
        "length",
        "alike",
        "facts",
        "negation",
        "meaning",
        "leak",
        "copy",
    )

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        assert tools.writer is not None, "paraphrase needs a writer"
        wanted = [(row, number) for row in rows for number in range(1, tools.copies + 1)]
        prompts = [
            f"{STYLES[(number - 1) % len(STYLES)]} {_RULES}\n\n{_text(row)}"
            for row, number in wanted
        ]
        replies = tools.writer.write(prompts)
        return [
            _made(row, number, plain(reply), tools)
            for (row, number), reply in zip(wanted, replies, strict=True)
        ]


def plain(reply: str) -> str:
    """A reply without what models say before it, and without quotation marks around it.

    >>> plain('Sure! Here is it:\\n\\n"How is gout treated?"')
    'How is gout treated?'
    """
    text = _LEAD.sub("", _LABEL.sub("", reply.strip())).strip()
    quoted = len(text) > 1 and text[0] in "\"“'" and text[-1] in "\"”'"
    return text[1:-1].strip() if quoted else text


def _text(row: Row) -> str:
    return row.text if isinstance(row, Text) else asked(row)


def _made(row: Row, number: int, after: str, tools: Tools) -> Made:
    id, before = f"{row.id}~paraphrase{number}", _text(row)
    if not after:
        fault = ("empty_reply", f"{tools.model} wrote nothing")
        return Made(source=row, id=id, row=None, before=before, fault=fault)
    new = replace(row, text=after) if isinstance(row, Text) else asking(row, after)
    origin = provenance(row.id, "paraphrase", tools, written=True)
    new = replace(new, id=id, provenance=origin)
    return Made(source=row, id=id, row=new, before=before, after=after)
