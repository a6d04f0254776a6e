"""Easy data augmentation: a question with a few words replaced, inserted, exchanged or left out.

    n = max(1, ⌊α · words⌋) words a copy, one operation a copy, in turn

Never touched: what `_protected` finds (numbers, units, dates, citations, negations with the word
behind them, names, quotations, modal and question words), the terms of the domain, and words that
few questions have: those are what a question is about. Answers and choices stay. Unlike the paper,
only neighbours are exchanged: words far apart are often who and whom. Replacing and inserting need
synonyms; a text without any goes on to the next operation.

Source: Wei & Zou 2019, arXiv:1901.11196, α = 0.1.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import numpy as np

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Choice, Message, Row
from domainwright.core.seeds import derive, generator
from domainwright.curate._protected import protected
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance
from domainwright.maths.minhash import words as words_of

OPERATIONS = ("synonyms", "insertion", "swap", "deletion")
_FEWEST_GROUPS = 3
_WORD = re.compile(r"\S+")
_LETTERS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@AUGMENTATIONS.register
@dataclass(frozen=True, slots=True, kw_only=True)
class Eda:
    """Small changes by rule; no model is asked."""

    alpha: float = 0.1
    """Share of the words that a copy changes, in (0, 0.5]."""

    needs: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[type[Row], ...]] = (Chat, Choice)
    checks: ClassVar[tuple[str, ...]] = ("length", "facts", "negation", "meaning", "leak", "copy")

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 0.5:
            raise ConfigError(
                f"eda.alpha is {self.alpha}, outside (0, 0.5].", "give a share such as 0.1."
            )

    def make(self, rows: Sequence[Row], tools: Tools) -> list[Made]:
        common, made = common_words(rows), list[Made]()
        for row in rows:
            texts = {asked(row)}
            for number in range(1, tools.copies + 1):
                made.append(self._one(row, number, tools, common, texts))
                texts.add(made[-1].after)
        return made

    def _one(
        self, row: Row, number: int, tools: Tools, common: frozenset[str], texts: set[str]
    ) -> Made:
        before, id = asked(row), f"{row.id}~eda{number}"
        rng = generator(tools.seed, "eda", row.id, number)
        # The first operation differs from row to row, so that one copy each tries them all.
        first = derive(tools.seed, "eda", row.id) + number
        for turn in range(len(OPERATIONS)):
            name = OPERATIONS[(first + turn) % len(OPERATIONS)]
            after = changed(before, name, self.alpha, tools, rng, common)
            if after not in texts:
                made = provenance(row.id, f"eda {name}", tools, written=False)
                new = replace(asking(row, after), id=id, provenance=made)
                return Made(source=row, id=id, row=new, before=before, after=after)
        fault = ("nothing_to_change", "no further change of words that may be changed")
        return Made(source=row, id=id, row=None, before=before, fault=fault)


def asked(row: Row) -> str:
    """The text that is changed: the last user turn, or the question of a choice."""
    return str(row.question)  # type: ignore[attr-defined]


def asking(row: Row, question: str) -> Row:
    """The row with another question."""
    if isinstance(row, Choice):
        return replace(row, question=question)
    assert isinstance(row, Chat)
    last = max(n for n, message in enumerate(row.messages) if message.role == "user")
    turn = Message("user", question)
    return replace(row, messages=(*row.messages[:last], turn, *row.messages[last + 1 :]))


def common_words(rows: Sequence[Row]) -> frozenset[str]:
    """Words in the questions of three groups and 1 % of them, or of all: what no row is about."""
    pairs = {(row.group, word) for row in rows for word in words_of(asked(row))}
    groups = len({row.group for row in rows})
    held = Counter(word for _, word in pairs)
    least = min(groups, max(_FEWEST_GROUPS, groups / 100))
    return frozenset(word for word, count in held.items() if count >= least)


def changed(
    text: str,
    name: str,
    alpha: float,
    tools: Tools,
    rng: np.random.Generator,
    common: frozenset[str],
) -> str:
    """The text after one operation on max(1, ⌊alpha · words⌋) words; the same if none fits."""
    fixed = bytearray(len(text))
    for begin, end in protected(text, tools.terms):
        fixed[begin:end] = b"\1" * (end - begin)
    words = list(_WORD.finditer(text))
    free = [n for n, word in enumerate(words) if not any(fixed[word.start() : word.end()])]
    gaps = [text[a.end() : b.start()] for a, b in pairwise(words)]
    found = [word.group() for word in words]
    count = max(1, int(alpha * len(found)))
    # Without punctuation: a comma that moves or goes changes more than a word.
    plain = [n for n in free if _LETTERS.fullmatch(found[n]) and common >= {*words_of(found[n])}]
    known = [n for n in free if _others(found[n], tools)]
    _APPLY[name](found, plain, known, count, tools, rng)
    if not words or found == [word.group() for word in words]:
        return text
    # An operation leaves "" where a word went; its gap goes with it.
    whole = [
        part
        for word, gap in zip(found, [*gaps, ""], strict=True)
        for part in ((word, gap) if word else ())
    ]
    changed = text[: words[0].start()] + "".join(whole).rstrip() + text[words[-1].end() :]
    return changed if changed.strip() else text


def _draw(items: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    return [items[i] for i in rng.permutation(len(items))[:count]]


def _replace(
    words: list[str],
    plain: list[int],
    known: list[int],
    count: int,
    tools: Tools,
    rng: np.random.Generator,
) -> None:
    for n in _draw(known, count, rng):
        other = _drawn_other(words[n], tools, rng)
        words[n] = _LETTERS.sub(partial(_like, other), words[n], count=1)


def _insert(
    words: list[str],
    plain: list[int],
    known: list[int],
    count: int,
    tools: Tools,
    rng: np.random.Generator,
) -> None:
    if known:
        others = [
            _drawn_other(words[known[int(rng.integers(len(known)))]], tools, rng)
            for _ in range(count)
        ]
        for n, other in zip(_draw(plain, count, rng), others, strict=False):
            words[n] = f"{words[n]} {other}"


def _swap(
    words: list[str],
    plain: list[int],
    known: list[int],
    count: int,
    tools: Tools,
    rng: np.random.Generator,
) -> None:
    pairs = [n for n in plain if n + 1 in plain and words[n].lower() != words[n + 1].lower()]
    taken = set[int]()
    for n in _draw(pairs, len(pairs), rng):
        if len(taken) < 2 * count and not {n, n + 1} & taken:
            words[n], words[n + 1] = words[n + 1], words[n]
            taken |= {n, n + 1}


def _delete(
    words: list[str],
    plain: list[int],
    known: list[int],
    count: int,
    tools: Tools,
    rng: np.random.Generator,
) -> None:
    for n in _draw(plain, min(count, len(words) // 2), rng):
        words[n] = ""


def _others(word: str, tools: Tools) -> Sequence[str]:
    letters = _LETTERS.search(word)
    return tools.synonyms.get(letters.group().lower(), ()) if letters else ()


def _drawn_other(word: str, tools: Tools, rng: np.random.Generator) -> str:
    others = _others(word, tools)
    return others[int(rng.integers(len(others)))]


def _like(word: str, old: re.Match[str]) -> str:
    """The word with the old one's capital."""
    return word.capitalize() if old.group()[0].isupper() else word


_APPLY: dict[str, Callable[..., None]] = {
    "synonyms": _replace,
    "insertion": _insert,
    "swap": _swap,
    "deletion": _delete,
}
"""Each changes the list of words in place; `plain` may move or go, `known` have synonyms."""
