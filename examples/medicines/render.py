"""Render medicines.csv into questions.jsonl, choices.jsonl and documents.jsonl.

    python examples/medicines/render.py            write the three files next to this script
    python examples/medicines/render.py --check    exit 1 if the files differ from a fresh render

Everything is drawn from one generator with a fixed seed, so two renders give identical bytes.
"""

import csv
import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = "medicines.csv"
# Words that are true of a medicine although its row does not say so: no wrong choice may
# contain them.
ALSO_TRUE = "also_true.csv"

QUESTIONS = {
    "class": [
        "What class of medicine is {name}?",
        "To which drug class does {name} belong?",
        "What kind of medicine is {name}?",
        "How is {name} classified?",
        "Name the drug class of {name}.",
        "What type of drug is {name}?",
        "Which pharmacological group does {name} belong to?",
    ],
    "mechanism": [
        "How does {name} work?",
        "What is the mechanism of action of {name}?",
        "By what mechanism does {name} act?",
        "Explain briefly how {name} acts.",
        "What is the main pharmacological action of {name}?",
        "How does {name} produce its effect?",
        "Describe the action of {name} in one sentence.",
    ],
    "use": [
        "What is {name} used for?",
        "Why is {name} prescribed?",
        "What are the main uses of {name}?",
        "When might a doctor prescribe {name}?",
        "State the main indication of {name}.",
        "For what is {name} usually given?",
        "What is the purpose of treatment with {name}?",
    ],
    "caution": [
        "What is an important caution with {name}?",
        "What should prescribers watch for with {name}?",
        "What needs special care when {name} is used?",
        "Name an important safety concern with {name}.",
        "What warning goes with {name}?",
        "Which caution applies to {name}?",
        "What should be kept in mind before giving {name}?",
    ],
    "interaction": [
        "What does {name} interact with?",
        "Name an important interaction of {name}.",
        "Which known interaction does {name} have?",
        "What is {name} known to interact with?",
        "Give one interaction of {name} and say why it matters.",
        "Which combination with {name} needs care?",
        "Describe an interaction involving {name}.",
    ],
    "side_effect": [
        "What side effect can {name} cause?",
        "Name a known side effect of {name}.",
        "What unwanted effect may {name} have?",
        "Which side effect is linked to {name}?",
        "What adverse effect is known with {name}?",
        "What side effect might someone using {name} have?",
        "Give an example of a side effect of {name}.",
    ],
}
ANSWERS = {
    "class": "{Name} is {a} {class}.",
    "mechanism": "{Name} {mechanism}.",
    "use": "{Name} is used for {use}.",
    "caution": "An important caution with {name} concerns {caution}.",
    "interaction": "{Name} interacts with {interaction}.",
    "side_effect": "Side effects of {name} include {side_effect}.",
}
CHOICE_QUESTIONS = {
    "class": "Which class of medicine does {name} belong to?",
    "use": "What is {name} used for?",
}
DOCUMENTS = [
    "Formularies describe {name} in the {system} chapter. The drug class is {class}, and "
    "the usual way to give it is "
    "{route}. Doctors choose this medicine for {use}. As for the mechanism, it "
    "{mechanism}. Product labels warn about "
    "{caution}. They also record an interaction between {name} and {interaction}. "
    "Unwanted effects reported with this "
    "medicine are, among others, {side_effect}.",
    "Patients are usually given {name} {route}, most often for {use}. Reference books "
    "place it in the {system} chapter "
    "and state its class as follows: {class}. Pharmacologically, it {mechanism}. Two "
    "safety points stand out in the "
    "label. The first is a warning about {caution}. The second is the interaction of "
    "{name} with {interaction}. "
    "Adverse reactions can take the form of {side_effect}.",
    "In reference books, {name} is filed in the {system} chapter under the drug class "
    "{class}. Its action can be "
    "summed up briefly: it {mechanism}. It has an established place in {use}. The normal "
    "way to give it is {route}. "
    "Prescribing advice for {name} pays attention to {caution}. Interaction checkers "
    "raise an alert for its "
    "combination with {interaction}. Among its recognised adverse effects: {side_effect}.",
    "Class: {class}. This is how formularies label {name}, which they list in the "
    "{system} chapter. Prescribers turn "
    "to it for {use}, and it is normally given {route}. In pharmacological terms, it "
    "{mechanism}. Safety advice covers "
    "{caution}. The interactions section pairs {name} with {interaction}. In the list of "
    "undesirable effects, readers "
    "of the label will find {side_effect}.",
]

# Words that say nothing about whether two cells mean the same.
GENERIC = set(
    """
    acting agonist analogue and antagonist blocker caused channel chronic direct
    including inhibitor long low maintenance medicine mild moderate other prevention
    quick receptor relief selective serious severe short such symptoms term the
    treatment type with
    """.split()
)
# Words that stand for one idea in these cells.
SAME = {"seizure": "epilepsy", "thrombosi": "clot", "embolism": "clot", "vitamin": "supplement"}


def words(text):
    found = {word for word in re.findall(r"[a-z0-9]+", text.lower()) if len(word) > 2} - GENERIC
    stems = {word.removesuffix("s") for word in found}
    return {SAME.get(stem, stem) for stem in stems}


def article(noun):
    return "an" if noun[0] in "aeiou" or noun.startswith(("H2", "NMDA", "SGLT2")) else "a"


def identifier(row, *rest):
    return "-".join(["medicines", row["name"].replace(" ", "-"), *map(str, rest)])


def fields(row):
    return {**row, "Name": row["name"][0].upper() + row["name"][1:], "a": article(row["class"])}


def render_questions(rows, rng):
    for row in rows:
        for topic, phrasings in QUESTIONS.items():
            answer = ANSWERS[topic].format(**fields(row))
            for number, phrasing in enumerate(rng.sample(phrasings, 2), 1):
                question = phrasing.format(**row)
                messages = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
                yield {
                    "id": identifier(row, topic, number),
                    "messages": messages,
                    "source": SOURCE,
                    "group": row["name"],
                    "topic": topic,
                }


def read(name):
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def wrong_choices(row, rows, topic, also_true, rng):
    """Three cells of other medicines and systems that are not also true of this one."""
    taken = words(row[topic]) | words(also_true.get(row["name"], ""))
    systems, chosen = {row["system"]}, []
    for other in rng.sample(rows, len(rows)):
        if other["system"] not in systems and not words(other[topic]) & taken and len(chosen) < 3:
            chosen.append(other[topic])
            systems.add(other["system"])
            taken |= words(other[topic])
    assert len(chosen) == 3, f"{row['name']}: too few wrong choices for {topic}"
    return chosen


def render_choices(rows, rng):
    also_true = {row["name"]: row["words"] for row in read(ALSO_TRUE)}
    places = [number % 4 for number in range(len(rows) * len(CHOICE_QUESTIONS))]
    rng.shuffle(places)
    for row in rows:
        for topic, question in CHOICE_QUESTIONS.items():
            choices, place = wrong_choices(row, rows, topic, also_true, rng), places.pop()
            choices.insert(place, row[topic])
            yield {
                "id": identifier(row, topic, "choice"),
                "question": question.format(**row),
                "choices": choices,
                "answer": place,
                "source": SOURCE,
                "group": row["name"],
                "topic": topic,
            }


def render_documents(rows, rng):
    for row in rows:
        yield {
            "id": identifier(row, "document"),
            "title": fields(row)["Name"],
            "text": rng.choice(DOCUMENTS).format(**fields(row)),
            "source": SOURCE,
            "group": row["name"],
        }


def render():
    rows, rng = read(SOURCE), random.Random(0)
    makers = {
        "questions": render_questions,
        "choices": render_choices,
        "documents": render_documents,
    }
    files = {}
    for name, make in makers.items():
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in make(rows, rng)]
        files[f"{name}.jsonl"] = "".join(lines).encode()
    return files


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(f"unknown arguments {' '.join(arguments)}; use no argument or --check")
    stale = []
    for name, content in render().items():
        path = HERE / name
        if arguments:
            if not path.exists() or path.read_bytes() != content:
                stale.append(name)
        else:
            path.write_bytes(content)
            print(name, content.count(b"\n"), "rows")
    if stale:
        sys.exit(
            f"{', '.join(stale)} differ from a fresh render; "
            "run: python examples/medicines/render.py"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
