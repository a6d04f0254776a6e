"""The choices of a question in every shape users store them, and which one is right."""

import itertools
import string
from collections.abc import Iterable, Mapping
from typing import Any

from domainwright.curate._cells import Unusable, kind, pick, unpacked

_PATTERNS = ("{a}", "choice_{a}", "option_{a}", "op{a}", "choice{a}", "option{a}", "answer_{a}")
# Counting from 0 before counting from 1, or option_0 would be left out.
_MARKS = (
    list(string.ascii_lowercase),
    [str(n) for n in range(26)],
    [str(n) for n in range(1, 27)],
)
_FAMILIES = [
    [pattern.format(a=mark) for mark in marks] for pattern in _PATTERNS for marks in _MARKS
]


def letters(columns: Iterable[str]) -> list[str]:
    """Names of the columns that hold one choice each, in order; [] for fewer than two.

    They end at the first gap: behind it a letter and a position would differ.
    """
    present = set(columns)
    for family in _FAMILIES:
        found = list(itertools.takewhile(present.__contains__, family))
        if len(found) > 1:
            return found
    return []


def listed(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[list[str], list[Any]]:
    """(labels, choices). Labels are [] where the file gives none.

    Raises:
        Unusable: no choices, or in no shape that is known.
    """
    value = unpacked(pick(record, names))
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels = value.get("label")
        if not isinstance(labels, list) or len(labels) != len(value["text"]):
            raise Unusable("wrong_type", "the choices have not one label each")
        return [str(label).strip() for label in labels], value["text"]
    if isinstance(value, dict):
        return [str(label).strip() for label in value], list(value.values())
    if isinstance(value, list):
        if value and all(isinstance(item, dict) for item in value):
            return _objects(value)
        return [], value
    own = letters(record)
    if value is None and own:
        values = [record[name] for name in own]
        # A table gives every row the columns of its longest question.
        while values and (values[-1] is None or not str(values[-1]).strip()):
            values.pop()
        return [], values
    if value is None or value == "":
        raise Unusable("too_few_choices", "there are no choices")
    raise Unusable("wrong_type", f"the choices are {kind(value)}, not a list")


def _objects(items: list[dict[str, Any]]) -> tuple[list[str], list[Any]]:
    labels = [pick(item, ("label", "key", "id")) for item in items]
    values = [pick(item, ("text", "value", "content")) for item in items]
    given = all(label is not None for label in labels)
    return ([str(label).strip() for label in labels] if given else []), values


def right_one(answer: Any, labels: list[str], choices: tuple[str, ...]) -> int:
    """Index of the right choice.

    Raises:
        Unusable: the answer names no choice, or could name two.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if answer is None or answer == "":
        raise Unusable("answer_out_of_range", f"no answer is given for {len(choices)} choices")
    if isinstance(answer, bool) or not isinstance(answer, (int, str)):
        raise Unusable("wrong_type", f"the answer is {kind(answer)}")
    if isinstance(answer, int):
        # Labels "1", "2", … count from 1; an index without labels counts from 0.
        named = [str(answer)] if str(answer) in labels else []
        found = {labels.index(named[0])} if named else {answer} & set(range(len(choices)))
    else:
        found = _named(answer.strip(), labels, choices)
    if not found:
        raise Unusable(
            "answer_out_of_range",
            f"the answer is {kind(answer)}; the {len(choices)} choices count from 0",
        )
    if len(found) > 1:
        raise Unusable(
            "ambiguous_answer", f"the answer {answer!r} is one choice's text and another's place"
        )
    return found.pop()


def _named(answer: str, labels: list[str], choices: tuple[str, ...]) -> set[int]:
    """Every choice that a text can mean: by label, by its own text, by letter, by index."""
    mark = answer.strip("().: ").upper()
    for name in (answer, mark):
        if name in labels:
            return {labels.index(name)}
    found = {choices.index(answer)} if answer in choices else set[int]()
    if len(mark) == 1 and mark in string.ascii_uppercase and not labels:
        found.add(string.ascii_uppercase.index(mark))
    if answer.isdecimal() and answer.isascii() and not any(map(str.isdecimal, labels)):
        found.add(int(answer[:6]))
    return {place for place in found if place < len(choices)}
