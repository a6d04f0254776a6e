"""One look at the texts of many rows, which shows what most filters need not look at.

A filter that returns `Glancing` names rows of which it is certain that it finds nothing; its own
judge sees only the others. What a glance says may be too careful, never too bold, so the result is
the same without it: without a compiler every filter looks at every row.

Dimension key:
    T  texts      R  rows      F  facts      W  words
"""

import ctypes
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domainwright.core.records import Choice, Row
from domainwright.curate._fields import ANSWERS, parts
from domainwright.curate.filters import Change, Drop
from domainwright.curate.native import address, library, long

_STRANGE, _BROKEN, _MARKUP, _FURNITURE, _WORDLESS, _PERSONAL = (1 << n for n in range(6))
_FACTS = 8
_MOST_PLAIN = 1_000_000

Mask = NDArray[np.bool_]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen of rows; nothing is said of one whose script has rules not known here."""

    facts_TF: Ints
    whole_R2: Ints
    """At least so many function words and at most so many words in a row's first characters."""
    first_R: NDArray[np.int64]
    """The text with which a row begins."""
    learnt_T: Mask
    """Texts that a model learns to write; see `_fields.learnt`."""
    bytes_T: NDArray[np.int64]
    rows: Sequence[Row]

    def none_of(self, *kinds: type[Row]) -> Mask:
        """Rows of other kinds."""
        return np.array([not isinstance(row, kinds) for row in self.rows])

    def _without(self, bit: int) -> Mask:
        return self.every(self.facts_TF[:, 0] & (bit | _STRANGE) == 0)

    def every(self, mask_T: Mask) -> Mask:
        """Rows of which every text is in the mask."""
        return np.logical_and.reduceat(mask_T, self.first_R)

    @property
    def unbroken(self) -> Mask:
        """No sign of a wrong decoding."""
        return self._without(_BROKEN)

    @property
    def unmarked(self) -> Mask:
        """No tag and no entity."""
        return self._without(_MARKUP)

    @property
    def bare(self) -> Mask:
        """One line, or none that could be a menu, a banner or a footer."""
        return self._without(_FURNITURE)

    @property
    def worded(self) -> Mask:
        """A letter or a digit in every text."""
        return self._without(_WORDLESS)

    @property
    def impersonal(self) -> Mask:
        """Nothing that a number of a person, an address or an account must have."""
        return self._without(_PERSONAL)

    def longer(self, chars: int) -> Mask:
        """Every learnt text has more characters."""
        return self.every((self.bytes_T > 4 * chars) | ~self.learnt_T)

    def without_loops(self, least_tokens: int, share: float) -> Mask:
        """Every learnt text is short, or has so many different tokens for each run of three."""
        tokens_T, different_T = self.facts_TF[:, 1], self.facts_TF[:, 2]
        fine_T = (tokens_T < least_tokens) | (different_T - 2 >= share * (tokens_T - 2))
        return self._without(0) & self.every(fine_T | ~self.learnt_T)

    def mostly_plain(self, tokens: float, words: float) -> Mask:
        """Learnt texts of which at most such a share can be odd.

        Args:
            tokens: of their tokens; those that were never seen may be odd.
            words: of their words of three letters or more, to which each such token is added.
        """
        tokens_T, unknown_T, unknown_long_T, long_T = self.facts_TF[:, [1, 3, 4, 5]].T
        few_T = (unknown_T < tokens * tokens_T) & (unknown_T + unknown_long_T < words * long_T)
        return self._without(0) & self.every((unknown_T == 0) | few_T | ~self.learnt_T)

    def in_language(self, share: float) -> Mask:
        """More function words than this share in the row and in every learnt text."""
        own_T, words_T = self.facts_TF[:, 6], self.facts_TF[:, 7]
        share += 1e-9  # a quotient at the limit may be rounded up
        fine_R = self.every((own_T > share * words_T) | ~self.learnt_T)
        return self._without(0) & fine_R & (self.whole_R2[:, 0] > share * self.whole_R2[:, 1])


Clear = Callable[[Glance], Mask]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glancing:
    """A filter's judge that need not look at every row."""

    look: Callable[[Row], Drop | Change | None]
    clear: Clear
    """Rows in which `look` finds nothing."""
    function_words: Iterable[str] = ()
    plain: list[str] = field(default_factory=list)
    """Tokens of which nothing is odd, found since they were asked for last; they are taken out."""

    def __call__(self, row: Row) -> Drop | Change | None:
        return self.look(row)


class Glancer:
    """Looks at rows, and remembers tokens."""

    def __init__(self, judges: Sequence[Glancing]) -> None:
        self._plain = [judge.plain for judge in judges]
        words = sorted({word for judge in judges for word in judge.function_words})
        data, bounds = _joined(words)
        self._native = library()
        if self._native is not None:
            self._handle = ctypes.c_void_p(
                self._native.dw_glance_new(
                    data, address(bounds), long(len(words)), long(_MOST_PLAIN)
                )
            )
            weakref.finalize(self, self._native.dw_glance_free, self._handle)

    def __call__(self, rows: Sequence[Row]) -> Glance | None:
        """None where nothing is known: without a compiler, and of no rows."""
        if self._native is None or not rows:
            return None
        self._learn(self._native)
        texts, first, learnt = _texts(rows)
        data, bounds = _joined(texts)
        first_R = np.array([*first, len(texts)], dtype=np.int64)
        facts_TF = np.empty((len(texts), _FACTS), dtype=np.int32)
        whole_R2 = np.empty((len(rows), 2), dtype=np.int32)
        self._native.dw_glance(
            self._handle, data, address(bounds), address(first_R), long(len(rows)),
            address(facts_TF), address(whole_R2),
        )  # fmt: skip
        learnt_T = np.array(learnt, dtype=bool)
        return Glance(facts_TF, whole_R2, first_R[:-1], learnt_T, np.diff(bounds), rows)

    def _learn(self, native: ctypes.CDLL) -> None:
        for tokens in self._plain:
            if tokens:
                data, bounds = _joined(tokens)
                count = long(len(tokens))
                native.dw_glance_learn(self._handle, data, address(bounds), count)
                tokens.clear()


def _texts(rows: Sequence[Row]) -> tuple[list[str], list[int], list[bool]]:
    """(all texts, the number of each row's first, whether a text is learnt)."""
    texts, first, learnt = list[str](), list[int](), list[bool]()
    for row in rows:
        first.append(len(texts))
        named = parts(row)
        texts += [text for _, text in named]
        if isinstance(row, Choice):
            learnt += [part != "choice" for part, _ in named]
        else:
            late = len(named) - 2
            learnt += [n >= late and part in ANSWERS for n, (part, _) in enumerate(named)]
    return texts, first, learnt


def _joined(texts: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """(the bytes of all texts, T + 1 bounds)."""
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    bounds = np.zeros(len(data) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in data], out=bounds[1:])
    return b"".join(data), bounds
