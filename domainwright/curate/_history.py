"""What came before the question: a system message and earlier turns."""

from collections.abc import Mapping
from typing import Any

from domainwright.core.records import Message
from domainwright.curate._cells import as_text, optional, pick, unpacked
from domainwright.curate._turns import messages_of


def before(
    record: Mapping[str, Any], system: tuple[str, ...], history: tuple[str, ...]
) -> tuple[Message, ...]:
    """Messages from the columns `system` and `history`; none where they are empty.

    Raises:
        Unusable: the history is neither turns nor pairs of question and answer.
    """
    earlier = _turns(unpacked(pick(record, history)))
    text = optional(record, system)
    if text and not (earlier and earlier[0].role == "system"):
        return (Message("system", text), *earlier)
    return earlier


def _turns(value: Any) -> tuple[Message, ...]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, list) and all(_pair(turn) for turn in value):
        return tuple(
            message
            for question, answer in value
            for message in (
                Message("user", as_text(question, "empty_question", "history")),
                Message("assistant", as_text(answer, "empty_answer", "history")),
            )
        )
    return messages_of(value)


def _pair(turn: Any) -> bool:
    return isinstance(turn, (list, tuple)) and len(turn) == 2
