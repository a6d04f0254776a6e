"""The lists behind the recogniser of names: `_names.txt`, read once, when first needed."""

import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Lists:
    """Words as they are spelt in a name, without accents."""

    given: frozenset[str]
    """Given names that are hardly ever anything else."""
    word: frozenset[str]
    """Given names that are words, months, places or firms as well: Will, May, Jordan."""
    family: frozenset[str]
    city: frozenset[str]
    state: frozenset[str]
    never: frozenset[str]
    """Words that are capitalised for another reason than being a name: headings, offices, things,
    countries and peoples. Some are family names as well: King."""
    mute: frozenset[str]
    """Those of `never` that are no name at all."""


@cache
def lists() -> Lists:
    """The lists.

    >>> "Maria" in lists().given, "May" in lists().given, "Kuala Lumpur" in lists().city
    (True, False, True)
    """
    text = (Path(__file__).parent / "_names.txt").read_text("utf-8")
    found = dict[str, frozenset[str]]()
    for section in text.split("\n[")[1:]:
        name, _, body = section.partition("]\n")
        lines = [line for line in body.splitlines() if not line.startswith("#")]
        found[name] = frozenset(word.replace("_", " ") for word in " ".join(lines).split())
    never = found["not"] | found["land"]
    return Lists(
        given=found["given"] - found["word"] - never,
        word=found["word"],
        family=found["family"],
        city=found["city"],
        state=found["state"],
        never=never,
        mute=never - found["word"] - found["family"],
    )


def spelt(word: str) -> str:
    """A word as the lists spell it.

    >>> spelt("José"), spelt("O’Brien")
    ('Jose', "O'Brien")
    """
    if word.isascii():
        return word
    letters = unicodedata.normalize("NFD", word.replace("’", "'").replace("ł", "l"))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
