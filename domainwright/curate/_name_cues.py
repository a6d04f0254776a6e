"""What stands before or behind a name of a person and tells that it is one, or is none."""

import re
from enum import IntEnum

from domainwright.curate._capitals import last_word


class Cue(IntEnum):
    """How much a cue lets through."""

    NONE = 0
    LISTED = 1
    """Two words, one of them on a list of names: "I am Maria X"."""
    STOP = 2
    """Two words before a stop: "I am X Y."; or two, one of them on a list."""
    PAIR = 3
    """Two words: "seen by X Y"; or one that is on a list, behind a label: "Patient: Maria"."""
    ANY = 4
    """One word: "Dr. X"."""


def _any(words: str) -> str:
    return "|".join(words.split())


_PERSONS = (
    "patient client resident customer employee tenant borrower claimant complainant applicant"
    " contact caregiver caller witness mother father sister brother spouse guardian wife husband"
    " son daughter nurse doctor physician provider surgeon attending consultant therapist clinician"
)
_RELATIVES = (
    "wife husband son daughter mother father sister brother spouse partner fiancé fiancée fiance"
    " fiancee grandson granddaughter grandmother grandfather aunt uncle cousin nephew niece"
    " roommate neighbor neighbour caregiver friend colleague boss supervisor manager landlord nurse"
    " therapist"
    " daughter-in-law son-in-law mother-in-law father-in-law stepson stepdaughter girlfriend"
    " boyfriend doctor cardiologist oncologist neurologist surgeon pediatrician lawyer attorney"
)
_TITLES = (
    "Doctor Professor Miss Nurse Judge Justice Magistrate Attorney Officer Detective Sergeant"
    " Captain Reverend Pastor Rabbi Imam Coach Sheriff Messrs. Mister Señor Señora"
)
_SHORT_TITLES = "Dr Mr Mrs Ms Mx Prof Rev Sgt Lt Capt Sr Sra Srta Mme Herr Frau"
_HANDLED = (
    "seen signed referred submitted written prepared reviewed examined evaluated treated dictated"
    " reported accompanied performed filed witnessed assisted operated followed verified supervised"
    " assessed admitted discharged interviewed transcribed counseled"
)
_BEFORE: tuple[tuple[Cue, re.Pattern[str]], ...] = (
    (Cue.ANY, re.compile(rf"(?:^|[^\w-])(?:(?:{_any(_SHORT_TITLES)})\.?|{_any(_TITLES)})\s$")),
    (
        Cue.ANY,
        re.compile(
            r"(?i:\b(?:my|her|his|their|patient['’]?s?) (?:full |first |last )?name (?:is|was)"
            rf"|\b(?:man|woman|boy|girl|lady|gentleman|child|infant|teenager|veteran|person|friend"
            rf"|colleague|neighbou?r|{_any(_PERSONS)}),? (?:named|called))\s$"
        ),
    ),
    (
        Cue.ANY,
        re.compile(
            r"\b(?i:(?:his|her|my|our|your|their|patient['’]s) (?:[\w-]{2,12} )?"
            rf"(?:{_any(_RELATIVES)})),?\s$"
        ),
    ),
    (Cue.ANY, re.compile(r"(?:^|\n|[.!?] )\W?Dear\s$")),
    (
        Cue.ANY,
        re.compile(r"\b(?i:(?:patient|client|full|first|last|given|family|maiden) name): ?$"),
    ),
    (
        Cue.PAIR,
        re.compile(
            rf"\b(?i:name|{_any(_PERSONS)}|(?:dictated|signed|{_any(_HANDLED)}) by|signed|author"
            r"|attn|attention|cc|from|to|sender|recipient|next of kin|pt|emergency contact|insured"
            r"|guarantor|subscriber|account holder|cardholder|informant|interpreter|pcp"
            r"|radiologist|pathologist|anesthesiologist|pharmacist|plaintiff|defendant)"
            r"(?i: name)?(?:\(s\))?\*{0,2}:\*{0,2}\s{0,3}$"
        ),
    ),
    (Cue.PAIR, re.compile(r"(?:^|\n|[.!?] )\W?(?:Hi|Hello|Hey|Good (?:morning|afternoon))\s$")),
    (
        Cue.PAIR,
        re.compile(
            r"(?i:(?:sincerely|regards|wishes|thanks|thank you|yours truly|respectfully|cheers"
            r"|faithfully)[,.!]?\s{1,3}(?:[-–—] ?)?)$|(?:^|\n)(?:/s/|[–—]|--)\s{0,3}$"
        ),
    ),
    (
        Cue.PAIR,
        re.compile(
            rf"(?:\b(?i:(?:{_any(_HANDLED)}) by|write to|spoke (?:to|with)|met with|discussed with"
            r"|ask for|on behalf of|care of|payable to|addressed to|follow up with|copy to|pt"
            r"|signed|deposition of|testimony of|daughter of|son of|wife of|married to"
            r"|under the name(?: of)?))\s$"
        ),
    ),
    (
        Cue.STOP,
        re.compile(rf"(?:^|[^\w-])(?:{_any(_PERSONS.title())}|patient|client|tenant|borrower)\s$"),
    ),
    (Cue.STOP, re.compile(r"(?:^|[^\w])I(?: am|['’]m)\s$")),
    (Cue.LISTED, re.compile(r"(?:^|[^\w])(?:[Tt]his is|It['’]s)\s$")),
)
# A look at the last word tells cheaply that nothing of the above can stand there.
LAST_WORDS = frozenset(
    f"{_PERSONS} {_RELATIVES} {_TITLES} {_SHORT_TITLES} is was named called dear hi hello hey"
    " morning afternoon sincerely regards wishes thanks you truly respectfully cheers faithfully"
    " /s/ – — -- name by signed author attn attention cc from to sender recipient kin pt insured"
    " guarantor subscriber holder cardholder informant interpreter pcp radiologist pathologist"
    " anesthesiologist pharmacist with for of am i'm i’m it's it’s messrs plaintiff defendant"
    " name(s)".lower().split()
)
_EVERYWHERE = frozenset("by to with of for from is was am".split())
_WITH_THEM = frozenset(
    f"{_HANDLED} name write spoke met discussed ask behalf care payable addressed follow copy"
    " deposition testimony daughter son wife married under i this".split()
)
_BEHIND = re.compile(
    r"(?:,? (?:Jr\.?|Sr\.?|I{2,3}|IV)(?!\w))?(?:"
    r",? (?:M\.?D|R\.?N|Ph\.?D|D\.?D\.?S|LCSW|LPN|CRNP|APRN|FNP|MBBS|FACP|FACS|PharmD|Esq)\b(?! \d)"
    r"|, (?:D\.?O|N\.?P|P\.?A(?:-C)?|DPM|DVM|J\.?D|CPA)\b(?! \d)"
    r"|,? ?\(?(?:(?:an? )?\d{1,3}[- ](?:year|yr|month|week|y/?o)|\d{1,3} ?[MF]\b|aged? \d"
    r"|(?:phone|tel|telephone|mobile|cell|SSN|DOB|MRN|D\.O\.B|date of birth|born (?:on )?\d)\b)"
    r"| (?:is|was) an? \d{1,3}[- ](?:year|yr|month|y/?o)"
    r"| (?:lives|resides|lived|resided) (?:at|in|on) | at \[EMAIL|,? ?[<(]?(?:\[EMAIL|[\w.+-]+@\w)"
    r"| from \[IP| wrote:| filed (?:a|an|for) | told (?:me|us|him|her|them)\b)"
)
_DOES = re.compile(
    r" (?:complain(?:s|ed) of|present(?:s|ed) (?:to|with|for)|den(?:ies|ied)|called|phoned|lives"
    r"|works|(?:was|is being) (?:seen|admitted|discharged|referred|transferred|diagnosed|treated)"
    r")\b"
)
_STOP = re.compile(
    r"[.,!?;\n]|$| (?:is|was|has|had|says|said|states|claims|wants|asks|can|did|does|will|\w+ed)\b"
)
_EPONYMS = (
    "disease diseases syndrome syndromes sign signs test tests score scores scale catheter reflex"
    " tumor tumors tumour lymphoma sarcoma cell cells criteria classification stain staining bodies"
    " body palsy anemia anaemia chorea contracture fever fracture phenomenon esophagus oesophagus"
    " thyroiditis nephropathy disorder procedure operation maneuver manoeuvre method technique"
    " equation law laws theorem distribution process algorithm model models constant effect number"
    " numbers principle ratio index coefficient function functions transform filter matrix space"
    " series curve paradox rule rules doctrine motion rights warning warnings hearing factor virus"
    " bacillus gland duct canal node nodes ring ligament triangle line lines plaque plaques spot"
    " spots neuropathy ataxia dystrophy malformation anomaly deformity exercise exercises position"
    " tube retractor forceps protocol prize medal award lecture foundation organization hypothesis"
    " conjecture inequality integral estimator statistic regression machine machines chain chains"
    " kernel trial trials study regimen diet mutation hospital clinic university college school"
    " street avenue road county river lake island bay bank company type"
    " sequence pupil jaw congenital kit-like hospice pavilion award awards family-type gene genes"
)
_NO_PERSON_BEHIND = re.compile(
    rf"(?:['’]s?)?[ -](?i:{_any(_EPONYMS)})\b|,? et al\b|,? and colleagues\b| vs?\.?\s| ?& |-\w"
    r"| and (?:Co|Company|Sons|Bros|Associates)\b|,? (?:Inc|Corp|LLC|LLP|L\.L\.|Ltd|PLC|plc|P\.C"
    r"|N\.A|GmbH|AG|S\.A|Co)\b|,? \(?(?:19|20)\d\d[a-z]?\b|\.com|®|™| \[\d"
)
_NO_PERSON_BEFORE = re.compile(
    r"(?:\b[vV]s?\.|\bv|&|\bIn re|\bEx parte|\bSt\.?|\bSaint|\bFort|\bMount|\bPort|\bLake)\s$"
)
_ARTICLE = re.compile(r"\b(?:[Tt]he|[Aa]n?)\s$")


def cue_before(before: str) -> Cue:
    """What the text that ends where a name may begin says about it.

    >>> cue_before("was seen by Dr. "), cue_before("was seen by "), cue_before("in the spring ")
    (<Cue.ANY: 4>, <Cue.PAIR: 3>, <Cue.NONE: 0>)
    """
    last = last_word(before[-24:])
    if last not in LAST_WORDS:
        return Cue.NONE
    everywhere = last in _EVERYWHERE and before[-2:] != ": "
    if everywhere and _WITH_THEM.isdisjoint(before.lower().split()[-5:]):
        return Cue.NONE
    return next((cue for cue, pattern in _BEFORE if pattern.search(before)), Cue.NONE)


def cue_behind(text: str, end: int) -> Cue:
    """What follows a name of two words: a degree, an age, a number, what patients do.

    >>> cue_behind("Ann Lee, MD", 7), cue_behind("Ann Lee denies pain", 7)
    (<Cue.PAIR: 3>, <Cue.LISTED: 1>)
    """
    if _BEHIND.match(text, end):
        return Cue.PAIR
    return Cue.LISTED if _DOES.match(text, end) else Cue.NONE


def is_stop(text: str, end: int) -> bool:
    """Whether the name ends here: a mark, or what a person does.

    >>> is_stop("Ann Lee.", 7), is_stop("Ann Lee moved", 7), is_stop("Ann Lee and", 7)
    (True, True, False)
    """
    return bool(_STOP.match(text, end))


def is_other(text: str, end: int, before: str) -> bool:
    """Whether something else is named after a person here, or a publication or case is cited.

    >>> is_other("Parkinson disease", 9, ""), is_other("Smith v. Jones", 5, "")
    (True, True)
    """
    return bool(_NO_PERSON_BEHIND.match(text, end) or _NO_PERSON_BEFORE.search(before))


def has_article(before: str) -> bool:
    """Whether "the" or "a" stands before it: "the James Webb telescope"."""
    return bool(_ARTICLE.search(before))
