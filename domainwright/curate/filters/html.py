"""Take markup out of text: tags, scripts, styles, comments and entities; the words stay.

Only names of real tags count, so "p < 0.05", "<unk>" and "List<int>" survive. Rows that
are about markup or show code are left alone.
"""

import html
import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row
from domainwright.curate._fields import mapped, parts
from domainwright.curate._glance import Glancing
from domainwright.curate.filters import FILTERS, Change, Look, Sample

_INLINE = "a abbr acronym b bdi big cite em font i img kbd mark q s small span strike strong"
_INLINE += " sub sup tt u var wbr"
_BLOCK = "address article aside base blockquote body br button caption center col colgroup dd div"
_BLOCK += " dl dt embed fieldset figcaption figure footer form frame h1 h2 h3 h4 h5 h6 head header"
_BLOCK += " hr html iframe input label legend li link main meta nav noscript object ol optgroup"
_BLOCK += " option p param picture pre section select source style script svg table tbody td"
_BLOCK += " textarea tfoot th thead title tr ul video"
_HIDDEN = re.compile(r"<(script|style|noscript)\b[^>]*>.*?(?:</\1\s*>|$)|<!--.*?-->", re.I | re.S)
_POINTER = re.compile(
    r"<a\b[^>]*>\s*(?:read|learn|see|show|find out|view) more\s*(?:…|\.\.\.|»|>>)?\s*</a\s*>"
    r"|<a\b[^>]*>\s*(?:more|click here|continue reading|details)\s*</a\s*>",
    re.I,
)
_ENDS_LINE = re.compile(rf"</?(?:{'|'.join(_BLOCK.split())})\b[^<>]{{0,500}}>\n?", re.I)
_TAG = re.compile(
    rf"</?(?:{'|'.join(_INLINE.split())})(?:\s[^<>]{{0,500}})?/?>|<!doctype[^>]*>", re.I
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,31}\d{0,2});", re.I)
_UNSEEN = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad]")
_ABOUT_CODE = re.compile(
    r"\b(?:html|xml|css|svg|javascript|jsx|php|markup|web ?page|website code)\b|```", re.I
)


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Html:
    """Markup that a scraper left in the text: taken out."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 20
    finds: ClassVar[tuple[str, ...]] = ("html",)

    def ready(self, sample: Sample) -> Look:
        return Glancing(look=self._look, clear=lambda seen: seen.unmarked)

    def _look(self, row: Row) -> Change | None:
        if not any(_marked(text) for _, text in parts(row)):
            return None
        if any(_ABOUT_CODE.search(plain(text)[0]) for _, text in parts(row)):
            return None
        places = 0

        def change(part: str, text: str) -> str:
            nonlocal places
            if not _marked(text):
                return text
            better, found = plain(text)
            places += found
            return better

        better = mapped(row, change)
        return None if better is row else Change(better, "html", places)


def plain(text: str) -> tuple[str, int]:
    """(text without markup, places changed).

    >>> plain("<p>Take&nbsp;<b>two</b> if p &lt; 5.</p><script>go()</script>")
    ('Take two if p < 5.', 7)
    """
    text, hidden = _HIDDEN.subn(" ", text)
    # The words of such a link belong to the page, not to the sentence before it.
    text, pointers = _POINTER.subn("", text)
    text, blocks = _ENDS_LINE.subn("\n", text)
    text, inline = _TAG.subn("", text)
    entities = sum(html.unescape(found) != found for found in _ENTITY.findall(text))
    text = _UNSEEN.sub("", html.unescape(text)).replace("\u00a0", " ")
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]{2,}", " ", text))
    return re.sub(r"\n{3,}", "\n\n", text).strip(), hidden + pointers + blocks + inline + entities


def _marked(text: str) -> bool:
    if "<" in text and (_ENDS_LINE.search(text) or _TAG.search(text) or _HIDDEN.search(text)):
        return True
    return "&" in text and any(html.unescape(e) != e for e in _ENTITY.findall(text))
