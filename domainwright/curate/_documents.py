"""HTML pages and Word documents to records: title, section and text, one record per section.

Both come from strangers. A .docx is a zip archive: its size unpacked is checked before
anything is read, and XML that declares entities is refused.
"""

import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from domainwright.core.errors import DataError
from domainwright.curate._lines import Fault, Record, flaw
from domainwright.curate._plain import BLOCK_CHARS

MOST_BYTES = 64 * 2**20
"""Of one page, or of a document unpacked."""
_MOST_RATIO = 200
"""Unpacked over packed size; text reaches 20, a zip bomb thousands."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HIDDEN = frozenset("script style noscript template svg nav footer head".split())
_BLOCKS = frozenset(
    "p div li tr br table ul ol dl dt dd section article header main blockquote pre figure".split()
)
Paragraph = tuple[bool, str]
"""(whether it is a heading, text)."""


def html_page(path: Path) -> Iterator[Record | Fault]:
    """The sections of a page; menus, scripts and footers are left out."""
    if path.stat().st_size > MOST_BYTES:
        raise _too_large(path, path.stat().st_size)
    page = _Page()
    page.feed(path.read_bytes().decode("utf-8", "replace").replace("\x00", ""))
    page.close()
    page.end()
    return _sections(page.paragraphs, page.title.strip() or path.stem)


def word_document(path: Path) -> Iterator[Record | Fault]:
    """The sections of a .docx file, by its heading styles."""
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("word/document.xml")
            if entry.file_size > MOST_BYTES or (
                entry.file_size > _MOST_RATIO * max(1, entry.compress_size)
            ):
                raise _too_large(path, entry.file_size)
            with archive.open(entry) as file:
                # The size an archive states may be a lie.
                data = file.read(MOST_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{path} is no Word document ({error}).", "save it as .docx again, or as .txt."
        ) from error
    if len(data) > MOST_BYTES:
        raise _too_large(path, len(data))
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{path} declares XML entities.", "save it as .docx again, or as .txt.")
    try:
        body = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is damaged ({error}).", "save it as .docx again.") from error
    return _sections([_paragraph(node) for node in body.iter(f"{_WORD}p")], path.stem)


def _paragraph(node: ElementTree.Element) -> Paragraph:
    style = node.find(f"{_WORD}pPr/{_WORD}pStyle")
    name = style.get(f"{_WORD}val", "") if style is not None else ""
    signs = {f"{_WORD}tab": " ", f"{_WORD}br": "\n"}
    found = (e.text or "" if e.tag == f"{_WORD}t" else signs.get(e.tag, "") for e in node.iter())
    return name.lower().startswith(("heading", "title")), "".join(found)


class _Page(HTMLParser):
    """Collects paragraphs. Unclosed tags, which are common, only end a paragraph late."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.paragraphs = list[Paragraph]()
        self._words, self._hidden, self._heading = list[str](), list[str](), False
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "title":
            self._in_title = True
        elif tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.end()
            self._heading = tag[0] == "h" and tag[1:].isdigit()

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.end()
            self._heading = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self._words.append(data)

    def end(self) -> None:
        text = " ".join("".join(self._words).split())
        if text:
            self.paragraphs.append((self._heading, text))
        self._words.clear()


def _sections(paragraphs: list[Paragraph], title: str) -> Iterator[Record | Fault]:
    """Records of one section each, long ones cut between paragraphs; `line` counts paragraphs."""
    section, parts, first = "", list[str](), 0
    for number, (heading, text) in enumerate([*paragraphs, (True, "")], 1):
        text = text.strip()
        full = sum(map(len, parts)) + len(text) > BLOCK_CHARS
        if parts and (heading or full):
            data = {"title": f"{title}: {section}" if section else title}
            data |= {"section": section, "text": "\n\n".join(parts)}
            found = flaw(data)
            yield Fault(first, *found) if found else Record(first, data)
            parts = []
        if heading:
            section = text
        elif text:
            first = first if parts else number
            parts.append(text)


def _too_large(path: Path, size: int) -> DataError:
    return DataError(
        f"{path} holds {size / 2**20:,.0f} MiB unpacked; the limit is {MOST_BYTES // 2**20} MiB.",
        "split it, or save its text as .txt.",
    )
