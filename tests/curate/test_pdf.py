"""PDFs by the page; what cannot be read says why. The files are written here, byte by byte."""

import random
import sys
import zlib
from collections import Counter

import pytest

from domainwright.core.errors import CapabilityError, DataError
from domainwright.core.records import Text
from domainwright.curate import _pdf
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.read import read

FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def page_text(text):
    lines = "".join(f"({line}) Tj T* " for line in text.split("\n"))
    return f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET" if text else ""


def pdf(pages, *, title="", trailer="", squeeze=False, forms=()):
    """A PDF with one content stream for each of `pages`.

    Args:
        forms: drawings that a page can call as /X0, /X1 and so on.
    """
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", FONT, f"<< /Title ({title}) >>"]
    own = " ".join(f"/X{n} {n + 5} 0 R" for n in range(len(forms)))
    shared = f"/Resources << /Font << /F1 3 0 R >> /XObject << {own} >> >>"
    for form in forms:
        head = f"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] {shared} /Length {len(form)} >>"
        objects.append(f"{head}\nstream\n{form}\nendstream")
    kids = []
    for content in pages:
        data = content.encode("latin-1")
        data = zlib.compress(data) if squeeze else data
        packed = " /Filter /FlateDecode" if squeeze else ""
        head = f"<< /Length {len(data)}{packed} >>"
        objects.append(f"{head}\nstream\n{data.decode('latin-1')}\nendstream")
        objects.append(f"<< /Type /Page /Parent 2 0 R {shared} /Contents {len(objects)} 0 R >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R {trailer} >>"
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    return out + f"{head}{table}{end}\nstartxref\n{len(out)}\n%%EOF\n".encode("latin-1")


@pytest.fixture
def file(tmp_path):
    def write(*pages, name="book.pdf", **how):
        (tmp_path / name).write_bytes(pdf(pages, **how))
        return tmp_path / name

    return write


@pytest.mark.parametrize("squeeze", [False, True], ids=["plain", "packed"])
def test_pages_keep_title_and_number(file, squeeze):
    path = file(
        page_text("Take two\na day."), page_text("Not more."), title="Doses", squeeze=squeeze
    )
    rows = read(path, as_documents=True).rows
    assert [(row.title, row.page, row.text, row.line, row.id) for row in rows] == [
        ("Doses", 1, "Take two\na day.", 1, "book:1"),
        ("Doses", 2, "Not more.", 2, "book:2"),
    ]
    assert [row.text for row in read(path).rows if isinstance(row, Text)] == [
        "Take two\na day.",
        "Not more.",
    ]


@pytest.mark.parametrize("title", ["", "Microsoft Word - a.doc", "a.tex", "Untitled", "123"])
def test_without_a_title_the_name_of_the_file_is_it(file, title):
    assert read(file(page_text("a"), title=title), as_documents=True).rows[0].title == "book"


def test_a_page_without_text_costs_only_itself(file):
    result = read(file(page_text("a"), "", "0 0 m 9 9 l S", page_text("d")), as_documents=True)
    assert [row.page for row in result.rows] == [1, 4] and result.records == 4
    assert [(s.line, s.reason) for s in result.set_aside] == [(2, "no_text"), (3, "no_text")]


def refused(tmp_path):
    """Name -> (bytes, reason)."""
    whole = pdf([page_text("a")])
    return {
        "scan": (pdf(["", ""]), "no_text"),
        "locked": (
            pdf([page_text("a")], trailer="/Encrypt << /Filter /Standard /V 4 /R 4 >>"),
            "encrypted_pdf",
        ),
        "odd_lock": (pdf([page_text("a")], trailer="/Encrypt 3"), "encrypted_pdf"),
        "noise": (bytes(range(256)) * 20, "damaged_pdf"),
        "cut": (whole[:60], "damaged_pdf"),
        "pages": (whole.replace(b"/Type /Pages", b"/Type /Sages"), "damaged_pdf"),
        "empty_tree": (pdf([]), "damaged_pdf"),
        "bare": (b"%PDF", "damaged_pdf"),
    }


def test_what_cannot_be_read_is_refused_alone_and_set_aside_in_a_folder(tmp_path):
    (tmp_path / "data").mkdir()
    for name, (content, _) in refused(tmp_path).items():
        path = tmp_path / "data" / f"{name}.pdf"
        path.write_bytes(content)
        with pytest.raises(DataError) as raised:
            read(path)
        assert str(path) in raised.value.cause and raised.value.fix.endswith(".")
    (tmp_path / "data" / "good.pdf").write_bytes(pdf([page_text("a good page")]))
    result = read(tmp_path / "data", as_documents=True)
    told = {entry.file.split("/")[-1][:-4]: entry.reason for entry in result.set_aside}
    assert told == {name: reason for name, (_, reason) in refused(tmp_path).items()}
    assert [row.text for row in result.rows] == ["a good page"]
    done = curate(Wish(files=(tmp_path / "data",)), tmp_path / "out")
    assert done.reasons == {"read": dict(Counter(told.values()).most_common())}


@pytest.mark.parametrize("limit", ["MOST_BYTES", "MOST_PAGES", "MOST_PAGE_CHARS"])
def test_limits(file, monkeypatch, limit):
    monkeypatch.setattr(_pdf, limit, 1)
    with pytest.raises(DataError, match=r"too_large|limit is|1 to 1"):
        read(file(page_text("text"), page_text("text")))


def test_bombs_end(file, monkeypatch):
    monkeypatch.setitem(_pdf._LIMITS, "zlib_maximum_output_length", 100_000)
    bomb = page_text("a") + " " * 1_000_000
    result = read(file(page_text("a"), squeeze=True))
    assert len(result.rows) == 1
    with pytest.raises(DataError, match="damaged_page"):
        read(file(bomb, squeeze=True))
    # Every drawing calls the next one ten times: a million million calls.
    forms = [f"/X{n + 1} Do " * 10 for n in range(12)] + [page_text("deep")]
    (row,) = read(file(page_text("top") + " /X0 Do", forms=forms)).rows
    assert row.text.startswith("top") and len(row.text) < 2_000


def test_control_characters_are_taken_out(file):
    (row,) = read(file(page_text("a\\000b\\001c"))).rows
    assert row.text == "abc"


def test_without_the_library_the_fix_is_said(file, monkeypatch):
    path = file(page_text("a"))
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(CapabilityError) as raised:
        read(path)
    assert "pip install 'domainwright[pdf]'" in raised.value.fix
    (path.parent / "a.txt").write_text("text")
    with pytest.raises(CapabilityError):
        read(path.parent)


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_is_data_or_a_reason(tmp_path, seed):
    rng = random.Random(seed)
    data = bytearray(pdf([page_text("some words here"), page_text("and more")], squeeze=seed % 2))
    for _ in range(rng.randint(1, 25)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
    path = tmp_path / "x.pdf"
    path.write_bytes(data)
    try:
        result = read(path, as_documents=True)
    except DataError as error:
        assert error.fix
    else:
        assert result.records == len(result.rows) + len(result.set_aside)
