"""Paragraphs and headings to records: title, path of headings and text, one record per section."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from domainwright.curate._lines import Fault, Record, flaw
from domainwright.curate._plain import BLOCK_CHARS

BETWEEN = " > "
"""Between the headings of a path."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A piece of a document that is not cut."""

    line: int
    text: str
    level: int = 0
    """Of a heading, from 1; 0: no heading."""


class Outline:
    """The headings above a place in a document."""

    def __init__(self, title: str) -> None:
        self._title, self._above = title, list[tuple[int, str]]()

    def enter(self, level: int, heading: str) -> None:
        self._above = [entry for entry in self._above if entry[0] < level]
        self._above.append((level, heading))

    @property
    def path(self) -> str:
        """The headings from the highest down, without the document's own title."""
        return BETWEEN.join(text for _, text in self._above if text != self._title)


def sections(found: Iterable[Paragraph | Fault], title: str) -> Iterator[Record | Fault]:
    """Records of one section each, long ones cut between paragraphs."""
    outline, parts, first = Outline(title), list[str](), 0
    for item in found:
        text = "" if isinstance(item, Fault) else item.text.strip()
        ends = isinstance(item, Fault) or item.level > 0
        if parts and (ends or sum(map(len, parts)) + len(text) > BLOCK_CHARS):
            yield _record(first, title, outline.path, parts)
            parts = []
        if isinstance(item, Fault):
            yield item
        elif item.level:
            outline.enter(item.level, text)
        elif text:
            first = first if parts else item.line
            parts.append(text)
    if parts:
        yield _record(first, title, outline.path, parts)


def _record(line: int, title: str, section: str, parts: list[str]) -> Record | Fault:
    data: dict[str, Any] = {"title": title, "section": section, "text": "\n\n".join(parts)}
    found = flaw(data)
    return Fault(line, *found) if found else Record(line, data)
