"""Repair UTF-8 that was read as Windows-1252: "donâ€™t" is "don’t" again.

A run of signs is repaired when its bytes in Windows-1252 are whole UTF-8 characters:
a lead byte (0xC2 to 0xF4) and exactly the continuation bytes it asks for. Text that
was damaged twice is repaired twice.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from domainwright.core.records import Row
from domainwright.curate._fields import mapped
from domainwright.curate._glance import Glancing
from domainwright.curate.filters import FILTERS, Change, Look, Sample

# Windows-1252 leaves five bytes undefined; readers pass those through as control characters.
_SIGN_OF = {n: bytes([n]).decode("cp1252", "replace") for n in range(0x80, 0xC0)}
_SIGN_OF = {n: sign if sign != "\ufffd" else chr(n) for n, sign in _SIGN_OF.items()}
_BYTE_OF = {sign: n for n, sign in _SIGN_OF.items()} | {chr(n): n for n in range(0x80, 0x100)}
_NEXT = "[" + "".join(map(re.escape, {*_SIGN_OF.values(), *map(chr, range(0x80, 0xC0))})) + "]"
_DAMAGED = re.compile(
    rf"(?:[\u00c2-\u00df]{_NEXT}|[\u00e0-\u00ef]{_NEXT}{{2}}|[\u00f0-\u00f4]{_NEXT}{{3}})+"
)
# U+201D is E2 80 9D, and 9D is one of the five: many programs drop it.
_LOST_QUOTE = re.compile("\u00e2\u20ac(?=[\\s\\w.,;:!?)\"'(\u00c2\u00e2-]|$)")
_TIMES = 3


@FILTERS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Mojibake:
    """Letters that a wrong decoding has broken: repaired."""

    default: ClassVar[bool] = True
    order: ClassVar[int] = 10
    finds: ClassVar[tuple[str, ...]] = ("mojibake",)

    def ready(self, sample: Sample) -> Look:
        return Glancing(look=self._look, clear=lambda seen: seen.unbroken)

    def _look(self, row: Row) -> Change | None:
        places = 0

        def change(part: str, text: str) -> str:
            nonlocal places
            repaired, found = mended(text)
            places += found
            return repaired

        better = mapped(row, change)
        return None if better is row else Change(better, "mojibake", places)


def mended(text: str) -> tuple[str, int]:
    """(text, places repaired).

    >>> mended("It donâ€™t cost 5Â\u00a0â‚¬")
    ('It don’t cost 5\\xa0€', 2)
    """
    if text.isascii():
        return text, 0
    places = 0
    for _ in range(_TIMES):
        again, found = _DAMAGED.subn(_whole, text)
        if again == text:
            break
        text, places = again, places + found
    # Last: half of what was damaged twice looks like a lost quote.
    text, lost = _LOST_QUOTE.subn("\u201d", text)
    return text, places + lost


def _whole(run: re.Match[str]) -> str:
    try:
        return bytes(_BYTE_OF[sign] for sign in run[0]).decode("utf-8")
    except (UnicodeDecodeError, KeyError):
        return run[0]
