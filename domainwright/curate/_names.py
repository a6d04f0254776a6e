"""Names of persons, and places that identify them: found by evidence, without a model.

A capitalised word is no name by itself. A run of capitalised words becomes a PERSON with

    a title, label, kin or greeting before it   Dr. X, Patient: X Y, her son X, my name is X
    a degree, an age, a number behind it        X Y, MD; X Y, 45-year-old; X Y, SSN …
    a listed given name that begins it          Maria X; Mark Lopez, where the given name is a word
    a listed family name with initials          J. R. Smith; Smith, John

and what is once a person is one everywhere in the row: "Ms. Lopez", "Maria". Eponyms (Parkinson
disease), citations (Smith et al.), cases (Smith v. Jones) and firms (Johnson & Johnson) are none.

Source of what identifies: HIPAA Safe Harbor, 45 CFR 164.514(b)(2)(i)(A) and (B): names, and
places smaller than a state (`_towns`).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from domainwright.curate._capitals import CAPITALISED, Run, before, is_free, runs, without_never
from domainwright.curate._name_cues import (
    LAST_WORDS,
    Cue,
    cue_before,
    cue_behind,
    has_article,
    is_other,
    is_stop,
)
from domainwright.curate._name_lists import lists, spelt
from domainwright.curate._personal import Secret
from domainwright.curate._towns import LAST_WORDS as BEFORE_TOWNS
from domainwright.curate._towns import towns

NAME_KINDS = ("PERSON", "PLACE")

_LAST_WORDS = LAST_WORDS | BEFORE_TOWNS
_TURNED = re.compile(rf", ({CAPITALISED})(?: [A-Z]\b\.?)?(?!['’]s|\w|,? and )")
_SHOUTED = re.compile(
    r"(?:^|[\n|;])\W{0,3}(?i:(?:patient|pt|client)(?: name)?|name): ?"
    r"(?P<it>[A-Z][A-Z'’-]+, ?[A-Z][A-Z'’-]+(?: [A-Z]\b\.?)?"
    r"|[A-Z][A-Z'’-]+(?: [A-Z]\.?)? [A-Z][A-Z'’-]+)(?!\w)"
)
_SHOUTED_HINTS = ("ame:", "AME:", "ient:", "IENT:", "Pt:", "PT:")


@dataclass(frozen=True, slots=True)
class _Person:
    """A person in one of the texts."""

    number: int
    """Which text."""
    start: int
    end: int
    names: tuple[str, ...]
    """As the lists spell them, the family name last, without initials and small words."""


def named(texts: Sequence[str], kinds: Sequence[str] = NAME_KINDS) -> list[list[Secret]]:
    """The persons and places that the texts of a row name; a list for each text, in order.

    A person has the same `same` in all texts, be it as "Maria Lopez", "Lopez" or "Maria".

    >>> for secret in named(["Maria Lopez of Springfield, IL called.", "Ms. Lopez was ill."])[0]:
    ...     print(secret.kind, secret.text)
    PERSON Maria Lopez
    PLACE Springfield, IL
    """
    all_runs = [runs(text, _LAST_WORDS) for text in texts]
    persons = [
        person
        for number, (text, found) in enumerate(zip(texts, all_runs, strict=True))
        for person in _persons(number, text, found)
    ]
    secrets: list[list[Secret]] = [[] for _ in texts]
    if persons and "PERSON" in kinds:
        for person, same in _same(persons, texts):
            text = texts[person.number][person.start : person.end]
            secrets[person.number].append(Secret(person.start, person.end, "PERSON", text, same))
    if "PLACE" in kinds:
        for here, text, found in zip(secrets, texts, all_runs, strict=True):
            taken = sorted((secret.start, secret.end) for secret in here)
            for start, end in towns(text, found, near_person=bool(persons)):
                if is_free(taken, start, end):
                    here.append(Secret(start, end, "PLACE", text[start:end]))
    return [sorted(here, key=lambda secret: secret.start) for here in secrets]


def _persons(number: int, text: str, found: Sequence[Run]) -> Iterator[_Person]:
    """What is a person by evidence of its own, in order of place."""
    end = 0
    if any(hint in text for hint in _SHOUTED_HINTS):
        for shouted in _SHOUTED.finditer(text):
            shown = tuple(word.title() for word in re.findall(r"[A-Z][A-Z'’-]+", shouted["it"]))
            if not lists().never.intersection(shown):
                names = shown[1:] + shown[:1] if "," in shouted["it"] else shown
                yield _Person(number, *shouted.span("it"), names)
    for run in found:
        if run.start >= end:
            person = _person_in(run, number, text)
            if person is not None:
                end = person.end
                yield person


def _person_in(run: Run, number: int, text: str) -> _Person | None:
    """The person whom a run names, if there is enough evidence for one."""
    known = lists()
    if run.plain[0] in known.never:
        # "Dr. King", "Mr. Will Grant": words that are names behind a title only.
        name = run.plain[0] in known.word or run.plain[0] in known.family
        if not name or cue_before(before(text, run.start)) is not Cue.ANY:
            run = without_never(run)
    if len(run.words) > 2 and not _listed(run.plain[0]) and run.plain[1] in known.given:
        # "Tenant Maria Lopez": the word before the given name is something else.
        run = run.part(1, len(run.words))
    if not run.words:
        return None
    front = before(text, run.start)
    cue = cue_before(front)
    if len(run.words) == 1 and cue is Cue.NONE and run.plain[0] not in known.family:
        return None
    inner = _inner(run, cue)
    # Behind a name no other capital follows, save what marks the end of it.
    if inner < len(run.words) and run.words[inner].rstrip(".") not in ("Jr", "Sr", "Esq"):
        return None
    run = run.part(0, inner)
    names = tuple(word for word in run.plain if len(word.rstrip(".")) > 1 and word[0].isupper())
    if not names:
        return None
    turned = _turned(names, text, run.end, cue, front)
    if turned is not None:
        return _Person(number, run.start, *turned)
    if not _enough(names, run, cue, text, front) or is_other(text, run.end, front):
        return None
    return _Person(number, run.start, run.end, names)


def _given(word: str) -> bool:
    return word in lists().given or word.split("-")[0] in lists().given


def _listed(word: str) -> bool:
    return _given(word) or word in lists().word


def _inner(run: Run, cue: Cue) -> int:
    """How many of the words can belong to a name."""
    known = lists()
    for place, word in enumerate(run.plain):
        # "Maria King" is a name, "Maria Monday" is none, and "King" alone only behind a title.
        sure = cue is Cue.ANY or (place and (cue is Cue.PAIR or _given(run.plain[0])))
        named_so = word in known.family or (word in known.word and not place)
        if word in known.never and not (sure and named_so):
            return place
    return len(run.words)


def _enough(names: tuple[str, ...], run: Run, cue: Cue, text: str, front: str) -> bool:
    """Whether the evidence makes a person of these names."""
    known = lists()
    if cue is Cue.ANY or len(names) > 4:
        return len(names) <= 4
    if names[0] in known.state or " ".join(names) in known.city:
        return False
    first, last = names[0], names[-1]
    if len(names) == 1:
        labelled = cue is Cue.PAIR and front.rstrip("* \n").endswith(":")
        if (cue is Cue.PAIR and _given(first)) or (labelled and _listed(first)):
            return True
        # With a comma: "boys with Becker MD" have a dystrophy, no doctor.
        degree = text.startswith(",", run.end) and cue_behind(text, run.end) is Cue.PAIR
        return last in known.family and (degree or run.words[0].endswith("."))
    cue = max(cue, cue_behind(text, run.end))
    if cue is Cue.PAIR or (cue > Cue.NONE and (_listed(first) or last in known.family)):
        return True
    if cue is Cue.STOP and len(names) == 2 and is_stop(text, run.end):
        return True
    if has_article(front):
        return False
    # "Rose Lane", "Chase Grant": words both, so more is needed.
    surname = last in known.family and last not in known.word
    return _given(first) or (first in known.word and surname)


def _turned(
    names: tuple[str, ...], text: str, end: int, cue: Cue, front: str
) -> tuple[int, tuple[str, ...]] | None:
    """(end, names) of "Lopez, Maria": both on the lists, or behind a label."""
    if len(names) > 2 or not text.startswith(", ", end):
        return None
    found = _TURNED.match(text, end)
    if found is None:
        return None
    given = spelt(found[1])
    if cue >= Cue.PAIR and front.rstrip().endswith(":"):
        sure = given not in lists().never
    else:
        # One word only: in "Ann Lopez, Maria Lee" it is two persons.
        sure = len(names) == 1 and names[0] in lists().family and given in lists().given
    return (found.end(), (given, *names)) if sure else None


def _same(persons: list[_Person], texts: Sequence[str]) -> Iterator[tuple[_Person, str]]:
    """Every place of every person, with who it is.

    Two names are one person when the shorter consists of words of the longer, and of no other
    person's: with Ana Lopez and Juan Lopez in a row, "Ms. Lopez" is a third.
    """
    longest_first = sorted({person.names for person in persons}, key=lambda n: (-len(n), n))
    owner = dict[tuple[str, ...], tuple[str, ...]]()
    for names in longest_first:
        heirs = {other for other in owner.values() if set(names) < set(other)}
        owner[names] = heirs.pop() if len(heirs) == 1 else names
    for person in persons:
        yield person, " ".join(owner[person.names])
    owners = defaultdict[str, set[str]](set)
    for names in set(owner.values()):
        for name in (names[0], names[-1]):
            if len(name) > 2 and name not in lists().never and name not in lists().word:
                owners[name].add(" ".join(names))
    if owners:
        yield from _again(owners, persons, texts)


def _again(
    owners: Mapping[str, set[str]], persons: Sequence[_Person], texts: Sequence[str]
) -> Iterator[tuple[_Person, str]]:
    """Further places where words stand that are names of the persons.

    A name after which something is called in the row, Parkinson disease, is not looked for alone.
    """
    never, found, things = lists().never, list[_Person](), set[str]()
    for number, text in enumerate(texts):
        for run in runs(text):
            if owners.keys().isdisjoint(run.plain):
                continue
            parts = list(_segments(run, owners))
            if is_other(text, run.end, before(text, run.start)):
                things.update(*(part.plain for part in parts if len(part.plain) == 1))
            elif all(word in owners or word in never for word in run.plain):
                found += [_Person(number, part.start, part.end, part.plain) for part in parts]
    taken = defaultdict[int, list[tuple[int, int]]](list)
    for person in sorted(persons, key=lambda person: person.start):
        taken[person.number].append((person.start, person.end))
    for person in found:
        free = is_free(taken[person.number], person.start, person.end)
        alone = len(person.names) == 1 and person.names[0] in things
        if free and not alone:
            who = set.intersection(*(owners[name] for name in person.names))
            yield person, who.pop() if len(who) == 1 else " ".join(person.names)


def _segments(run: Run, owners: Mapping[str, set[str]]) -> Iterator[Run]:
    """The longest parts of a run that consist of the names."""
    begin = 0
    for place, word in enumerate([*run.plain, ""]):
        if word not in owners:
            if begin < place:
                yield run.part(begin, place)
            begin = place + 1
