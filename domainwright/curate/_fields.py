"""The texts of a row by the part they play, and a row with some of them changed."""

from collections.abc import Callable
from dataclasses import replace

from domainwright.core.records import (
    Chat,
    Choice,
    Document,
    Extraction,
    Labelled,
    Message,
    Preference,
    Rated,
    Row,
    Tagged,
    Text,
)

ANSWERS = ("answer", "text")
"""Parts that a model learns to write; the others are what it reads."""


def parts(row: Row) -> list[tuple[str, str]]:
    """(part, text) in order. Parts: system, question, answer, context, choice, title, section,
    text."""
    match row:
        case Chat():
            return _turns(row.messages)
        case Choice():
            asked = [("question", row.question), ("context", row.context)]
            return asked + [("choice", choice) for choice in row.choices]
        case Preference():
            return [*_turns(row.prompt), ("answer", row.chosen), ("answer", row.rejected)]
        case Rated():
            return [*_turns(row.prompt), ("answer", row.reply)]
        case Text() | Labelled() | Tagged():
            # Not the label: it is compared with those of other rows, sign for sign.
            return [("text", row.text)]
        case Document():
            section = [("section", row.section)] if row.section else []
            return [("title", row.title), *section, ("text", row.text)]
    raise TypeError(f"{type(row).__name__} is no kind of row")


def learnt(row: Row) -> list[str]:
    """The texts that a model learns to write: the last answer, both replies, the text.

    Of a choice row it is what stands before its choices: context and question.
    """
    match row:
        case Chat():
            return [row.answer]
        case Choice():
            return [row.context, row.question]
    return [text for part, text in parts(row)[-2:] if part in ANSWERS]


def mapped(row: Row, change: Callable[[str, str], str]) -> Row:
    """The row with `change(part, text)` instead of every text; the same object if none changed.

    Also of a tagged row whose text would have more words or fewer: tags would slip.
    """
    before = parts(row)
    after = [change(part, text) for part, text in before]
    if all(new == old for new, (_, old) in zip(after, before, strict=True)):
        return row
    if isinstance(row, Extraction):
        return row
    match row:
        case Chat():
            return replace(row, messages=_spoken(row.messages, after))
        case Choice():
            return replace(row, question=after[0], context=after[1], choices=tuple(after[2:]))
        case Preference():
            prompt = _spoken(row.prompt, after[:-2])
            return replace(row, prompt=prompt, chosen=after[-2], rejected=after[-1])
        case Rated():
            return replace(row, prompt=_spoken(row.prompt, after[:-1]), reply=after[-1])
        case Text() | Labelled():
            return replace(row, text=after[0])
        case Tagged():
            words = tuple(after[0].split(" "))
            fits = len(words) == len(row.words) and all(words)
            return replace(row, words=words) if fits else row
        case Document():
            section = after[1] if row.section else ""
            return replace(row, title=after[0], section=section, text=after[-1])
    raise TypeError(f"{type(row).__name__} is no kind of row")


def _turns(messages: tuple[Message, ...]) -> list[tuple[str, str]]:
    names = {"system": "system", "user": "question", "text": "question", "assistant": "answer"}
    return [(names[message.role], message.content) for message in messages]


def _spoken(messages: tuple[Message, ...], texts: list[str]) -> tuple[Message, ...]:
    return tuple(Message(m.role, text) for m, text in zip(messages, texts, strict=True))
