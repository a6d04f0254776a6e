"""Records of CoNLL files: a word a line with its tag, a blank line between sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from domainwright.curate._lines import Fault, Record, flaw
from domainwright.curate._plain import lines_of
from domainwright.maths.spans import is_tag

DOCUMENT = "-DOCSTART-"
_SPACES = re.compile(r"[ \t]+")


def conll(path: Path) -> Iterator[Record | Fault]:
    """One sentence a record: the first column is the word, the last the tag.

    Columns end at tabs, in a file without them at spaces. A line of DOCUMENT begins a document,
    whose sentences are one group. A line with `#` ahead of a sentence is a remark, unless a tag
    ends it.
    """
    sentence, documents = _Sentence(), 0
    for number, line in lines_of(path):
        if isinstance(line, Fault):
            sentence.fault = sentence.fault or line
            sentence.first = sentence.first or number
            continue
        cells = _cells(line)
        if cells[:1] == [DOCUMENT] or not cells:
            yield from sentence.record(path, documents)
            sentence = _Sentence()
            documents += bool(cells)
        elif sentence.words or not _remark(cells):
            sentence.add(number, cells)
    yield from sentence.record(path, documents)


class _Sentence:
    def __init__(self) -> None:
        self.first = 0
        self.words, self.tags = list[str](), list[str]()
        self.fault: Fault | None = None

    def add(self, number: int, cells: list[str]) -> None:
        self.first = self.first or number
        if len(cells) < 2:
            detail = f"line {number} is {cells[0][:60]!r}: a word and its tag were expected"
            self.fault = self.fault or Fault(number, "no_tag", detail)
        elif found := flaw(cells):
            self.fault = self.fault or Fault(number, *found)
        self.words.append(cells[0])
        self.tags.append(cells[-1])

    def record(self, path: Path, documents: int) -> Iterator[Record | Fault]:
        if not self.first:
            return
        if self.fault:
            yield Fault(self.first, self.fault.reason, self.fault.detail)
            return
        group = {"group": f"{path.name}, document {documents}"} if documents else {}
        yield Record(self.first, {"words": self.words, "tags": self.tags, **group})


def _cells(line: str) -> list[str]:
    """The columns of a line; none of a blank one."""
    parts = line.split("\t") if "\t" in line else _SPACES.split(line)
    cells = [part.strip() for part in parts]
    while cells and not cells[-1]:
        cells.pop()
    return cells[next((n for n, cell in enumerate(cells) if cell), 0) :]


def _remark(cells: list[str]) -> bool:
    return cells[0].startswith("#") and not (len(cells) > 1 and is_tag(cells[-1]))
