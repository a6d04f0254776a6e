"""How well are names and places found, what do clean files lose, and what does it cost?

    python -m tests.names_bench                 everything (minutes)
    python -m tests.names_bench --planted       notes with names put in by lot
    python -m tests.names_bench --dirty         the sentences in ../shared/data/dirty
    python -m tests.names_bench --clean 40      places found in clean files, the 40 most frequent
    python -m tests.names_bench --speed         seconds per MB, with and without

Planted names come from two pools of this file: frequent ones, all on the lists of the recogniser,
and rare or invented ones, none of them there. A mention is found when every letter of it is
replaced. Every name in a clean file counts as a false alarm, also where it is the name of a
person: of Holmes, a justice or a president. Data: ../shared/data (see its README).
"""

import argparse
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from domainwright.curate._fields import parts
from domainwright.curate._name_lists import lists
from domainwright.curate._names import named
from domainwright.curate._personal import secrets
from domainwright.curate.preset import chosen, preset
from domainwright.curate.read import read
from tests.curate_bench import DATA, clean_files

FREQUENT = (
    "Maria James Fatima Carlos Priya Kevin Olga Hassan Elena Brian Mei Kwame Deborah Rajesh Ingrid"
    " Tyrone Sofia Gregory Aisha Stephen".split(),
    "Lopez Thompson Okafor Nguyen Kowalski Patel Murphy Schneider Hernandez Chen Williams Johansson"
    " Haddad Singh O'Connor Rossi Ferreira Tanaka Campbell Ivanov".split(),
)
RARE = (
    "Zorvan Thessaly Okemute Brynjar Xochitl Ludovica Tavish Nkemdilim Ysolde Branimir Quillan"
    " Saoirse Eirwen Jedrzej Mirabai Ottoline Perpetua Aurelio-Jan Fenwick Dagny".split(),
    "Abrantov Quistgaard Zelnikova Thistlewick Mbanefo Oyarzabal Krzeminski Vantongeren Halloumis"
    " Szczepanik D'Ambrovski Nakagiri Featherlow Iwuchukwu Brambani Dunleavitt Ostrovian"
    " Eskandarnia Pellegrue Van_Houtryve".split(),
)
TOWNS = (
    "Boston Chicago Denver Atlanta Springfield Leeds Toronto Fresno".split(),
    "Quarrington Elmsbrook Zandvliet Porterville Little_Haddock Oakmere Brackton Umberwick".split(),
)
# <F> full name, <L> family name, <G> given name, <R> family name first, <T> town; <H> facility.
STYLES = {
    "header": [
        "Patient: <F>\nDOB: 03/14/1962\nMRN: 00482913\nAttending: Dr. <F2>\n\nHPI: 62-year-old"
        " seen for chest pain. No fever or cough.",
        "Patient Name: <R>\nAge: 71\nProvider: <F2>, MD\nChief complaint: shortness of breath.",
        "NAME: <F>    SEX: F    ROOM: 12B\nReferred by: <F2>\nReason for visit: rash.",
        "Pt: <F>, 45M, allergic to penicillin. PCP: Dr. <L2>. Follow up in two weeks.",
    ],
    "discharge": [
        "<F> is a 45-year-old who was admitted with pneumonia. Mr. <L> improved on ceftriaxone."
        " He lives in <T> with his wife <G2>. Discharged home.",
        "Ms. <L> was transferred from <H> after a fall. <L> denied loss of consciousness. Her"
        " daughter <F2> was at the bedside. Plan: physical therapy.",
        "This 80 y/o resident of <T>, OH was seen by Dr. <F>. Dr. <L> advised a CT scan. The"
        " family, including her son <G2>, agreed.",
        "Discharge summary. The patient, <F>, a 33-year-old teacher from <T>, was treated at <H>."
        " Signed: <F2>, RN",
    ],
    "email": [
        "Dear <G>,\n\nYour results are normal. Please call the office.\n\nBest regards,\n<F2>",
        "From: <F> <x@example.com>\nTo: <F2>\nSubject: Appointment\n\nHi <G2>, can we move it to"
        " Friday? Thanks,\n<G>",
        "Hello, my name is <F> and I live in <T>. I was born in <T2>. My doctor, Dr. <L2>, told me"
        " to stop aspirin. Is that safe?",
    ],
    "complaint": [
        "I am writing about the service of <F> at the branch in <T>, TX. On 3 May <L> refused to"
        " refund the fee. Contact <F2>, phone 212-555-0142.",
        "<F> filed a complaint. According to Mr. <L>, the agent, <F2>, never called back.",
        "Claimant <F> moved to <T> in 2019. Ms. <L> says that she never signed the form.",
    ],
    "signature": [
        "The tests were negative. See you in June.\n\nSincerely,\n<F>, MD\n<H>\n<T>, IL 62701",
        "Electronically signed by: <F> on 04/02/2021. cc: <F2>",
        "Thank you for the referral.\n-- \n<F>\n<T>, CA",
    ],
    "dialogue": [
        "Nurse <L>: How are you today?\nPatient: I'm <F>. My husband <G2> drove me here from <T>.",
        "User: Can you book a table?\nAgent: Sure, under what name?\nUser: <F>. And my friend <G2>"
        " is coming too.",
        '"Is <G> better?" asked Dr. <L2>. "Yes," said <F>, "thank you."',
    ],
    "prose": [
        "Yesterday <F> went to the clinic, since <G> had been ill. <L> was told to rest.",
        "The deposition of <F> was taken in <T>. Counsel asked whether <L> had read the contract.",
        "We discussed the case with <F> and <F2>; both want to wait.",
    ],
    # Written after the recogniser was finished, and nothing was mended for them since.
    "fresh": [
        "Pt seen w/ Dr <L>. States pain 7/10. Son <G2> present.",
        "Spoke to <F2> (daughter) by phone re: transfer to <H>.",
        "Ms <L>, accompanied by spouse <F2>, presents for follow-up after discharge from <H>.",
        "Interpreter <F2> used. <F> understands the risks.",
        "I met <F> at a conference in <T>; <G> works for the county.",
        "Minutes: present were <F>, <F2> and the chair.",
        "RE: <F>, claim 12. The insured, <F>, resides in <T>.",
        "On admission to the ward <F> was confused. Nursing (<L2>) informed.",
        "<F> - room 4 - nothing by mouth after midnight",
        "Per <F2>, <L> stopped taking the tablets.",
        "<L>, <G>\nAge 54. Lives alone in <T>. Works as a cook.",
        "The guarantor is <F>; notices go to <F2>, at the office in <T>.",
    ],
}
HOUSES = ("St. {0}'s Hospital", "{1} Memorial Hospital", "{1} Medical Center", "{1} Clinic")


def note(rng: random.Random, style: str, pool: int) -> tuple[str, list[tuple[int, int, str]]]:
    """A note with names of one pool, and (start, end, kind) of every name and place in it."""
    given, family = ([word.replace("_", " ") for word in words] for words in (FREQUENT, RARE)[pool])
    towns = [word.replace("_", " ") for word in TOWNS[pool]]
    people = {n: (rng.choice(given), rng.choice(family)) for n in ("", "2")}
    text, truth, end = "", list[tuple[int, int, str]](), 0
    template = rng.choice(STYLES[style])
    for mark in re.finditer(r"<([FLGRTH])(2?)>", template):
        text += template[end : mark.start()]
        first, last = people[mark[2]]
        value = {
            "F": f"{first} {last}",
            "L": last,
            "G": first,
            "R": f"{last}, {first}",
            "T": towns[(len(last) + bool(mark[2])) % len(towns)],
            "H": rng.choice(HOUSES).format(rng.choice(given), rng.choice(towns)),
        }[mark[1]]
        kind = "PLACE" if mark[1] in "TH" else "PERSON"
        truth.append((len(text), len(text) + len(value), kind))
        text, end = text + value, mark.end()
    return text + template[end:], truth


def surroundings(rng: random.Random) -> str:
    """A paragraph of clean text that stands around the notes."""
    if not _PARAGRAPHS:
        rows = read(DATA / "medical" / "qa.jsonl").rows[:3_000]
        _PARAGRAPHS.extend(
            text[:400].rpartition(". ")[0] + "." for row in rows for text in texts(row)
        )
    return rng.choice([p for p in rng.sample(_PARAGRAPHS, 5) if len(p) > 1] or [""])


_PARAGRAPHS = list[str]()


def texts(row) -> list[str]:
    return [text for _, text in parts(row)]


def print_planted(notes: int, misses: int) -> dict[str, tuple[float, float]]:
    """Recall by pool and style, and precision; returns pool and kind -> (recall, precision)."""
    rng = random.Random(0)
    print(f"{'planted':<24}{'mentions':>9}{'recall':>8}   {'found':>6}{'precision':>10}")
    results = {}
    for pool, pool_name in enumerate(("frequent", "rare")):
        hits, all_, missed = Counter[str](), Counter[str](), Counter[str]()
        good, got, wrong = Counter[str](), Counter[str](), Counter[str]()
        for style in STYLES:
            for _ in range(notes):
                body, truth = note(rng, style, pool)
                lead = surroundings(rng) + "\n"
                found = named([lead + body])[0]
                covered = {n for s in found for n in range(s.start - len(lead), s.end - len(lead))}
                for start, end, kind in truth:
                    ok = all(n in covered or not body[n].isalpha() for n in range(start, end))
                    for key in (style, kind):
                        all_[key] += 1
                        hits[key] += ok
                    if not ok:
                        front = body[max(0, start - 20) : start]
                        missed[f"{style}: {front}<{kind}>{body[end : end + 12]}"] += 1
                inside = {n for start, end, _ in truth for n in range(start, end)}
                for secret in found:
                    got[secret.kind] += 1
                    right = (
                        secret.start - len(lead) in inside or secret.end - 1 - len(lead) in inside
                    )
                    good[secret.kind] += right
                    wrong[secret.text] += not right
        for key in (*STYLES, "PERSON", "PLACE"):
            line = f"{pool_name + ' ' + key:<24}{all_[key]:>9}{hits[key] / max(1, all_[key]):>8.3f}"
            if key in got:
                results[f"{pool_name} {key}"] = (hits[key] / all_[key], good[key] / got[key])
                line += f"   {got[key]:>6}{good[key] / got[key]:>10.3f}"
            print(line)
        _print_top("missed", missed, misses)
        _print_top("wrong", +wrong, misses)
    return results


def print_dirty(misses: int) -> None:
    """The names in the sentences with planted numbers; the truth does not list them."""
    sentence = re.compile(
        r"(?:(?:Contact|Patient|write to|Submitted by) (?P<a>[A-Z]\w+ [A-Z]\w+)(?=,| at| from)"
        r"|(?P<b>[A-Z]\w+ [A-Z]\w+) lives at)"
    )
    persons = (
        "Oliver Trentham|Wen Jialing|Noor Haddad|Priya Raghunathan|Tobias Lindqvist|Annika"
        " Drost|Hector Valdivia|Lucia Ferrante|Marlene Okafor|Samuel Abernathy|Dmitri"
        " Volkonsky|Grace Mbeki"
    ).split("|")
    hits, seen, missed = 0, 0, Counter[str]()
    pii = dict(chosen(preset(None)))["pii"].ready(None)
    for file in sorted((DATA / "dirty").glob("*_dirty.jsonl")):
        truth = map(json.loads, file.with_suffix(".truth.jsonl").read_text("utf-8").splitlines())
        lines = {entry["line"] for entry in truth if entry["defect"] == "pii"}
        for row in read(file).rows:
            if row.line not in lines:
                continue
            change = pii(row)
            bodies = texts(change.row if change else row)
            for text, found in zip(bodies, named(bodies), strict=True):
                for match in sentence.finditer(text):
                    name = match["a"] or match["b"]
                    if name not in persons:
                        continue
                    seen += 1
                    at = text.index(name, match.start())
                    ok = any(s.start <= at and at + len(name) <= s.end for s in found)
                    hits += ok
                    missed[text[max(0, at - 20) : at + len(name) + 15]] += not ok
    print(f"dirty files: {hits} of {seen} names found ({hits / max(1, seen):.3f})")
    _print_top("missed", +missed, misses)


def print_clean(show: int, only: str | None) -> None:
    print(f"{'clean file':<32}{'rows':>7}{'changed':>9}{'per 1,000 rows: PERSON':>24}{'PLACE':>8}")
    by_domain = defaultdict[str, Counter](Counter)
    for _, path in clean_files(DATA):
        name = path.relative_to(DATA).as_posix()
        domain = name.split("/")[0]
        if only and only not in name:
            continue
        rows = read(path).rows
        counts = Counter[str]()
        for row in rows:
            bodies = texts(row)
            found = named(bodies)
            counts["changed"] += any(found)
            for text, secrets_ in zip(bodies, found, strict=True):
                for secret in secrets_:
                    counts[secret.kind] += 1
                    around = text[max(0, secret.start - 25) : secret.end + 15].replace("\n", "/")
                    by_domain[domain][secret.kind, secret.text] += 1
                    _AROUND.setdefault((domain, secret.kind, secret.text), around)
        each = [1000 * counts[kind] / len(rows) for kind in ("changed", "PERSON", "PLACE")]
        print(f"{name:<32}{len(rows):>7}{each[0] / 10:>8.2f}%{each[1]:>24.1f}{each[2]:>8.1f}")
    for domain, counts in by_domain.items():
        print(f"{domain}: {counts.total()} places")
        for (kind, text), count in counts.most_common(show):
            print(f"  {count:>5} {kind:<7}{text:<32} …{_AROUND[domain, kind, text]}…")


_AROUND = dict[tuple[str, str, str], str]()


def print_speed() -> None:
    for domain in ("medical", "legal", "finance", "science", "general"):
        rows = [
            row
            for _, path in clean_files(DATA)
            if path.parent.name == domain
            for row in read(path).rows
        ]
        bodies = [texts(row) for row in rows]
        size = sum(len(text.encode()) for body in bodies for text in body) / 1e6
        started = time.process_time()
        for body in bodies:
            named(body)
        names = time.process_time() - started
        started = time.process_time()
        for body in bodies:
            for text in body:
                list(secrets(text))
        pii = time.process_time() - started
        print(
            f"{domain:<10}{size:>6.1f} MB  names {names / size:.4f} s/MB  pii {pii / size:.4f} s/MB"
        )


def _print_top(title: str, counts: Counter[str], show: int) -> None:
    for text, count in counts.most_common(show):
        print(f"    {title} {count:>4}  {text!r}")


def check_pools() -> Iterator[str]:
    known = lists()
    for pool, (given, family) in enumerate((FREQUENT, RARE)):
        for word in given:
            if (word in known.given) == bool(pool):
                yield word
        for word in family:
            if (word in known.family) == bool(pool):
                yield word


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--dirty", action="store_true")
    parser.add_argument("--clean", type=int, metavar="N", help="show the N most frequent")
    parser.add_argument("--only", help="clean files with this in their name")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--show", type=int, default=0, help="how many misses to print")
    wanted = parser.parse_args()
    if not (DATA / "dirty").is_dir():
        print(f"skipped: there is no {DATA / 'dirty'}.")
        return
    assert not list(check_pools()), f"in the wrong pool: {list(check_pools())}"
    everything = not (wanted.planted or wanted.dirty or wanted.clean or wanted.speed)
    if everything or wanted.planted:
        print_planted(200, wanted.show)
    if everything or wanted.dirty:
        print_dirty(wanted.show)
    if everything or wanted.clean is not None:
        print_clean(wanted.clean or 40, wanted.only)
    if everything or wanted.speed:
        print_speed()


if __name__ == "__main__":
    main()
