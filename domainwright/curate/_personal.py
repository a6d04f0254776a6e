"""What identifies a person or an account, as patterns with their checks.

Each kind has a pattern; where the format has a checksum or a range, it must hold, so that
a part number is no card and a section number is no address. Sources of the checks:
Luhn (ISO/IEC 7812), IBAN mod 97 (ISO 13616), the ranges the US Social Security
Administration and the North American Numbering Plan assign.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of secret."""

    name: str
    """As it stands in the placeholder: [EMAIL_1]."""
    pattern: re.Pattern[str]
    """The secret is the group "it", or the whole match."""
    holds: Callable[[re.Match[str]], bool] = lambda found: True
    hints: tuple[str, ...] = ()
    """Lower case; a text without any of them is not searched. () is always searched."""
    digits: int = 0
    """A text with fewer is not searched either."""
    within: re.Pattern[str] | None = None
    """What every match holds, found sooner: a text without it is not searched either."""


@dataclass(frozen=True, slots=True)
class Secret:
    start: int
    end: int
    kind: str
    text: str
    same: str = ""
    """Equal for what is one value, however it is written; empty: the text says it."""


def luhn(digits: str) -> bool:
    """The check sum of card numbers.

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(text: str) -> bool:
    """The check digits of an IBAN.

    >>> iban("GB82 WEST 1234 5698 7654 32"), iban("GB82 WEST 1234 5698 7654 33")
    (True, False)
    """
    text = re.sub(r"[\s-]", "", text).upper()
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


def _card(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found[0])
    known = re.match(r"4|5[1-5]|2[2-7]|3[47]|3(?:0|6|8)|6(?:011|5|4)|35", digits)
    return 13 <= len(digits) <= 19 and bool(known) and luhn(digits) and len(set(digits)) > 1


def _ssn(found: re.Match[str]) -> bool:
    area, group, serial = re.findall(r"\d+", found["it"])
    # Numbers from 900 are tax numbers (ITIN) or invented; both stand for a person here.
    return area not in ("000", "666") and group != "00" and serial != "0000"


def _ip(found: re.Match[str]) -> bool:
    octets = [int(part) for part in found["it"].split(".")]
    before = found.string[max(0, found.start() - 24) : found.start()].lower()
    if max(octets) > 255 or octets[0] == 0 or re.search(r"(§|sections?|version|v\.?)\s*$", before):
        return False
    # A section number of a contract, 2.1.3.4, has the same form.
    named = re.search(r"\b(ip|address|host|server|from|client|login)\b", before)
    return bool(named) or sum(octet > 31 for octet in octets) >= 2


def _ip6(found: re.Match[str]) -> bool:
    try:
        ipaddress.IPv6Address(found["it"])
    except ValueError:
        return False
    return True


def _phone(found: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", found["it"]).removeprefix("1")
    # 800 numbers belong to offices; a number plan never assigns 0 and 1 in these places.
    free = digits[:3] in ("800", "833", "844", "855", "866", "877", "888")
    return len(digits) == 10 and digits[0] > "1" and not free


def _international(found: re.Match[str]) -> bool:
    return 9 <= len(re.sub(r"\D", "", found["it"])) <= 15


_WORTH = re.compile(r"[\d@]")
_DIGIT = re.compile(r"\d")


def _digits(text: str) -> int:
    """How many digits the text has, of any script."""
    return sum(map(text.count, "0123456789")) if text.isascii() else len(_DIGIT.findall(text))


def _any(names: str) -> str:
    return "|".join(names.split())


_STREETS = _any(
    "Street St Avenue Ave Road Rd Lane Ln Drive Dr Boulevard Blvd Court Ct Place Pl Way Terrace"
    " Ter Circle Cir Parkway Pkwy Square Sq Highway Hwy Trail Crescent Close Mews Row Alley"
)
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI"
    r"|S[CD]|T[NX]|UT|V[AT]|W[AIVY])"
)
_WORD = r"[A-Z][A-Za-z'’.-]+"
_NUMBER = r"(?P<it>(?=[A-Z0-9-]*\d{3})[A-Z0-9][A-Z0-9-]{3,19})"
_DATE = (
    r"(?P<it>\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{4}-\d{2}-\d{2}"
    r"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.? \d{1,2},? \d{4}"
    r"|\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?,? \d{4})"
)

_UNIT = r"(?:,? (?:Suite|Ste\.?|Apt\.?|Unit|Floor|#) ?[\w-]+)?"
_STREET = rf"\d(?<![\w.§-].)\d{{0,4}}[A-Z]? (?:[NSEW]\.? )?(?:{_WORD} ){{1,4}}(?:{_STREETS})\b"
_TOWN = rf"(?:{_WORD} ?){{1,3}}, {_STATE}(?:,? \d{{5}}(?:-\d{{4}})?)?\b"
_LIVES = r"lives?|lived|living|resid(?:es?|ing|ed)|home address|mailing address|address"
_OF = r"(?i: (?:number|no\.?|id|#))"
_IS = r"\s?(?:#|:|is|=)"

# In order: what an earlier kind has taken, a later one does not see. A pattern begins with a set of
# signs where it can, and what may not stand before it comes behind: so the search skips to those.
KINDS: tuple[Kind, ...] = (
    Kind(
        "URL",
        re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s/:@]+:[^\s/@]+@[^\s<>\"'()]*[\w/]", re.I),
        hints=("://",),
    ),
    Kind("EMAIL", re.compile(r"\b[\w.%+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b"), hints=("@",)),
    Kind(
        "IBAN",
        re.compile(r"[A-Z](?<!\w.)[A-Z]\d{2}(?:[ -]?[A-Z0-9]{2,4}){3,8}\b"),
        lambda found: iban(found[0]),
        digits=7,
    ),
    Kind(
        "CARD",
        re.compile(r"\d(?<![\d.,$-].)(?:[ -]?\d){12,18}(?![\d-]|[.,]\d)"),
        _card,
        digits=13,
    ),
    Kind("SSN", re.compile(r"(?P<it>\d(?<![\d-].)\d\d-\d{2}-\d{4})(?![\d-])"), _ssn, digits=9),
    Kind(
        "SSN",
        re.compile(
            r"\b(?:SSN|social security (?:number|no\.?))\W{1,3}(?:is )?"
            r"(?P<it>\d{3} ?\d{2} ?\d{4})\b",
            re.I,
        ),
        hints=("ssn", "social security"),
        digits=9,
    ),
    Kind(
        "IP",
        re.compile(r"(?P<it>\d(?<![\d.].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3})(?!\d|\.\d)"),
        _ip,
        digits=4,
    ),
    Kind(
        "IP",
        re.compile(r"(?<![\w:.])(?P<it>[0-9a-f]{1,4}:[0-9a-f:]{4,34})(?![\w:])", re.I),
        _ip6,
        within=re.compile(r":[0-9a-fA-F]{0,4}:"),
    ),
    Kind(
        "PHONE",
        re.compile(
            r"(?<![\w.$-])(?P<it>(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])"
            r"\d{3}[ .-]\d{4})(?![\w-]|\.\d)"
        ),
        _phone,
        digits=10,
        within=re.compile(r"\d\d\d[ .-]\d{4}"),
    ),
    Kind(
        "PHONE",
        re.compile(r"(?<!\w)(?P<it>\+\d{1,3}(?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){2,5})(?!\w)"),
        _international,
        hints=("+",),
        digits=9,
    ),
    Kind(
        "PHONE",
        re.compile(
            r"\b(?:phone|tel|telephone|mobile|cell|fax|call)\b\W{0,3}(?:number )?(?:at |is )?"
            r"(?P<it>\d{3}[ .-]\d{4}|\d{10})(?!\w)",
            re.I,
        ),
        hints=("phone", "tel", "mobile", "cell", "fax", "call"),
        digits=7,
    ),
    Kind(
        "ADDRESS",
        re.compile(rf"{_STREET}\.?{_UNIT},? {_TOWN}"),
        digits=1,
    ),
    Kind(
        "ADDRESS",
        re.compile(rf"\b(?:{_LIVES})(?: is| at|:| of)* (?P<it>{_STREET})"),
        hints=("live", "living", "resid", "address"),
        digits=1,
    ),
    Kind(
        "BIRTH",
        re.compile(rf"\b(?:date of birth|birth ?date|d\.?o\.?b\.?)\W{{1,3}}(?:is )?{_DATE}", re.I),
        hints=("birth", "dob", "d.o.b"),
        digits=4,
    ),
    Kind(
        "RECORD",
        re.compile(
            rf"\b(?:(?i:mrn){_OF}?{_IS}?|(?i:medical record|patient|chart|hospital)"
            rf"(?:{_OF}{_IS}?|{_IS}))\s?{_NUMBER}\b"
        ),
        hints=("record", "mrn", "patient", "chart", "hospital"),
        digits=3,
    ),
    Kind(
        "ACCOUNT",
        re.compile(
            rf"\b(?i:account|acct\.?|routing|sort code|policy|member){_OF}{_IS}?\s?{_NUMBER}\b"
        ),
        hints=("account", "acct", "routing", "sort code", "policy", "member"),
        digits=3,
    ),
    Kind(
        "CASE",
        re.compile(rf"\b(?i:case|docket|matter|file){_OF}{_IS}?\s?{_NUMBER}\b"),
        hints=("case", "docket", "matter", "file"),
        digits=3,
    ),
    Kind(
        "PASSPORT",
        re.compile(rf"\b(?i:passport|driver['’]?s licen[cs]e){_OF}?{_IS}?\s?{_NUMBER}\b"),
        hints=("passport", "licen"),
        digits=3,
    ),
)
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))


def secrets(text: str, kinds: tuple[str, ...] = NAMES) -> Iterator[Secret]:
    """What the text gives away, in order of place; no two overlap.

    >>> [(found.kind, found.text) for found in secrets("Mail ann@example.com or 212-555-0142.")]
    [('EMAIL', 'ann@example.com'), ('PHONE', '212-555-0142')]
    """
    taken = list[Secret]()
    if not _WORTH.search(text):
        return
    lower, digits = text.lower(), _digits(text)
    for kind in KINDS:
        if kind.name not in kinds or digits < kind.digits:
            continue
        if kind.hints and not any(hint in lower for hint in kind.hints):
            continue
        if kind.within and not kind.within.search(text):
            continue
        for found in kind.pattern.finditer(text):
            place = found.span("it") if "it" in kind.pattern.groupindex else found.span()
            free = all(place[1] <= other.start or other.end <= place[0] for other in taken)
            if free and kind.holds(found):
                # "212 555 0142" and "212-555-0142" are one number.
                stood = text[slice(*place)]
                same = re.sub(r"[\s().-]", "", stood).lower()
                taken.append(Secret(*place, kind.name, stood, same))
    yield from sorted(taken, key=lambda secret: secret.start)
