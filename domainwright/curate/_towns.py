"""Places that say where a person lives or was treated: towns and facilities, not countries."""

import re
from collections.abc import Sequence

from domainwright.curate._capitals import (
    CAPITALISED,
    Run,
    Spans,
    before,
    is_free,
    last_word,
    without_never,
)
from domainwright.curate._name_lists import lists, spelt

_ZIP = r"\d{5}(?:-\d{4})?\b"
_STATE = "AZ|CA|FL|GA|IL|KY|N[CJMVY]|OH|T[NX]|VA|W[AIVY]|MN|MO|NSW"
# Degrees, units and words as well: they count behind a listed town, or before a ZIP code.
_STATE_TOO = (
    "A[BKLR]|BC|C[OT]|D[CE]|HI|I[ADN]|KS|LA|M[ADEIST]|N[DEH]|O[KNR]|P[AR]|QC|RI|S[CD]|UT|VT"
)
_BEHIND = re.compile(
    rf", (?:(?:{_STATE}|(?P<too>{_STATE_TOO}))\b(?P<zip>,? {_ZIP})?"
    rf"|(?P<full>{CAPITALISED}(?: {CAPITALISED})?))"
)
_ORIGIN = (
    "here|me|him|her|us|man|woman|boy|girl|teacher|farmer|nurse|student|worker|engineer|driver"
    "|veteran|patient|lady|gentleman|retiree|lawyer|person|family|couple|child|parents"
)
_LIVES = re.compile(
    r"(?:\b(?:liv(?:es?|ed|ing)|resid(?:es?|ed|ing)|grew up|raised|born|settled|home|house|flat"
    r"|apartment|(?:re)?located|hospitali[sz]ed)(?: in| at| near)"
    r"|\b(?:residents?|native|neighbou?rhood|suburb|town|city|village) of"
    r"|\b(?:relocat|mov)(?:ed|es|ing|e) (?:back )?(?:to|from|out of)"
    r"|\b(?:is|am|was|comes) (?:originally )?from"
    r"|\b(?:drove|flew|returned|came|transferred)(?: here| back| home)? (?:from|to)"
    rf"|\b(?:{_ORIGIN}|\d-year-old(?: \w+)?) from"
    r"|\b(?:city|town|place of birth|birthplace|residence|hometown):)\s$"
)
_LIVES_WITH = frozenset(
    "live lives lived living reside resides resided residing up raised born settled home house"
    " flat apartment located relocated hospitalized hospitalised resident residents native"
    " neighborhood neighbourhood suburb town city village moved moves moving move is am was comes"
    " originally back out drove flew returned came transferred year-old".split()
    + _ORIGIN.split("|")
)
_LIVES_LAST = frozenset(
    "in at near of to from city town birth birthplace residence hometown".split()
)
_NEAR_LAST = frozenset("in at near of to from outside around".split())
LAST_WORDS = _LIVES_LAST | _NEAR_LAST | {"st"}
"""Words behind which a town may stand."""
_NO_TOWN_BEHIND = re.compile(r"['’]s|-\w| [A-Z]|, [A-Z]\w+ and\b")
_HOUSE = (
    "Hospital|Infirmary|Hospice|Clinic|(?:Medical|Health|Cancer|Trauma|Rehabilitation|Care)"
    " Cent(?:er|re)|Nursing Home|(?:High|Middle|Elementary|Primary) School|Rehab"
)
_HOUSE_END = re.compile(rf"(?:{_HOUSE})\b")
_HOUSE_HINTS = ("Hospital", "Infirmary", "Hospice", "Clinic", "Cent", "Nursing", "School", "Rehab")
_FACILITY = re.compile(
    r"(?:\b(?:[Aa]t|[Ff]rom|[Tt]o|[Ii]n|[Bb]y|[Oo]f|[Nn]ear|[Ff]acility:|[Hh]ospital:"
    r"|[Ll]ocation:) |(?:^|\n))"
    rf"(?P<it>(?:St\.? |Saint )?{CAPITALISED}(?:['’]s?)?"
    rf"(?: (?:of |and |the )?{CAPITALISED}(?:['’]s?)?){{0,4}}? (?:{_HOUSE})\b(?! of| for|['’]))"
)
_GENERIC = frozenset(
    "Children Community General Memorial University State Veterans Teaching District Regional"
    " County City Public Private Local National Tertiary Mental Rural Royal Cancer Women Clinical"
    " Health Medical Federal Affairs Academic Mayo Johns Hopkins Massachusetts NIH Trauma Level"
    " Primary Care High Middle Elementary".split()
)
_TREATED = re.compile(
    r"\b(?:transferred|admitted|taken|referred|seen|treated|hospitali[sz]ed|brought|works?|worked"
    r"|discharged|followed|born|delivered|surgery|appointment|evaluated|presented|attends)\b"
)
# Never a name of a person, but part of many a town's.
_BEGIN = frozenset(
    "San Santa Fort New Lake North South East West Grand Saint Old Upper Lower Park Valley Beach"
    " City Falls Springs Island Bay River Port Mount St County Village Town Hills Point Ridge White"
    " Black Red Green Little Big Long Cedar Royal King Queen Lady Lord".split()
)


def towns(text: str, found: Sequence[Run], *, near_person: bool) -> Spans:
    """Where the text names towns and facilities; (start, end), none overlapping, in no order.

    Args:
        found: the runs of the text.
        near_person: a person is named in the same row, so that a large town alone, "in Boston",
            tells something about somebody.

    >>> from domainwright.curate._capitals import runs
    >>> text = "He moved to Zorvane from Austin, TX."
    >>> [text[start:end] for start, end in towns(text, runs(text), near_person=False)]
    ['Zorvane', 'Austin, TX']
    """
    taken = list[tuple[int, int]]()
    if any(hint in text for hint in _HOUSE_HINTS):
        taken = sorted(_facilities(text, near_person))
    yield from taken
    end = 0
    for run in found:
        # In "Springfield, New York, NY" the second town begins inside the first.
        place = _town_in(run, text, near_person) if run.start >= end else None
        if place and is_free(taken, *place):
            end = place[1]
            yield place


def _facilities(text: str, near_person: bool) -> Spans:
    known, end = lists(), 0
    for house in _HOUSE_END.finditer(text):
        found = _FACILITY.search(text, max(end, house.start() - 90), house.end() + 4)
        end = house.end()
        if found is None or found.end() != house.end():
            continue
        words = re.findall(CAPITALISED, spelt(found["it"]))[:-1]
        front = before(text, found.start())
        told = near_person or _TREATED.search(front.lower()) or not front.strip()
        if told and any(word not in _GENERIC and word not in known.never for word in words):
            yield found.span("it")


def _town_in(run: Run, text: str, near_person: bool) -> tuple[int, int] | None:
    """The town that a run names, if something before or behind it says so."""
    if text.endswith("St. ", 0, run.start):
        run = Run(run.start - 4, ("St.", *run.words), ("St.", *run.plain))
    with_comma = text.startswith(", ", run.end)
    last = last_word(text[max(0, run.start - 24) : run.start])
    if not with_comma and last not in LAST_WORDS:
        return None
    if with_comma:
        state = _with_state(run, text)
        if state is not None:
            return state
    front = before(text, run.start).lower()
    told = front.endswith(": ") or not _LIVES_WITH.isdisjoint(front.split()[-4:])
    if told and last in _LIVES_LAST and _LIVES.search(front):
        town = _plain_town(run)
        if town is not None and not _NO_TOWN_BEHIND.match(text, town.end):
            return town.start, town.end
    if near_person and last in _NEAR_LAST:
        return _large(run, text)
    return None


def _with_state(run: Run, text: str) -> tuple[int, int] | None:
    """Austin, TX; Austin, Texas; Austin, TX 73301."""
    found = _BEHIND.match(text, run.end)
    if found is None:
        return None
    known = lists()
    town = _plain_town(without_never(run, _BEGIN))
    if town is None:
        return None
    name = " ".join(town.plain)
    listed = name in known.city
    if found["full"]:
        state = _state_in(found["full"])
        # "Missouri, New York, Oregon" are states.
        state = "" if town.plain[0] != state.split(" ")[0] and name in known.state else state
        return (town.start, found.start("full") + len(state)) if state else None
    if found["too"] and not found["zip"] and not listed:
        return None
    return town.start, found.end()


def _plain_town(run: Run) -> Run | None:
    """The run, if it can be a town: "St." before it included, states and people excluded."""
    known = lists()
    name = " ".join(run.plain)
    if name in known.city:
        return run
    if not 1 <= len(run.words) <= 4 or name in known.state or name in known.given:
        return None
    if any(word in known.never and word not in _BEGIN for word in run.plain):
        return None
    return None if re.search(r"-[a-z]", name) or run.plain[0] in known.given else run


def _large(run: Run, text: str) -> tuple[int, int] | None:
    """A listed town at the beginning of the run."""
    known = lists()
    for size in range(min(3, len(run.words)), 0, -1):
        town = run.part(0, size)
        name = " ".join(town.plain)
        if name in known.city and name not in known.state and name not in known.word:
            return None if _NO_TOWN_BEHIND.match(text, town.end) else (town.start, town.end)
    return None


def _state_in(words: str) -> str:
    """The state with which the words begin; "" where it is none."""
    states = lists().state
    first = words.split(" ")[0]
    return words if words in states else first if first in states else ""
