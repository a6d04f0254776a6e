"""HTML pages and Word documents to records: title, section and text, one record per section.

Both come from strangers. A .docx is a zip archive: its size unpacked is checked before
anything is read, and XML that declares entities is refused.
"""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from domainwright.core.errors import DataError
from domainwright.curate._lines import Fault, Record
from domainwright.curate._sections import Paragraph, sections

MOST_BYTES = 64 * 2**20
"""Of one page, or of a document unpacked."""
_MOST_RATIO = 200
"""Unpacked over packed size; text reaches 20, a zip bomb thousands."""
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HIDDEN = frozenset("script style noscript template svg nav footer head".split())
_BLOCKS = frozenset(
    "p div li tr br table ul ol dl dt dd section article header main blockquote pre figure".split()
)
_TITLE = -1
"""Level of a paragraph that is the title."""


def html_page(path: Path) -> Iterator[Record | Fault]:
    """The sections of a page; menus, scripts and footers are left out."""
    if path.stat().st_size > MOST_BYTES:
        raise _too_large(path, path.stat().st_size)
    page = _Page()
    page.feed(path.read_bytes().decode("utf-8", "replace").replace("\x00", ""))
    page.close()
    page.end()
    title = " ".join(page.title.split()) or path.stem
    return sections(_numbered(page.paragraphs), title)


def word_document(path: Path) -> Iterator[Record | Fault]:
    """The sections of a .docx file, by its heading styles."""
    try:
        with zipfile.ZipFile(path) as archive:
            body = _part(archive, "word/document.xml", path)
            named = "word/styles.xml" in archive.namelist()
            levels = _levels(_part(archive, "word/styles.xml", path)) if named else {}
    except (zipfile.BadZipFile, zlib.error, KeyError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{path} is no Word document ({error}).", "save it as .docx again, or as .txt."
        ) from error
    found = [_paragraph(node, levels) for node in body.iter(f"{_WORD}p")]
    titles = [text.strip() for level, text in found if level == _TITLE and text.strip()]
    title = titles[0] if titles else path.stem
    return sections(_numbered((abs(level), text) for level, text in found), title)


def _part(archive: zipfile.ZipFile, name: str, path: Path) -> ElementTree.Element:
    """A file of the archive, parsed if it is neither too large nor hostile."""
    entry = archive.getinfo(name)
    if entry.file_size > MOST_BYTES or entry.file_size > _MOST_RATIO * max(1, entry.compress_size):
        raise _too_large(path, entry.file_size)
    with archive.open(entry) as file:
        # The size an archive states may be a lie.
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise _too_large(path, len(data))
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{path} declares XML entities.", "save it as .docx again, or as .txt.")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is damaged ({error}).", "save it as .docx again.") from error


def _levels(styles: ElementTree.Element) -> dict[str, int]:
    """Style -> level of the heading that it makes. Ids are translated, names are not."""
    found = {}
    for style in styles.iter(f"{_WORD}style"):
        name = style.find(f"{_WORD}name")
        level = _level(name.get(f"{_WORD}val", "") if name is not None else "")
        if level:
            found[style.get(f"{_WORD}styleId", "").lower()] = level
    return found


def _level(name: str) -> int:
    name = name.lower()
    if name.startswith("heading"):
        return int(name[-1]) if name[-1] in "123456789" else 1
    return _TITLE if name.startswith("title") else 0


def _numbered(found: Iterable[tuple[int, str]]) -> Iterator[Paragraph]:
    """(level, text) as paragraphs; their lines are their numbers."""
    return (Paragraph(n, text, level) for n, (level, text) in enumerate(found, 1))


def _paragraph(node: ElementTree.Element, levels: Mapping[str, int]) -> tuple[int, str]:
    """(level, text)."""
    style = node.find(f"{_WORD}pPr/{_WORD}pStyle")
    name = style.get(f"{_WORD}val", "").lower() if style is not None else ""
    signs = {f"{_WORD}tab": " ", f"{_WORD}br": "\n"}
    found = (e.text or "" if e.tag == f"{_WORD}t" else signs.get(e.tag, "") for e in node.iter())
    return levels.get(name) or _level(name), "".join(found)


class _Page(HTMLParser):
    """Collects paragraphs. Unclosed tags, which are common, only end a paragraph late."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.paragraphs = list[tuple[int, str]]()
        """(level, text)."""
        self._words, self._hidden, self._level = list[str](), list[str](), 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "title":
            self._in_title = True
        elif tag in _HIDDEN:
            self._hidden.append(tag)
        elif tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.end()
            self._level = int(tag[1]) if tag[1:].isdigit() else 0

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in _BLOCKS or re.fullmatch("h[1-6]", tag):
            self.end()
            self._level = 0

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._hidden:
            self._words.append(data)

    def end(self) -> None:
        text = " ".join("".join(self._words).split())
        if text:
            self.paragraphs.append((self._level, text))
        self._words.clear()


def _too_large(path: Path, size: int) -> DataError:
    return DataError(
        f"{path} holds {size / 2**20:,.0f} MiB unpacked; the limit is {MOST_BYTES // 2**20} MiB.",
        "split it, or save its text as .txt.",
    )
