"""Does a made row still say what its source says, and give nothing away? One check after the other.

    form       a question stays a question: small models answer what they should rewrite
    length     1/2 to 2 times the words of its source
    alike      shares at most 0.9 of all words of both (token Jaccard)
    facts      the same numbers, units, names and citations
    grounded   numbers and names all stand in its source
    negation   denies an even or an odd number of times, as its source does
    meaning    cosine of the sentence vectors at least 0.8
    leak       gives no test or development row away (`overlap`)
    copy       is no near-copy of another made row, nor a source word for word

Dimension key: N made rows, D numbers of a sentence vector.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from domainwright.core.records import Row
from domainwright.curate._protected import facts, names, negations
from domainwright.curate.augmentation import Made
from domainwright.curate.near_duplicates import EXACT_BELOW_WORDS, pairs
from domainwright.curate.overlap import overlap
from domainwright.maths.words import words

LEAST_LENGTH, MOST_LENGTH = 0.5, 2.0
MOST_ALIKE = 0.9
LEAST_COSINE = 0.8

Fault = tuple[str, str]
"""(reason, detail)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What made rows are compared with, beside their sources."""

    hidden: Sequence[Row] = ()
    """Test and development rows."""
    encode: Callable[[Sequence[str]], np.ndarray] | None = None
    """Texts -> unit vectors (N, D). None: meaning is not compared."""


def check(made: Sequence[Made], name: str, against: Against) -> dict[str, Fault]:
    """{id: fault} of the rows that fail the check called `name`.

    Raises:
        KeyError: no such check; `CHECKS` lists them.
    """
    return CHECKS[name](made, against)


def _each(look: Callable[[str, str], Fault | None]) -> Callable[..., dict[str, Fault]]:
    """A check of every row from two texts: its source's and its own."""

    def run(made: Sequence[Made], against: Against) -> dict[str, Fault]:
        found = {one.id: look(one.before, one.after) for one in made}
        return {id: fault for id, fault in found.items() if fault}

    return run


def _form(before: str, after: str) -> Fault | None:
    if "?" not in before or "?" in after:
        return None
    return "no_question", "the source asks, and this does not"


def _length(before: str, after: str) -> Fault | None:
    ratio = len(words(after)) / max(1, len(words(before)))
    if LEAST_LENGTH <= ratio <= MOST_LENGTH:
        return None
    return "length_changed", f"{ratio:.2f} times as many words as the source"


def _alike(before: str, after: str) -> Fault | None:
    one, other = set(words(before)), set(words(after))
    share = len(one & other) / max(1, len(one | other))
    return ("too_alike", f"shares {share:.2f} of the words") if share > MOST_ALIKE else None


def _facts(before: str, after: str) -> Fault | None:
    return _missing(before, after, "lost") or _missing(after, before, "added")


def _grounded(before: str, after: str) -> Fault | None:
    return _missing(after, before, "added")


def _missing(one: str, other: str, verb: str) -> Fault | None:
    """What stands in one text and not in the other. A name may stand there in small letters."""
    if numbers := facts(one) - facts(other):
        return "number_changed", f"{verb}: {', '.join(sorted(numbers))}"
    there = f" {' '.join(words(other))} "
    gone = sorted(name for name in names(one) if f" {' '.join(words(name))} " not in there)
    return ("name_changed", f"{verb}: {', '.join(gone)}") if gone else None


def _negation(before: str, after: str) -> Fault | None:
    one, other = negations(before), negations(after)
    if one % 2 == other % 2:
        return None
    return "negation_changed", f"{other} negations instead of {one}"


def _meaning(made: Sequence[Made], against: Against) -> dict[str, Fault]:
    if not made or against.encode is None:
        return {}
    before_ND = against.encode([one.before for one in made])
    after_ND = against.encode([one.after for one in made])
    cosine_N = np.einsum("nd,nd->n", before_ND, after_ND)
    return {
        one.id: ("meaning_changed", f"cosine {cosine:.2f} with the source")
        for one, cosine in zip(made, cosine_N, strict=True)
        if cosine < LEAST_COSINE
    }


def _leak(made: Sequence[Made], against: Against) -> dict[str, Fault]:
    rows = [one.row for one in made if one.row]
    found = overlap(rows, against.hidden)
    return {
        leak.train: ("leaks_into_test", f"{leak.kind} with row {leak.test!r} ({leak.detail})")
        for leak in reversed(found.leaks)
    }


def _copy(made: Sequence[Made], against: Against) -> dict[str, Fault]:
    faults = dict[str, Fault]()
    sources = {" ".join(words(one.before)): one.source.id for one in made}
    first = dict[str, Made]()
    for one in made:
        text = " ".join(words(one.after))
        if text in sources:
            faults[one.id] = ("near_duplicate", f"the words of {sources[text]!r}")
        elif first.setdefault(text, one) is not one:
            faults[one.id] = ("near_duplicate", f"the words of {first[text].id!r}")
    distinct = list(first.values())
    texts = [one.after for one in distinct]
    # The later row goes, and only against one that stays.
    for i, j, share in sorted(pairs(texts, exact_below_words=EXACT_BELOW_WORDS)):
        if distinct[i].id not in faults and distinct[j].id not in faults:
            detail = f"similarity {share:.2f} with {distinct[i].id!r}"
            faults[distinct[j].id] = ("near_duplicate", detail)
    return faults


CHECKS: dict[str, Callable[[Sequence[Made], Against], dict[str, Fault]]] = {
    "form": _each(_form),
    "length": _each(_length),
    "alike": _each(_alike),
    "facts": _each(_facts),
    "grounded": _each(_grounded),
    "negation": _each(_negation),
    "meaning": _meaning,
    "leak": _leak,
    "copy": _copy,
}
