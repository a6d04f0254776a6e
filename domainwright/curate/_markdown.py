"""Markdown to records, cut at its headings. A file without headings is plain text.

Signs of a heading inside a code fence are code. Lists, tables and code stay whole, up to
`MOST_WHOLE` characters.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from domainwright.curate._lines import Fault, Record
from domainwright.curate._plain import BLOCK_CHARS, lines_of, plain_text
from domainwright.curate._sections import Paragraph, sections

MOST_WHOLE = 20_000
_MOST_HEADING = 300
"""Characters of a heading; a longer line is text that begins with "#"."""
_FRONT_LINES = 200
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*")
_FENCE = re.compile(r"\s*(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_TABLE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-*:?\s*)+")
_TITLE = re.compile(r"title:\s*(.+)", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


def markdown(path: Path) -> Iterator[Record | Fault]:
    """The sections of a file, each under the title of the document.

    The title is that of the front matter, else the highest heading where there is one only,
    else the file's name.
    """
    front, given = _front_matter(path)
    levels = list[int]()
    first = ""
    for item in _Blocks(path, front):
        if isinstance(item, Paragraph) and item.level:
            first = first or item.text
            if len(levels) < 2 or item.level <= levels[0]:
                levels.append(item.level)
    alone = bool(levels) and all(level > levels[0] for level in levels[1:])
    title = given or (first if alone else "")
    found = sections(_Blocks(path, front), title) if levels else iter(())
    head = list(islice(found, 1))
    if head:
        yield from head
        yield from found
        return
    for record in plain_text(path):
        if isinstance(record, Record) and title:
            record = Record(record.line, {"title": title, **record.data})
        yield record


def _front_matter(path: Path) -> tuple[int, str]:
    """(lines between two "---" that begin the file, the title in them); 0 where there are none."""
    title = ""
    for number, line in islice(lines_of(path), _FRONT_LINES):
        text = "" if isinstance(line, Fault) else line.rstrip()
        if number == 1 and text != "---":
            break
        if number > 1 and text in ("---", "..."):
            return number, title
        if named := _TITLE.fullmatch(text):
            title = named[1].strip().strip("\"'").strip()[:_MOST_HEADING]
    return 0, ""


class _Blocks:
    """The headings, paragraphs, lists, tables and code of a file, in order.

    Args:
        front: lines of front matter, which are passed over.
    """

    def __init__(self, path: Path, front: int) -> None:
        self._path, self._front = path, front
        self._lines, self._first, self._chars = list[str](), 0, 0
        self._whole = self._list = False
        self._fence = ""

    def __iter__(self) -> Iterator[Paragraph | Fault]:
        for number, line in lines_of(self._path):
            if isinstance(line, Fault):
                yield from self._flushed()
                yield line
            elif number > self._front:
                yield from self._next(number, line)
        yield from self._flushed()

    def _next(self, number: int, line: str) -> Iterator[Paragraph]:
        inside = self._list and line[:1].isspace()
        if self._fence:
            yield from self._add(number, line)
            if line.strip().startswith(self._fence) and not line.strip().strip(self._fence[0]):
                self._fence = ""
                if not self._list:
                    yield from self._flushed()
        elif not line.strip():
            if self._list:
                yield from self._add(number, "")
            else:
                yield from self._flushed()
        elif (fence := _FENCE.match(line)) and (inside or not line.startswith("    ")):
            if not inside:
                yield from self._flushed()
            self._fence, self._whole = fence[1], True
            yield from self._add(number, line)
        elif not inside and (heading := _heading(line)):
            yield from self._flushed()
            yield Paragraph(number, heading[1], heading[0])
        elif self._underlined(line):
            text = _plain(self._lines[0])
            self._clear()
            yield Paragraph(number - 1, text, 1 if "=" in line else 2)
        else:
            yield from self._text(number, line, inside)

    def _text(self, number: int, line: str, inside: bool) -> Iterator[Paragraph]:
        item = _ITEM.match(line) is not None
        if self._list and self._lines[-1] == "" and not item and not inside:
            yield from self._flushed()
        if item:
            self._list = self._whole = True
        elif _TABLE.fullmatch(line):
            self._whole = True
        yield from self._add(number, line)

    def _add(self, number: int, line: str) -> Iterator[Paragraph]:
        most = MOST_WHOLE if self._whole else BLOCK_CHARS
        if self._lines and self._chars + len(line) > most:
            kept = self._whole, self._list
            yield from self._flushed()
            self._whole, self._list = kept
        if not self._lines:
            self._first = number
        self._lines.append(line)
        self._chars += len(line)

    def _underlined(self, line: str) -> bool:
        """Whether `line` makes the one line before it a heading."""
        return (
            len(self._lines) == 1
            and not self._whole
            and len(self._lines[0]) <= _MOST_HEADING
            and _UNDERLINE.fullmatch(line) is not None
        )

    def _flushed(self) -> Iterator[Paragraph]:
        text = "\n".join(self._lines).strip("\n").rstrip()
        if text:
            yield Paragraph(self._first, text)
        self._clear()

    def _clear(self) -> None:
        self._lines, self._chars = [], 0
        self._whole = self._list = False


def _heading(line: str) -> tuple[int, str] | None:
    if len(line) > _MOST_HEADING or not (found := _HEADING.fullmatch(line)):
        return None
    text = _plain(found[2])
    return (len(found[1]), text) if text else None


def _plain(text: str) -> str:
    """The words of a heading without signs of emphasis, links and anchors."""
    text = re.sub(r"\{#[^}]*\}\s*$", "", _LINK.sub(r"\1", text))
    return text.replace("**", "").replace("__", "").replace("`", "").strip(" *#")
