"""Planted worlds: small domains whose right verdict is known because of how they are made.

    changing     facts stand in the documents alone              retrieval must win
    convention   a rule that many examples show and few do not   tuning must win
    ceiling      the untouched base is right already             nothing may be changed
    scarce       a handful of rows                               nothing may be claimed
    noise        answers drawn by lot                            nothing may be claimed
    lopsided     the same, but most answers are one              nothing may be claimed
    paraphrased  every fact asked in many ways in training       tuning catches up with retrieval
    costly       what is gained costs general ability            the gain must be refused

A world is written as the files a user would have and a study file; its verdict is judged by
`right`. Everything is drawn from the seed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from domainwright.core.artifacts import write_atomic
from domainwright.core.seeds import generator
from domainwright.studies._choice import parts
from domainwright.studies._facts import find
from domainwright.studies._yaml import write_yaml
from domainwright.studies.judge import REFERENCE
from domainwright.studies.records import Verdict

Rows = list[dict[str, Any]]
SYLLABLES = "ba ce di fo gu ha ke li mo nu pa re si to vu wa ze dra kel mir nos pil tas vor".split()
THINGS = "pump valve sensor motor filter switch heater mixer burner gauge"
COLOURS = "red blue green black white grey brown yellow"
GOODS = "paint rope cement timber wire glass tiles nails"
UNITS = "boxes crates rolls bags pallets"
DESKS = ("north desk", "south desk", "east desk", "west desk")
PEOPLE = "Hansen Okafor Ruiz Lindqvist Moreau Tanaka Novak Adeyemi Kowalski Brandt"


@dataclass(frozen=True, slots=True)
class World:
    """One kind of domain."""

    name: str
    summary: str
    make: Callable[[np.random.Generator], dict[str, Any]]
    """{"train": rows, "test": rows, "documents": rows, "settings": of the study}."""
    right: Callable[[Verdict], bool]
    """Whether a verdict is the planted one."""


def write_world(name: str, seed: int, folder: Path, base: str = "smollm2-135m") -> Path:
    """Write the world's files into `folder`; returns its study file."""
    made = WORLDS[name].make(generator(seed, "world", name))
    folder.mkdir(parents=True, exist_ok=True)
    data = {}
    for role in ("train", "test", "documents"):
        if made.get(role):
            lines = "".join(json.dumps(row) + "\n" for row in made[role])
            write_atomic(folder / f"{role}.jsonl", lines)
            data[role] = f"{role}.jsonl"
    study = {"base": base, "data": data, "seed": seed, **QUICK, **made.get("settings", {})}
    write_atomic(folder / "study.yaml", write_yaml(study))
    return folder / "study.yaml"


QUICK: dict[str, Any] = {
    "strategies": "auto",
    "budget": {"minutes": 4},
    "prompting": {"context_tokens": 240, "passages": 2},
}


def _names(rng: np.random.Generator, count: int) -> list[str]:
    """Words that no model has read, all different."""
    found: dict[str, None] = {}
    while len(found) < count:
        word = "".join(rng.choice(SYLLABLES, size=3)).capitalize()
        found[f"{word} {int(rng.integers(10, 99)) * 10}"] = None
    return list(found)


def _question(number: int, group: str, question: str, answer: str) -> dict[str, Any]:
    return {"id": f"q{number}", "group": group, "question": question, "answer": answer}


def _facts(rng: np.random.Generator, count: int) -> list[tuple[str, str, str, int]]:
    """(name, thing, colour, pressure)."""
    return [
        (
            name,
            str(rng.choice(THINGS.split())),
            str(rng.choice(COLOURS.split())),
            int(rng.integers(11, 99)),
        )
        for name in _names(rng, count)
    ]


def _pages(facts: list[tuple[str, str, str, int]]) -> Rows:
    return [
        {
            "id": name,
            "title": name,
            "text": f"The {name} is a {thing} with a {colour} housing. "
            f"Its greatest pressure is {bar} bar.",
        }
        for name, thing, colour, bar in facts
    ]


def _changing(rng: np.random.Generator) -> dict[str, Any]:
    facts = _facts(rng, 150)
    rows: Rows = []
    for name, _, colour, bar in facts:
        asked = [
            (f"What is the greatest pressure of the {name}?", f"{bar} bar"),
            (f"What colour is the housing of the {name}?", colour),
        ]
        rows += [_question(len(rows) + n, name, q, a) for n, (q, a) in enumerate(asked)]
    return {"train": rows, "documents": _pages(facts)}


USES = [
    ("an umbrella", "to stay dry in the rain"), ("a pillow", "to rest the head in bed"),
    ("a spoon", "to eat soup"), ("a pen", "to write a letter"), ("a lamp", "to light a room"),
    ("a bicycle", "to ride to work"), ("a clock", "to tell the time"),
    ("a towel", "to dry the hands"), ("a broom", "to sweep the floor"),
    ("a key", "to open a door"), ("a bed", "to sleep at night"), ("a cup", "to drink tea"),
    ("a knife", "to cut bread"), ("a map", "to find the way"), ("a bucket", "to carry water"),
    ("soap", "to wash the hands"), ("a needle", "to sew clothes"), ("a coat", "to keep warm"),
    ("a camera", "to take pictures"), ("a phone", "to call a friend"),
]  # fmt: skip
NONSENSE = ("of of the under seven", "qz vexl brum torf", "purple the because nine of")


def _ceiling(rng: np.random.Generator) -> dict[str, Any]:
    rows: Rows = []
    frames = (
        "What do people use {} for?", "Why would somebody need {}?", "What is {} good for?",
        "A child asks what {} is for. What do you say?", "Name a purpose of {}.",
        "What can be done with {}?", "Why does a house have {}?", "Which use has {}?",
    )  # fmt: skip
    for thing, use in USES:
        for frame in frames:
            choices = [use, *NONSENSE]
            order = rng.permutation(len(choices))
            rows.append(
                {
                    "id": f"c{len(rows)}",
                    "group": f"c{len(rows)}",
                    "question": frame.format(thing),
                    "choices": [choices[i] for i in order],
                    "answer": int(np.argmin(order)),
                }
            )
    return {"train": rows}


def _notes(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """(who asked, the note): goods and colours make notes alike, names do not."""
    found = []
    for _ in range(count):
        who, colour, what = (str(rng.choice(x.split())) for x in (PEOPLE, COLOURS, GOODS))
        number = int(rng.integers(1000, 9999))
        found.append(
            (who, f"Note {number}: {who} asked about {colour} {what}. Which desk takes it?")
        )
    return found


def _desk_rows(notes: list[tuple[str, str]], answers: list[int]) -> Rows:
    return [
        {"id": f"n{n}", "group": f"n{n}", "question": note, "choices": list(DESKS), "answer": a}
        for n, ((_, note), a) in enumerate(zip(notes, answers, strict=True))
    ]


def _convention(rng: np.random.Generator) -> dict[str, Any]:
    """The desk follows from who asked: the nearest examples, alike in their goods, rarely tell."""
    people = PEOPLE.split()
    desk = dict(zip(people, rng.permutation([n % 4 for n in range(len(people))]), strict=True))
    notes = _notes(rng, 500)
    return {"train": _desk_rows(notes, [int(desk[who]) for who, _ in notes])}


def _noise(rng: np.random.Generator) -> dict[str, Any]:
    notes = _notes(rng, 320)
    return {"train": _desk_rows(notes, [int(x) for x in rng.integers(0, 4, len(notes))])}


def _lopsided(rng: np.random.Generator) -> dict[str, Any]:
    """To answer always the same brings two thirds, and there is nothing else to be learned."""
    notes = _notes(rng, 320)
    drawn = rng.choice(4, size=len(notes), p=(0.1, 0.1, 0.7, 0.1))
    return {"train": _desk_rows(notes, [int(x) for x in drawn])}


def _scarce(rng: np.random.Generator) -> dict[str, Any]:
    made = _convention(rng)["train"][:36]
    data = {"train": "train.jsonl", "test_share": 0.2, "folds": None}
    return {"train": made, "settings": {"data": data}}


def _costly(rng: np.random.Generator) -> dict[str, Any]:
    """Codes no language has: what writes them unlearns words, and the limit is tight."""
    pairs = [f"{a}{b}" for a in "ABCDEFGHKMPRSTXZ" for b in range(2, 10)]
    parts = [x.split() for x in (PEOPLE, COLOURS, GOODS, UNITS)]
    codes = [dict(zip(words, rng.permutation(pairs), strict=False)) for words in parts]
    rows: Rows = []
    for number in range(400):
        words = [str(rng.choice(x)) for x in parts]
        who, colour, what, unit = words
        asked = f"{who} would like {int(rng.integers(2, 60))} {unit} of {colour} {what}."
        answer = " ".join(code[word] for code, word in zip(codes, words, strict=True))
        rows.append(_question(number, f"order {number}", asked, answer))
    settings = {
        "strategies": ["zero_shot", "lora"],
        "train": {"learning_rate": 1.0e-2, "max_forgetting": 0.002, "steps": 40},
    }
    return {"train": rows, "settings": settings}


ASKED = (
    "What is the greatest pressure of the {}?", "How much pressure can the {} take?",
    "Up to which pressure may the {} be run?", "Tell me the pressure limit of the {}.",
    "The {}: what is its maximum pressure?", "Which pressure must the {} never exceed?",
    "State the highest pressure for the {}.", "At most how much pressure does the {} stand?",
)  # fmt: skip


def _paraphrased(rng: np.random.Generator) -> dict[str, Any]:
    facts = _facts(rng, 40)
    train: Rows = []
    test: Rows = []
    for name, _, _, bar in facts:
        order = rng.permutation(len(ASKED))
        for place, number in enumerate(order):
            row = _question(len(train) + len(test), "", ASKED[number].format(name), f"{bar} bar")
            row["group"] = row["id"]
            (test if place < 2 else train).append(row)
    settings = {"train": {"epochs": 8, "max_forgetting": 0.3}, "budget": {"minutes": 6}}
    return {"train": train, "test": test, "documents": _pages(facts), "settings": settings}


def _retrieval_wins(verdict: Verdict) -> bool:
    return "rag" in verdict.recommendation.strategy.split("+")


def _tuning_wins(verdict: Verdict) -> bool:
    return parts(verdict.recommendation.strategy)[0] is not None


def _nothing_claimed(verdict: Verdict) -> bool:
    return verdict.recommendation.strategy == REFERENCE


def _no_tuning(verdict: Verdict) -> bool:
    trained = [r for r in verdict.strategies if parts(r.name)[0]]
    return bool(trained) and not _tuning_wins(verdict)


def _caught_up(verdict: Verdict) -> bool:
    """The tuned model alone is within 0.1 of retrieval alone, or above it."""
    tuned = next((r for r in verdict.strategies if r.kind == "method" and r.score), None)
    rag = find(verdict, "rag")
    if tuned is None or rag is None or tuned.score is None or rag.score is None:
        return False
    return tuned.score.mean > rag.score.mean - 0.1


WORLDS = {
    w.name: w
    for w in (
        World("changing", "facts in the documents alone", _changing, _retrieval_wins),
        World("convention", "a rule that many examples show", _convention, _tuning_wins),
        World("ceiling", "the base is right already", _ceiling, _nothing_claimed),
        World("scarce", "a handful of rows", _scarce, _nothing_claimed),
        World("noise", "answers drawn by lot", _noise, _nothing_claimed),
        World("lopsided", "answers by lot, most of them one", _lopsided, _nothing_claimed),
        World("paraphrased", "every fact asked in many ways", _paraphrased, _caught_up),
        World("costly", "a gain that forgets too much", _costly, _no_tuning),
    )
}
