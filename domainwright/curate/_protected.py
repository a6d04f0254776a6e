"""What a rewriting must not touch: numbers, citations, names, quotations, and the little words on
which the sense hangs.

The same readings compare a rewritten text with its source: `facts`, `names`, `negations`.
"""

import re
from collections.abc import Iterable

_UNITS = (
    "percent|per cent|%|mg|mcg|µg|μg|g|kg|ng|ml|dl|l|mmol|mol|IU|units?|mmHg|bpm|cm|mm|km|m|Hz|kHz|"
    "MHz|GHz|°C|°F|K|V|W|kW|J|eV|kPa|Pa|bar|hours?|hrs?|h|minutes?|min|seconds?|s|days?|weeks?|"
    "months?|years?|times|tablets?|capsules?|drops?|doses?|puffs?|dollars?|USD|EUR|cents?|"
    "basis points|bps|thousand|million|billion|trillion"
)
_PER = "(?:/(?:kg|day|d|hr|h|min|dl|l|ml|m2|week))*"
_NUMBER = re.compile(
    rf"(?<!\w)[$€£¥]?\d+(?:[.,:/×^–-]\d+)*(?:st|nd|rd|th)?(?:[\s-]?(?:{_UNITS})(?!\w){_PER})?",
    re.IGNORECASE,
)
_COUNTED = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|"
    "fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|"
    "ninety|hundred|thousand|million|billion|half|twice|double|triple|once|quarter|thirds?|first|"
    "second|third|daily|weekly|monthly|yearly|annual|annually|hourly"
)
_DIGITS = dict(zip(_COUNTED.split("|"), map(str, range(21)), strict=False))
"""Words for small numbers -> digits: "two tablets" and "2 tablets" say the same."""
# Not "one": it is a pronoun too.
_SMALL = re.compile(rf"\b(?:{'|'.join(list(_DIGITS)[2:])}|zero)\b", re.IGNORECASE)
_MONTHS = (
    "january|february|march|april|may|june|july|august|september|october|november|december|"
    "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
)
_CITED = re.compile(
    r"\d+\s+(?:C\.?F\.?R\.?|U\.?\s?S\.?\s?C\.?|U\.\s?S\.|F\.\s?(?:2d|3d|4th)|S\.\s?Ct\.)"
    r"\s*(?:§+\s*)?(?:part\s+)?[\w.()-]*[\w)]"
    r"|§+\s*[\w.()-]*[\w)]"
    r"|\b(?i:sections?|sec\.|articles?|art\.|rules?|paragraphs?|para\.|parts?|chapters?|titles?|"
    r"exhibits?|schedules?|appendix|regulations?|clauses?)\s+(?:\d[\w.()-]*\w|[\dIVXA-Z]\b)"
    r"|\b[A-Z][\w.&'’-]*(?:\s+(?:of|the|and|&|[A-Z][\w.&'’-]*)){0,6}\s+vs?\.\s+[A-Z][\w.&'’-]*"
    r"(?:\s+(?:of|the|and|&|[A-Z][\w.&'’-]*)){0,6}"
    r"|\b10\.\d{4,9}/\S+|\bPMID:?\s*\d+|https?://\S+|\S+@\S+\.\w+"
)
_QUOTED = re.compile(r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»|`[^`\n]+`")
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]*(?:_\d+)?\]|\{[^{}\n]*\}|<[^<>\n]+>|_{2,}")
_NEGATION = re.compile(
    r"\b(?:not|no|nor|never|none|neither|nobody|nothing|nowhere|without|cannot|denie[sd]|deny|"
    r"denying|negative\s+for|absence\s+of|absent|free\s+of|rule[sd]?\s+out|unless|lacks?|lacking|"
    r"except)\b|n['’]t\b",
    re.IGNORECASE,
)
_SENSE = (
    "must|shall|may|might|should|would|could|can|will|ought|all|any|each|every|some|only|both|"
    "either|least|most|more|less|fewer|than|before|after|until|within|between|above|below|under|"
    "over|if|and|or|but|when|whether|what|which|who|whom|whose|where|why|how|increased?|"
    "decreased?|high|higher|low|lower|left|right|male|female|true|false|yes"
)
_WORDS = re.compile(rf"\b(?:{_COUNTED}|{_MONTHS}|{_SENSE})\b", re.IGNORECASE)
_CAPITAL = re.compile(r"(?<![\w'’])(?:\w*[A-Z]\w*)(?:[-'’]\w+)*")
_OPENING = re.compile(r"(?:^|[.!?:;]\s+|\n\s*)[\s\"'“‘(\[•*-]*$")
_COMMON = frozenset(
    "a about according also an another are as at based be because been being by can consider did "
    "do does during find following for from give given had has have he her here his however i in "
    "into is it its let list many my name now of on one our people please say she since so such "
    "tell that the their then there these they this those through to today under use using was we "
    "were while with write you your".split()
)


def protected(text: str, terms: Iterable[str] = ()) -> list[tuple[int, int]]:
    """Spans (begin, end) that stay as they are, in order, none overlapping another.

    A negation keeps the word behind it: "no fever" is one thing.

    Args:
        terms: words and phrases of the domain; they are protected too, whatever their case.
    """
    patterns = [_NUMBER, _CITED, _QUOTED, _PLACEHOLDER, _WORDS]
    own = "|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True))
    if own:
        patterns.append(re.compile(rf"(?<!\w)(?:{own})s?(?!\w)", re.IGNORECASE))
    spans = [match.span() for pattern in patterns for match in pattern.finditer(text)]
    spans += [(begin, end) for begin, end, _ in _capitals(text)]
    spans += [
        (match.start(), _after_next_word(text, match.end())) for match in _NEGATION.finditer(text)
    ]
    merged = list[tuple[int, int]]()
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def facts(text: str) -> frozenset[str]:
    """Numbers with their units, in one spelling.

    >>> sorted(facts("Two tablets of 5 mg, 20 percent more than on 3/4/2020"))
    ['20%', '2tablet', '3/4/2020', '5mg']
    """
    counted = _SMALL.sub(_digit, text)
    return frozenset(_spelled(match.group()) for match in _NUMBER.finditer(counted))


def names(text: str) -> frozenset[str]:
    """Citations, quotations and capitalised words inside sentences, in lower case."""
    cited = {m.group() for pattern in (_CITED, _QUOTED) for m in pattern.finditer(text)}
    inside = {word for *_, word in _capitals(text, inside=True)}
    return frozenset(" ".join(name.lower().split()).strip('"“”«»`.,') for name in cited | inside)


def negations(text: str) -> int:
    """How often something is denied."""
    return sum(1 for _ in _NEGATION.finditer(text))


def _capitals(text: str, *, inside: bool = False) -> list[tuple[int, int, str]]:
    """(begin, end, word) of names: capitalised inside a sentence, or with capitals inside.

    Args:
        inside: leave out words that begin a sentence; else only common ones among them.
    """
    found = []
    for match in _CAPITAL.finditer(text):
        word = match.group()
        plain = word[0].isupper() and word[1:].islower()
        single = len(word) == 1 and word in "AI"
        opens = bool(_OPENING.search(text[max(0, match.start() - 8) : match.start()]))
        if single or (opens and plain and (inside or word.lower() in _COMMON)):
            continue
        found.append((*match.span(), word))
    return found


def _after_next_word(text: str, end: int) -> int:
    following = re.compile(r"\s+[\w-]+").match(text, end)
    return following.end() if following else end


def _digit(word: re.Match[str]) -> str:
    return _DIGITS[word.group().lower()]


def _spelled(number: str) -> str:
    plain = re.sub(r"per\s?cent", "%", number.lower())
    plain = re.sub(r"[\s,]|(?<=\d)-(?=[a-z])", "", plain).replace("μ", "µ").replace("mcg", "µg")
    return re.sub(r"(?<=[a-z]{2})s$", "", plain)
