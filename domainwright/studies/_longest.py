"""How long an answer may be, where the study leaves it open."""

from collections.abc import Sequence

from domainwright.core.records import Chat, Row
from domainwright.models.base import Base
from domainwright.studies.data import WRITTEN, StudyData

ANSWER_TOKENS = 128


def longest_answer(base: Base, data: StudyData, rows: Sequence[Row]) -> int:
    """Tokens that an answer may have, where the study leaves it open; 0 where none is written."""
    if data.of_lm_eval:
        return data.of_lm_eval.new_tokens
    return answer_tokens(base, rows) if data.task in WRITTEN else 0


def answer_tokens(base: Base, rows: Sequence[Row]) -> int:
    """Tokens that 95 % of the answers fit into and half as many more, at most ANSWER_TOKENS.

    A model that has not seen the house style needs more words for the same facts.
    """
    chats = [row for row in rows if isinstance(row, Chat)]
    lengths = sorted(len(base.template.tokens(row.answer)) + 1 for row in chats)
    return max(16, min(ANSWER_TOKENS, round(1.5 * lengths[int(0.95 * (len(lengths) - 1))])))
