"""What is asked, out of rows or out of a file whose records may lack answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domainwright.core.errors import DataError
from domainwright.core.records import Row
from domainwright.curate import files
from domainwright.curate._cells import column
from domainwright.curate._lines import Fault
from domainwright.curate.content import answer, question
from domainwright.curate.read import read
from domainwright.curate.readers.prompt_completion import PromptCompletion

NAMES = (*PromptCompletion.columns["question"], "text")


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    group: str


def questions_of(rows: Sequence[Row]) -> list[Question]:
    """Of plain text, the text itself."""
    return [Question(question(row) or answer(row), row.group) for row in rows]


def read_questions(path: Path) -> tuple[list[Question], Counter[str]]:
    """(questions of a file, reason -> records that hold none).

    Raises:
        DataError: the file cannot be read, or no record has a question.
    """
    try:
        result = read(path)
    except DataError as error:
        found, aside = _bare(path)
        if not found:
            raise error
        return found, aside
    return questions_of(result.rows), Counter(x.reason for x in result.set_aside)


def _bare(path: Path) -> tuple[list[Question], Counter[str]]:
    """Questions that stand without an answer, each a group of its own unless the file says."""
    found, aside = list[Question](), Counter[str]()
    for number, item in enumerate(files.records(path), 1):
        if isinstance(item, Fault):
            aside[item.reason] += 1
            continue
        name = column(item.data, NAMES)
        text = item.data.get(name) if name else None
        if not isinstance(text, str) or not text.strip():
            aside["no_question"] += 1
            continue
        group = item.data.get("group")
        found.append(Question(text.strip(), str(group) if group is not None else f"{number}"))
    return found, aside
