"""Pages and Word documents keep title and section; hostile ones are refused unread."""

import zipfile

import pytest

from domainwright.core.errors import DataError
from domainwright.core.records import Document, Text
from domainwright.curate import _documents
from domainwright.curate.read import read

PAGE = """<html><head><title>Gout &amp; diet</title><script>x()</script></head><body>
<nav><a href="/">Home</a></nav><h1>Causes</h1><p>Uric acid <b>builds up</b>.<p>Slowly.
<h2>Care</h2><ul><li>Drink water</li><li>Rest</li></ul><footer>Imprint</footer></body></html>"""
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(path, body):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", body)
    return path


def paragraph(text, style=""):
    mark = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{mark}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_page_keeps_title_and_sections(tmp_path):
    (tmp_path / "gout.html").write_text(PAGE)
    rows = read(tmp_path / "gout.html", as_documents=True).rows
    assert [(row.title, row.text) for row in rows if isinstance(row, Document)] == [
        ("Gout & diet: Causes", "Uric acid builds up.\n\nSlowly."),
        ("Gout & diet: Care", "Drink water\n\nRest"),
    ]
    assert isinstance(read(tmp_path / "gout.html").rows[0], Text)


def test_a_word_document_keeps_title_and_sections(tmp_path):
    body = paragraph("Terms", "Heading1") + paragraph("Rent is due.") + paragraph("Monthly.")
    file = docx(
        tmp_path / "lease.docx",
        f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
    )
    (row,) = read(file, as_documents=True).rows
    assert (row.title, row.text) == ("lease: Terms", "Rent is due.\n\nMonthly.")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("<a>" + " " * 3_000_000 + "</a>", "MiB unpacked"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "entities"),
        ("<a><b></a>", "damaged"),
    ],
    ids=["bomb", "entities", "broken"],
)
def test_hostile_word_documents_are_refused(tmp_path, body, told):
    with pytest.raises(DataError, match=told):
        read(docx(tmp_path / "x.docx", body))
    (tmp_path / "y.docx").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="no Word document"):
        read(tmp_path / "y.docx")


def test_a_page_without_an_end_and_with_noise(tmp_path, monkeypatch):
    (tmp_path / "x.html").write_bytes(b"<p>caf\xe9\x00 <b><i><u>" + b"<div>" * 20_000 + b"end")
    assert read(tmp_path / "x.html").rows[0].text.startswith("caf")
    monkeypatch.setattr(_documents, "MOST_BYTES", 1_000)
    with pytest.raises(DataError, match="split it"):
        read(tmp_path / "x.html")
