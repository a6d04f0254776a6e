"""The words of a text, as everything counts them that compares texts by their words."""

import itertools
import re
import sys
import unicodedata
from functools import cache

# Scripts without spaces: every sign is a word, or a sentence would be one word.
_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and accents. Digits stay: 5 mg is not 50 mg.

    >>> words("Give 5 mg of Naïve-Mab®.")
    ['give', '5', 'mg', 'of', 'naive', 'mab']
    """
    text = text.lower()
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text)
        text = "".join(itertools.filterfalse(unicodedata.combining, parts))
    return _WORD.findall(text)


def pieces(text: str) -> list[tuple[int, int]]:
    """(start, end) of the words and signs of a text, as entities are made of them.

    A run of letters, digits and what stands on them is a word, in Chinese and Japanese each sign;
    so is every other sign but spaces. A point or comma between two digits belongs to the number.

    >>> [text[a:b] for text in ["Don't give 2.5 mg."] for a, b in pieces(text)]
    ['Don', "'", 't', 'give', '2.5', 'mg', '.']
    """
    return [found.span() for found in _piece().finditer(text)]


@cache
def _piece() -> re.Pattern[str]:
    # Vowel signs of Indian scripts are no letters to `re`.
    every = map(chr, range(sys.maxunicode + 1))
    marks = re.escape("".join(c for c in every if unicodedata.category(c)[0] == "M"))
    run = rf"(?:[^\W{_SIGNS}]|[{marks}])+"
    return re.compile(rf"[{_SIGNS}]|{run}(?:(?<=\d)[.,](?=\d){run})*|\S")
