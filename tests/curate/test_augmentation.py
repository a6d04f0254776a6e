"""Rows made out of rows: what may never change, the contract of every method, each check's drop."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from domainwright.core.errors import ConfigError, DataError, UnknownName
from domainwright.core.records import Document, Text
from domainwright.curate._protected import facts, names, negations, protected
from domainwright.curate._synonyms import built_in, read_synonyms
from domainwright.curate.augment import AugmentSettings, augment
from domainwright.curate.augmentation import AUGMENTATIONS, Made, Tools
from domainwright.curate.augmentation.eda import changed, common_words
from domainwright.curate.augmentation.self_instruct import rouge_l
from domainwright.curate.dataset import row_as_json, row_from_json
from domainwright.curate.validity import CHECKS, Against, check
from domainwright.maths.words import words
from tests.tiny import chat

NOWHERE = Against()
HARD = (
    'Must a patient without fever take 5 mg/kg of Warfarin twice daily, not 50 mg, as "the label" '
    "says under 12 CFR 1002.3(b), § 404, Section 10 and Smith v. Jones Corp. since March 3, 2020 "
    "(PMID: 123456, 10.1000/xyz123), or does [NAME_1] in Paris deny it and the card often help?"
)
KEPT = (
    'Must, without fever, 5 mg/kg, Warfarin, twice, daily, not 50 mg, "the label", 12 CFR '
    "1002.3(b), § 404, Section 10, Smith v. Jones Corp., March, 3, 2020, PMID: 123456, "
    "10.1000/xyz123, [NAME_1], Paris, deny it"
)


def spans(text, terms=()):
    return [text[begin:end] for begin, end in protected(text, terms)]


def test_what_carries_the_sense_is_protected():
    covered = " | ".join(spans(HARD))
    for part in KEPT.split(", "):
        assert part in covered, part
    assert "patient" not in covered and "card" not in covered
    assert "chest pain" in spans("has chest pain now", ["chest pain"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("It is $1,250.50 a month.", "$1,250.50"),
        ("Take it on 2020-03-04 at night.", "2020-03-04"),
        ("She doesn't smoke cigars.", "n't smoke"),
        ("The test was negative for influenza.", "negative for influenza"),
        ("he never drinks and nor do they", "never drinks"),
        ("Ask about mRNA and COVID-19 here.", "mRNA"),
        ("as held in Roe v. Wade by them", "Roe v. Wade"),
        ("vitiligo at 42 U.S.C. § 1983 is", "42 U.S.C. § 1983"),
        ("she lacks insurance for it", "lacks insurance"),
        ("it shall be paid", "shall"),
    ],
)
def test_each_kind_of_span(text, part):
    assert any(part in span for span in spans(text)), spans(text)


def test_facts_names_and_negations_of_a_text():
    assert facts("two tablets of 5 mg or 2 tablets of 5mg") == {"2tablet", "5mg"}
    assert facts("20 per cent in 3 weeks") == facts("20% in three weeks") != facts("20 in 3 days")
    assert "warfarin" in names("She takes Warfarin.") and "she" not in names("She takes Warfarin.")
    assert negations("She does not smoke, never did, and can't.") == 3


def test_no_operation_touches_a_protected_span():
    """A thousand random texts, every operation, at a share that changes all it can."""
    draw = random.Random(0)
    plain = "often the quick doctor begins a big car purchase almost rarely of there".split()
    kept = [part for part in KEPT.split(", ") if part not in ("Must", "deny it")]
    tools = Tools(synonyms=built_in())
    count = 0
    for number in range(1000):
        parts = [draw.choice(kept if draw.random() < 0.3 else plain) for _ in range(15)]
        text = " ".join(parts)
        name = ("synonyms", "insertion", "swap", "deletion")[number % 4]
        rng = np.random.default_rng(number)
        after = changed(text, name, 0.5, tools, rng, frozenset(words(text)))
        count += after != text
        assert facts(after) == facts(text) and negations(after) == negations(text), (text, after)
        at = 0
        for span in spans(text):
            at = after.find(span, at)
            assert at >= 0, (span, text, after)
            at += len(span)
    assert count > 900


def test_the_operations_by_hand():
    tools, rng = Tools(synonyms={"big": ("large",)}), np.random.default_rng(0)
    common = frozenset("is a big dog here".split())

    def after(name, text="is Rex a big dog here"):
        return changed(text, name, 0.1, tools, rng, common)

    assert after("synonyms") == "is Rex a large dog here"
    assert after("synonyms", "is it (big), Rex?") == "is it (large), Rex?"
    assert after("synonyms", "Is it Big, Rex?") == "Is it Big, Rex?", "a name"
    assert sorted(after("insertion").split()) == sorted("is Rex a big dog here large".split())
    assert sorted(after("swap").split()) == sorted("is Rex a big dog here".split())
    assert len(after("deletion").split()) == 5 and "Rex" in after("deletion")
    assert after("deletion", "Rex") == "Rex"


def test_what_a_question_is_about_stays():
    rows = [
        chat(f"What is the usual care of {n}?", "Rest.", name=n) for n in ("gout", "acne", "flu")
    ]
    assert common_words(rows) == set("what is the usual care of".split())
    made = augment(rows, AugmentSettings(method="eda", copies=4), Tools(), NOWHERE)
    assert made.rows
    assert all(row.provenance.source_id in row.question for row in made.rows)


def rows(count=6):
    return [
        chat(
            f"How do people usually begin the quick care of case {n}?",
            "Rest.",
            name=f"r{n}",
            group=f"g{n % 2}",
        )
        for n in range(count)
    ]


class Echo:
    """A writer that answers what it is told to."""

    name = "echo"

    def __init__(self, reply=lambda prompt: "In which way do most people start treating case 1?"):
        self.reply, self.prompts = reply, []

    def write(self, prompts):
        self.prompts += prompts
        return [self.reply(prompt) for prompt in prompts]


def test_made_equals_kept_and_set_aside_and_repeats():
    wanted = AugmentSettings(method="eda", copies=3)
    tools = Tools(synonyms=built_in(), seed=1)
    found = augment(rows(), wanted, tools, NOWHERE)
    assert found == augment(rows(), wanted, tools, NOWHERE)
    assert found.made == 18 and found.rows
    assert [r.question for r in found.rows] != [
        r.question for r in augment(rows(), wanted, replace(tools, seed=2), NOWHERE).rows
    ]
    groups = {row.id: row.group for row in rows()}
    for row in found.rows:
        assert row.group == groups[row.provenance.source_id] and row.id not in groups
        assert row_from_json(row_as_json(row)) == row
    assert "provenance" not in row_as_json(rows()[0])


def one(before, after, number=1):
    made = chat(after, "Rest.", name=f"m{number}")
    return Made(
        source=chat(before, "Rest.", name="s"),
        id=f"m{number}",
        row=made,
        before=before,
        after=after,
    )


LONG = "the court of appeal has held that the clause is void because it was not made in writing"
FAILS = {
    "form": (one("Is it safe?", "It is safe."), "no_question"),
    "length": (one("a b c d", "a"), "length_changed"),
    "alike": (one("what is the use of it", "What is the use, of it?"), "too_alike"),
    "facts": (one("Take 5 mg now.", "Take 50 mg now."), "number_changed"),
    "grounded": (one("Take it in Rome.", "Take it in Rome, not in Paris."), "name_changed"),
    "negation": (one("It is safe.", "It is not safe."), "negation_changed"),
    "meaning": (one("north", "east"), "meaning_changed"),
    "leak": (one("x", LONG), "leaks_into_test"),
    "copy": (one("what is it", "What is it?"), "near_duplicate"),
}


@pytest.mark.parametrize("name", list(CHECKS))
def test_every_check_can_drop_and_can_keep(name):
    vectors = {"north": [0.0, 1.0], "east": [1.0, 0.0]}
    against = Against(
        hidden=[chat(LONG, "Rest.", name="t")],
        encode=lambda texts: np.array([vectors.get(text, [1.0, 0.0]) for text in texts]),
    )
    bad, reason = FAILS[name]
    found = check([bad], name, against)
    assert found[bad.id][0] == reason and found[bad.id][1]
    good = one("Does Rex take 5 mg daily?", "Is it 5 mg daily that Rex takes?")
    assert check([good], name, against) == {}


def test_the_later_of_two_near_copies_goes():
    first, second = one("a", LONG, 1), one("b", f"{LONG} or so", 2)
    third = one("c", LONG.upper(), 3)
    found = check([first, second, third], "copy", NOWHERE)
    assert set(found) == {"m2", "m3"} and "'m1'" in found["m2"][1] and "'m1'" in found["m3"][1]


def test_wrong_settings_say_what_to_type(tmp_path):
    with pytest.raises(UnknownName, match="eda"):
        AugmentSettings(method="ed")
    with pytest.raises(ConfigError, match=r"augment\.copies is 0"):
        AugmentSettings(method="eda", copies=0)
    with pytest.raises(ConfigError, match=r"eda\.alpha is 0\.9"):
        AugmentSettings(method="eda", settings={"alpha": 0.9})
    text = Text(id="t", group="t", file="f", line=1, text="Some text.")
    with pytest.raises(ConfigError, match=r"chat or choice rows, and 't' is a text row"):
        augment([text], AugmentSettings(method="eda"), Tools(), NOWHERE)
    file = tmp_path / "words.txt"
    file.write_text("# ours\nbegin, start , commence\nbig\n")
    with pytest.raises(DataError, match="line 3 has one word: 'big'"):
        read_synonyms(file)
    file.write_text("begin, start , commence # verbs\nstart, onset\n")
    assert read_synonyms(file)["start"] == ("begin", "commence", "onset")


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_the_contract(name):
    kind = AUGMENTATIONS.get(name)
    assert kind.__module__.endswith(f".{name}")
    assert set(kind.checks) <= set(CHECKS) and set(kind.needs) <= {"writer", "documents"}
    assert "leak" in kind.checks and "copy" in kind.checks


def test_a_paraphrase_keeps_its_answer_and_says_who_wrote_it():
    writer = Echo(
        lambda prompt: 'Sure, here it is:\n\n"In which way do most people begin treating it?"'
    )
    found = augment(rows(1), AugmentSettings(method="paraphrase"), Tools(writer=writer), NOWHERE)
    # "case 0" is lost: the number was part of the question.
    assert [x.reason for x in found.set_aside] == ["number_changed"]
    writer = Echo(lambda prompt: "Paraphrase: In which way do most people begin treating case 0?")
    (row,) = augment(
        rows(1), AugmentSettings(method="paraphrase"), Tools(writer=writer), NOWHERE
    ).rows
    assert row.question == "In which way do most people begin treating case 0?"
    assert (row.answer, row.group) == ("Rest.", "g0")
    assert (row.provenance.op, row.provenance.model) == ("paraphrase", "echo")
    assert row.provenance.filters == AUGMENTATIONS.get("paraphrase").checks


def test_copies_are_asked_for_in_different_styles():
    writer = Echo(lambda prompt: "")
    wanted = AugmentSettings(method="paraphrase", copies=3)
    found = augment(rows(1), wanted, Tools(writer=writer), NOWHERE)
    assert len(set(writer.prompts)) == 3 and not found.rows
    assert [x.reason for x in found.set_aside] == ["empty_reply"] * 3


def test_plain_text_is_paraphrased_too():
    text = Text(id="t", group="t", file="f", line=3, text="The patient often takes 5 mg at night.")
    writer = Echo(lambda prompt: "At night, 5 mg is what the patient frequently takes.")
    (row,) = augment(
        [text], AugmentSettings(method="paraphrase"), Tools(writer=writer), NOWHERE
    ).rows
    assert row.text.startswith("At night") and row.line == 3


def document(
    name="d", text="Gout is a kind of arthritis. It is caused by crystals of uric acid in a joint."
):
    return Document(id=name, group=f"of {name}", file="docs", line=1, title="Gout", text=text)


def test_questions_stand_on_their_passage():
    def reply(prompt):
        if prompt.startswith("Read"):
            vague = "vague" in prompt
            return "What is in this text?" if vague else "1. What causes gout? Ask a doctor."
        return "Crystals of uric acid." if "long" not in prompt else "In 1848 Garrod found it."

    others = [document("long", "long " * 20), document("vague", "vague " * 20)]
    tools = Tools(writer=Echo(reply), documents=[document(), *others])
    found = augment(rows(), AugmentSettings(method="questions"), tools, NOWHERE)
    (row,) = found.rows
    assert (row.question, row.answer) == ("What causes gout?", "Crystals of uric acid.")
    assert (row.group, row.provenance.source_id) == ("of d", "d")
    assert [(x.reason, x.file) for x in found.set_aside] == [
        ("number_changed", "docs"),
        ("unclear_question", "docs"),
    ]
    with pytest.raises(ConfigError, match="add `documents:`"):
        augment(rows(), AugmentSettings(method="questions"), Tools(writer=Echo()), NOWHERE)


def test_self_instruct_shows_eight_and_keeps_what_is_new():
    invented = iter(
        [
            "Name three causes of a sore throat.",
            "Name three causes of the sore throat.",
            "Draw a picture of it.",
        ]
        + [f"Explain word{n} beside thing{n} and matter{n}." for n in range(13)]
        + ["Compare two ways of sleeping better.", ""]
        + [f"List word{n}, thing{n}, matter{n}, item{n}." for n in range(14)]
    )

    def reply(prompt):
        return f"9. {next(invented)}" if prompt.startswith("These are tasks") else "Rest helps."

    writer = Echo(reply)
    wanted = AugmentSettings(method="self_instruct", copies=2)
    own = [
        chat(f"What is the usual care of thing{n} number{n}?", "Rest.", name=f"r{n}")
        for n in range(16)
    ]
    found = augment(own, wanted, Tools(writer=writer), NOWHERE)
    assert found.made == 32
    reasons = [x.reason for x in found.set_aside]
    assert reasons.count("impossible") == 1 and reasons.count("too_alike") >= 1
    assert reasons.count("empty_reply") == 1
    tasks = [row.question for row in found.rows]
    assert "Name three causes of a sore throat." in tasks
    assert "Name three causes of the sore throat." not in tasks
    for a, b in itertools.product(tasks, [*tasks, *(row.question for row in own)]):
        assert a == b or rouge_l(a, b) <= 0.7
    first, later = writer.prompts[0], [p for p in writer.prompts if p.startswith("These")][-1]
    assert "\n8. " in first and "\n9." in first and "\n10." not in first
    assert sum("usual care" in line for line in first.splitlines()) == 8
    assert sum("usual care" in line for line in later.splitlines()) == 6
    ids = {row.id for row in own}
    assert set(found.rows[0].provenance.source_id.split()) <= ids


def test_a_method_that_writes_needs_a_writer():
    with pytest.raises(ConfigError, match="needs a writer"):
        augment(rows(), AugmentSettings(method="paraphrase"), Tools(), NOWHERE)


def test_evolved_questions_are_new_and_answered():
    turns = iter(
        [
            "How do people begin the care of case 0 when nothing else has worked for a year?",
            "What does the given question ask about treatment?",
            "How do people usually begin the quick care of case 2?",
            "Which rarer illness is treated in a way that looks much like this one?",
            "",
        ]
    )

    def reply(prompt):
        if "Write the question and nothing else" in prompt:
            return next(turns)
        return "I'm sorry, I don't know." if prompt.startswith("Which rarer") else "Ask a doctor."

    writer = Echo(reply)
    found = augment(rows(5), AugmentSettings(method="evol_instruct"), Tools(writer=writer), NOWHERE)
    (row,) = found.rows
    assert (row.answer, row.group, row.id) == ("Ask a doctor.", "g0", "r0~evol1")
    assert row.provenance.op == "evol_instruct constrain"
    reasons = {x.id: x.reason for x in found.set_aside}
    assert reasons == {
        "r1~evol1": "copied_prompt",
        "r2~evol1": "too_alike",
        "r3~evol1": "refusal",
        "r4~evol1": "empty_reply",
    }
    assert len({prompt.split(".")[0] for prompt in writer.prompts[:5]}) == 5


@pytest.mark.parametrize(
    ("name", "before", "after", "kept"),
    [
        ("length", "a b c d", "a b", True),
        ("length", "a b c d", "a", False),
        ("length", "a b c d", "a b c d e f g h", True),
        ("length", "a b c d", "a b c d e f g h i", False),
        ("alike", "a b c d e f g h i", "a b c d e f g h i j", True),
        ("alike", "a b c d e f g h i j", "a b c d e f g h i j k", False),
        ("meaning", "whole", "near", True),
        ("meaning", "whole", "far", False),
        ("facts", "Take 5 mg of it.", "Of it, take 5 mg.", True),
        ("facts", "Take 5 mg of it.", "Take 5 g of it.", False),
        ("facts", "He saw Paris.", "Paris is what he saw.", True),
        ("facts", "He saw Paris.", "He saw Rome.", False),
        ("grounded", "Take 5 mg at 9.", "Take 5 mg.", True),
        ("negation", "It is not safe.", "It isn't safe.", True),
        ("copy", "What is it?", "What was it?", True),
    ],
)
def test_each_check_at_its_limit(name, before, after, kept):
    vectors = {"whole": [1.0, 0.0], "near": [0.8001, 0.6], "far": [0.7999, 0.6]}
    against = Against(encode=lambda texts: np.array([vectors[text] for text in texts]))
    assert (check([one(before, after)], name, against) == {}) is kept
