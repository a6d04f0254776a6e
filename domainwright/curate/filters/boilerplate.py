"""Take out lines that belong to a web page and not to its text: menus, cookie banners, footers.

A line is furniture when it is short and holds a phrase that only pages use, or when most
of its items are words of a menu. Sentences of a contract that mention cookies or rights
are longer than `max_words` and stay.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row
from domainwright.curate._fields import ANSWERS, mapped
from domainwright.curate._glance import Glancing
from domainwright.curate.filters import FILTERS, Change, Look, Sample

_PHRASE = re.compile(
    r"\bskip to (?:main )?(?:content|navigation)\b|\ball rights reserved\b"
    r"|\b(?:accept|reject|manage|allow)\b.{0,20}\b(?:cookies?|preferences)\b"
    r"|\b(?:we|this (?:web)?site) uses? cookies\b|\bcookie (?:policy|settings|preferences)\b"
    r"|\b(?:subscribe|sign up)\b.{0,30}\b(?:newsletter|updates|mailing list)\b"
    r"|\bshare (?:this|on)\b.{0,30}\b(?:facebook|twitter|linkedin|page|article|post)\b"
    r"|\bfollow us on\b|\bback to top\b|\bclick here to\b|\bprint this page\b"
    r"|\blog ?in to (?:your|my)\b"
    r"|\b(?:please )?enable javascript\b|\bjavascript is (?:disabled|required)\b"
    r"|^(?:advertisement|loading\.\.\.|read more|see also|related articles?|table of contents)$"
    r"|^(?:©|\(c\)|copyright ©?)\s*\d{4}\b",
    re.I,
)
_HINTS = (
    "skip to", "all rights", "cookie", "preferences", "newsletter", "updates", "mailing list",
    "share ", "follow us", "back to top", "click here", "print this", "log in", "login",
    "javascript", "advertisement", "loading...", "read more", "see also", "related article",
    "table of contents", "©", "(c)", "copyright",
)  # fmt: skip
"""Lower case. A text without any of them holds no such phrase, which is seen much sooner."""
_MENU = frozenset(
    "home about about us contact contact us privacy privacy policy terms terms of use"
    " service login log in log out sign in sign up register menu search site map"
    " sitemap help faq faqs blog news products services shop cart careers press support subscribe"
    " newsletter facebook twitter"
    " linkedin instagram youtube rss print email share cookies cookie policy accessibility next"
    " previous more read more back to top account my account store events donate join follow us x"
    " pinterest whatsapp reddit download feedback language english legal disclaimer archive".split()
)
_MENU_ITEMS = re.compile(r"\s*[|·•»›/>]\s*|[ \u00a0]{2,}|\t")
_MENU_SIGNS = ("|", "·", "•", "»", "›", "/", ">", "  ", "\u00a0", "\t")


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Boilerplate:
    """Menus, banners and footers of a web page: those lines are taken out."""

    max_words: int = 14
    """A line of more words is a sentence, whatever it says."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 30
    finds: ClassVar[tuple[str, ...]] = ("boilerplate",)

    def ready(self, sample: Sample) -> Look:
        return Glancing(look=self._look, clear=lambda seen: seen.bare)

    def _look(self, row: Row) -> Change | None:
        lines = 0

        def change(part: str, text: str) -> str:
            nonlocal lines
            # One line alone is the whole text: nothing would be left of it.
            if part not in (*ANSWERS, "context") or "\n" not in text or not _worth(text):
                return text
            kept = [line for line in text.split("\n") if not self.furniture(line)]
            removed = text.count("\n") + 1 - len(kept)
            lines += removed
            return "\n".join(kept).strip() if removed else text

        better = mapped(row, change)
        return None if better is row else Change(better, "boilerplate", lines)

    def furniture(self, line: str) -> bool:
        """True when the line is a part of a page and not of its text.

        >>> Boilerplate().furniture("Home | About | Contact | Privacy Policy")
        True
        >>> Boilerplate().furniture("Contact your doctor at once.")
        False
        """
        line = line.strip()
        if not line or len(line.split()) > self.max_words:
            return False
        if _hinted(line) and _PHRASE.search(line):
            return True
        items = [item for item in _MENU_ITEMS.split(line) if item]
        known = sum(set(item.lower().split()) <= _MENU for item in items)
        return len(items) >= 3 and known >= 0.6 * len(items)


def _hinted(text: str) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in _HINTS)


def _worth(text: str) -> bool:
    """False where no line of the text can be furniture."""
    # A menu has three items or more, so two signs between them.
    return sum(map(text.count, _MENU_SIGNS)) >= 2 or _hinted(text)
