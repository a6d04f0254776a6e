"""The words of a text, as everything counts them that compares texts by their words."""

import itertools
import re
import unicodedata

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
