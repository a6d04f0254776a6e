"""What a row asks and what it answers, as plain text: the ground on which rows are compared."""

from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Labelled,
    Message,
    Preference,
    Rated,
    Row,
    Tagged,
    Text,
)
from domainwright.maths.listed import listed
from domainwright.maths.spans import spans_of
from domainwright.maths.words import words


def question(row: Row) -> str:
    """Everything the row gives before its answer; "" for plain text.

    System messages are left out: thousands of rows share one.
    """
    match row:
        case Chat():
            return _spoken(row.messages[:-1])
        case Choice():
            return f"{row.context}\n{row.question}" if row.context else row.question
        case Labelled() | Tagged():
            return row.text
        case Preference() | Rated():
            return _spoken(row.prompt)
        case Document():
            return row.heading
    return ""


def answer(row: Row) -> str:
    """What is to be learnt or quoted. Both replies of a preference, in fixed order."""
    match row:
        case Chat():
            return row.answer
        case Choice():
            return row.choices[row.answer]
        case Labelled():
            return row.label
        case Tagged():
            return listed(row.words, spans_of(row.tags))
        case Preference():
            # Exchanged replies are the same content with the opposite judgement.
            return "\n".join(sorted((row.chosen, row.rejected)))
        case Rated():
            return row.reply
        case Text() | Document():
            return row.text
    raise TypeError(f"{type(row).__name__} is no kind of row")


def content(row: Row) -> str:
    """Question and answer together."""
    return f"{question(row)}\n{answer(row)}"


def exact_key(row: Row) -> tuple[str, ...]:
    """Equal for rows that teach the same, whatever their id. Only spacing is ignored."""
    parts: tuple[str, ...]
    match row:
        case Chat():
            parts = _flat(row.messages)
        case Choice():
            parts = (row.question, row.context, answer(row), *sorted(row.choices))
        case Preference():
            parts = (*_flat(row.prompt), row.chosen, row.rejected)
        case Rated():
            parts = (*_flat(row.prompt), row.reply, str(row.wanted))
        case _:
            parts = (question(row), answer(row))
    return (type(row).__name__, *(" ".join(part.split()) for part in parts))


def question_key(row: Row) -> str:
    """Equal for rows that ask the same: normalised words; "" where nothing is asked.

    A preference asks which of two replies is better, a rating asks about one reply.
    """
    match row:
        case Text() | Document():
            return ""
        case Choice():
            asked = f"{question(row)} {' '.join(sorted(row.choices))}"
        case Preference() | Rated():
            asked = content(row)
        case _:
            asked = question(row)
    return " ".join(words(asked))


def judgement(row: Row) -> str:
    """What the row says is right, normalised: rows that ask the same may differ here."""
    match row:
        case Preference():
            return " ".join(words(row.chosen))
        case Rated():
            return str(row.wanted)
        case Tagged():
            return " ".join(row.tags)
    return " ".join(words(answer(row)))


def _spoken(messages: tuple[Message, ...]) -> str:
    return "\n".join(message.content for message in messages if message.role != "system")


def _flat(messages: tuple[Message, ...]) -> tuple[str, ...]:
    return tuple(part for message in messages for part in (message.role, message.content))
