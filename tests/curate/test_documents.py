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
    assert [(row.heading, row.text) for row in rows if isinstance(row, Document)] == [
        ("Gout & diet: Causes", "Uric acid builds up.\n\nSlowly."),
        ("Gout & diet: Causes > Care", "Drink water\n\nRest"),
    ]
    assert [(row.title, row.section, row.line) for row in rows] == [
        ("Gout & diet", "Causes", 2),
        ("Gout & diet", "Causes > Care", 5),
    ]
    assert isinstance(read(tmp_path / "gout.html").rows[0], Text)


def test_a_word_document_keeps_title_and_sections(tmp_path):
    body = paragraph("Terms", "Heading1") + paragraph("Rent is due.") + paragraph("Monthly.")
    file = docx(
        tmp_path / "lease.docx",
        f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>',
    )
    (row,) = read(file, as_documents=True).rows
    assert (row.title, row.section) == ("lease", "Terms")
    assert row.text == "Rent is due.\n\nMonthly."


def test_a_word_document_by_its_title_and_nested_headings(tmp_path):
    body = paragraph("Lease", "Title") + paragraph("Rent", "Heading1") + paragraph("Due.")
    body += paragraph("Late", "Heading2") + paragraph("Fee.") + paragraph("End", "Heading1")
    body += paragraph("Notice.")
    file = docx(
        tmp_path / "x.docx", f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    )
    rows = read(file, as_documents=True).rows
    assert [(row.title, row.section, row.text) for row in rows] == [
        ("Lease", "Rent", "Due."),
        ("Lease", "Rent > Late", "Fee."),
        ("Lease", "End", "Notice."),
    ]


def test_styles_with_translated_ids_are_known_by_their_names(tmp_path):
    names = {"berschrift1": "heading 1", "berschrift2": "heading 2", "Titel": "Title", "x": "Code"}
    styles = "".join(
        f'<w:style w:styleId="{own}"><w:name w:val="{name}"/></w:style>'
        for own, name in names.items()
    )
    body = paragraph("Vertrag", "Titel") + paragraph("Miete", "berschrift1")
    body += paragraph("Frist", "berschrift2") + paragraph("Am Ersten.", "x")
    file = docx(
        tmp_path / "x.docx", f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    )
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/styles.xml", f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>')
    (row,) = read(file, as_documents=True).rows
    assert (row.heading, row.text) == ("Vertrag: Miete > Frist", "Am Ersten.")
    with zipfile.ZipFile(docx(tmp_path / "y.docx", "<a/>"), "a") as archive:
        archive.writestr("word/styles.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a/>')
    with pytest.raises(DataError, match="entities"):
        read(tmp_path / "y.docx")


def test_the_title_of_a_page_is_not_said_twice(tmp_path):
    (tmp_path / "x.html").write_text("<title>Gout</title><h1>Gout</h1><p>A<h2>Care</h2><p>B")
    rows = read(tmp_path / "x.html", as_documents=True).rows
    assert [row.heading for row in rows] == ["Gout", "Gout: Care"]


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
