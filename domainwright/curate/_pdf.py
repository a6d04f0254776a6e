"""The pages of a PDF to records: title, page number and text. Read by the library pypdf, an extra.

PDFs come from strangers, so the file, its pages and everything unpacked from it have limits.
A page without text, such as a scan, is set aside; an encrypted or damaged file is refused.
"""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from domainwright.core.errors import CapabilityError
from domainwright.curate._lines import Fault, Record, Refused, flaw

MOST_BYTES = 64 * 2**20
MOST_PAGES = 5_000
MOST_PAGE_CHARS = 200_000
_LIMITS: dict[str, Any] = {
    "zlib_maximum_output_length": 32 * 2**20,
    "lzw_maximum_output_length": 32 * 2**20,
    "run_length_maximum_output_length": 32 * 2**20,
    "stream_parsing_work_maximum_count": 1_000_000,
    "xform_maximum_invocations_per_extraction": 100,
    "page_tree_maximum_entries": 2 * MOST_PAGES,
}
"""Of pypdf: bytes unpacked from one stream, parts of a page, drawings in drawings, tree nodes."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NO_TITLE = re.compile(r"untitled.*|microsoft word - .*|.*\.(docx?|pdf|tex|dvi|indd|rtf|txt)", re.I)


def pdf_pages(path: Path) -> Iterator[Record | Fault]:
    """One record for each page with text; `line` is the number of the page.

    Raises:
        CapabilityError: pypdf is not installed.
        Refused: encrypted, damaged, too large, or no page has text.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _refused(path, "too_large", f"has {size / 2**20:,.0f} MiB; the limit is 64 MiB")
    title, pages = _read(path)
    if all(isinstance(page, Fault) and page.reason == "no_text" for page in pages):
        raise Refused(
            "no_text",
            f"{path} holds no text on its {len(pages)} pages: they are pictures, or blank.",
            "run text recognition (OCR) on it, and give its result.",
        )
    for number, page in enumerate(pages, 1):
        if isinstance(page, Fault):
            yield page
            continue
        data: dict[str, Any] = {"title": title, "page": number, "text": page}
        found = flaw(data)
        yield Fault(number, *found) if found else Record(number, data)


def _read(path: Path) -> tuple[str, list[str | Fault]]:
    """(title or "", the text of every page)."""
    try:
        from pypdf import PdfReader, apply_configuration
    except ImportError as error:
        raise CapabilityError(
            f"{path} is a PDF; pypdf, which reads PDFs, is not installed or older than 7.1.",
            "run: pip install 'domainwright[pdf]'",
        ) from error
    # It tells its repairs through logging; what comes of them is told as faults.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    data = path.read_bytes()
    with apply_configuration(**_LIMITS):
        # Whatever breaks inside the parser of a file from anywhere is a flaw of that file.
        try:
            reader = PdfReader(io.BytesIO(data))
            encrypted = reader.is_encrypted
            count = 0 if encrypted else len(reader.pages)
        except Exception as error:
            if b"/Encrypt" not in data:
                raise _refused(path, "damaged_pdf", f"is damaged ({_words(error)})") from error
            encrypted = True
        if encrypted:
            raise _refused(path, "encrypted_pdf", "is encrypted")
        if not 0 < count <= MOST_PAGES:
            reason = "too_large" if count else "damaged_pdf"
            raise _refused(path, reason, f"has {count:,} pages; 1 to {MOST_PAGES:,} are read")
        pages = [_page(reader, number) for number in range(1, count + 1)]
        return _title(reader), pages


def _page(reader: Any, number: int) -> str | Fault:
    try:
        text = reader.pages[number - 1].extract_text()
    except Exception as error:
        return Fault(number, "damaged_page", f"page {number} cannot be read ({_words(error)})")
    if len(text) > MOST_PAGE_CHARS:
        detail = f"page {number} has {len(text):,} characters; the limit is {MOST_PAGE_CHARS:,}"
        return Fault(number, "too_large", detail)
    lines = [_CONTROL.sub("", line).rstrip() for line in text.split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return text or Fault(number, "no_text", f"page {number} is a picture, or blank")


def _title(reader: Any) -> str:
    """The title that its author gave; "" where there is none but a file's name."""
    try:
        title = " ".join(_CONTROL.sub(" ", str(reader.metadata.title or "")).split())
    except Exception:
        return ""
    usable = any(char.isalpha() for char in title) and len(title) <= 300 and not flaw(title)
    return title if usable and not _NO_TITLE.fullmatch(title) else ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]


def _refused(path: Path, reason: str, told: str) -> Refused:
    fixes = {
        "encrypted_pdf": "save it without a password, or give its text.",
        "too_large": "split it, or give its text.",
    }
    return Refused(reason, f"{path} {told}.", fixes.get(reason, "save it again, or give its text."))
