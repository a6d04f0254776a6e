"""Records of plain text: paragraphs, joined up to about `BLOCK_CHARS` characters."""

from collections.abc import Iterator
from pathlib import Path

from domainwright.curate._lines import Fault, Lines, Record, opened

BLOCK_CHARS = 2_000


def plain_text(path: Path) -> Iterator[Record | Fault]:
    """Blocks of whole paragraphs. The line of a record is the block's first line."""
    first, parts, chars = 0, list[str](), 0
    for paragraph in _paragraphs(path):
        text = "" if isinstance(paragraph, Fault) else paragraph.data["text"]
        if parts and (not text or chars + len(text) > BLOCK_CHARS):
            yield Record(first, {"text": "\n\n".join(parts)})
            parts, chars = [], 0
        if isinstance(paragraph, Fault):
            yield paragraph
            continue
        first = first if parts else paragraph.line
        parts.append(text)
        chars += len(text)
    if parts:
        yield Record(first, {"text": "\n\n".join(parts)})


def _paragraphs(path: Path) -> Iterator[Record | Fault]:
    """Lines between blank lines; a paragraph over BLOCK_CHARS is cut between two lines."""
    first, parts, chars = 0, list[str](), 0
    for number, line in lines_of(path):
        text = "" if isinstance(line, Fault) else line
        if parts and (not text.strip() or chars + len(text) > BLOCK_CHARS):
            yield Record(first, {"text": "\n".join(parts)})
            parts, chars = [], 0
        if isinstance(line, Fault):
            yield line
        elif text.strip():
            first = first if parts else number
            parts.append(text)
            chars += len(text)
    if parts:
        yield Record(first, {"text": "\n".join(parts)})


def lines_of(path: Path) -> Iterator[tuple[int, str | Fault]]:
    """(number, line) without line ends; a fault where a line is no text."""
    with opened(path) as file:
        lines = Lines(file, path)
        for raw in lines:
            yield lines.number, _text(raw, lines.number, lines.cut)


def _text(raw: bytes, number: int, cut: bool) -> str | Fault:
    if cut:
        return Fault(number, "line_too_long", "the line is longer than 16 MiB")
    if b"\x00" in raw:
        return Fault(number, "nul_byte", f"a NUL byte at position {raw.index(0) + 1} of the line")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        found = raw[error.start]
        return Fault(number, "not_utf8", f"byte 0x{found:02x} at position {error.start + 1}")
