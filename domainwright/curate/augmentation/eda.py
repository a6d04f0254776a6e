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
from domainwright.core.records import ASKING, Chat, Choice, Message, Row
from domainwright.core.seeds import derive, generator
from domainwright.curate._protected import protected
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools, provenance
from domainwright.maths.words import words as words_of

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
        names = list(_APPLY)
        for turn in range(len(names)):
            name = names[(first + turn) % len(names)]
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
    last = max(n for n, message in enumerate(row.messages) if message.role in ASKING)
    turn = Message(row.messages[last].role, question)
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
    draft = _Draft(
        words=list(found),
        # Without punctuation: a comma that moves or goes changes more than a word.
        plain=[n for n in free if _LETTERS.fullmatch(found[n]) and common >= {*words_of(found[n])}],
        known=[n for n in free if _others(found[n], tools)],
        count=max(1, int(alpha * len(found))),
        tools=tools,
        rng=rng,
    )
    _APPLY[name](draft)
    if not words or draft.words == found:
        return text
    # An operation leaves "" where a word went; its gap goes with it.
    whole = [
        part
        for word, gap in zip(draft.words, [*gaps, ""], strict=True)
        for part in ((word, gap) if word else ())
    ]
    changed = text[: words[0].start()] + "".join(whole).rstrip() + text[words[-1].end() :]
    return changed if changed.strip() else text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """The words of a text while an operation changes them in place."""

    words: list[str]
    plain: list[int]
    """Places of those that may move or go."""
    known: list[int]
    """Places of those that have synonyms."""
    count: int
    """Words to change."""
    tools: Tools
    rng: np.random.Generator

    def draw(self, places: Sequence[int], count: int) -> list[int]:
        return [places[i] for i in self.rng.permutation(len(places))[:count]]

    def other(self, place: int) -> str:
        """A synonym of the word there."""
        others = _others(self.words[place], self.tools)
        return others[int(self.rng.integers(len(others)))]


def _replace(draft: _Draft) -> None:
    for n in draft.draw(draft.known, draft.count):
        other = draft.other(n)
        draft.words[n] = _LETTERS.sub(partial(_like, other), draft.words[n], count=1)


def _insert(draft: _Draft) -> None:
    if known := draft.known:
        others = [
            draft.other(known[int(draft.rng.integers(len(known)))]) for _ in range(draft.count)
        ]
        for n, other in zip(draft.draw(draft.plain, draft.count), others, strict=False):
            draft.words[n] = f"{draft.words[n]} {other}"


def _swap(draft: _Draft) -> None:
    words, plain = draft.words, draft.plain
    pairs = [n for n in plain if n + 1 in plain and words[n].lower() != words[n + 1].lower()]
    taken = set[int]()
    for n in draft.draw(pairs, len(pairs)):
        if len(taken) < 2 * draft.count and not {n, n + 1} & taken:
            words[n], words[n + 1] = words[n + 1], words[n]
            taken |= {n, n + 1}


def _delete(draft: _Draft) -> None:
    for n in draft.draw(draft.plain, min(draft.count, len(draft.words) // 2)):
        draft.words[n] = ""


def _others(word: str, tools: Tools) -> Sequence[str]:
    letters = _LETTERS.search(word)
    return tools.synonyms.get(letters.group().lower(), ()) if letters else ()


def _like(word: str, old: re.Match[str]) -> str:
    """The word with the old one's capital."""
    return word.capitalize() if old.group()[0].isupper() else word


_APPLY: dict[str, Callable[[_Draft], None]] = {
    "synonyms": _replace,
    "insertion": _insert,
    "swap": _swap,
    "deletion": _delete,
}
