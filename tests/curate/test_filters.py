"""Every filter: the contract all of them keep, a planted row for each, and rows it must spare."""

from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest

from domainwright.core.errors import ConfigError, UnknownName
from domainwright.core.records import Chat, Choice, Document, Message, Preference, Rated, Row, Text
from domainwright.curate._fields import mapped, parts
from domainwright.curate.filters import FILTERS, Change, Drop, Sample
from domainwright.curate.judge import Judge
from domainwright.curate.preset import Preset, chosen, preset

AT = {"id": "1", "group": "1", "file": "f.jsonl", "line": 1}
SENTENCE = "The patient should take the tablet with water in the morning, and again at night. "


def chat(question: str, answer: str) -> Chat:
    return Chat(**AT, messages=(Message("user", question), Message("assistant", answer)))


def text(body: str) -> Text:
    return Text(**AT, text=body)


PROSE = [
    replace(chat(f"What is said about case {n}?", SENTENCE * 3), id=str(n), line=n)
    for n in range(1, 200)
]
EXAM = Choice(
    **AT,
    question="Which human activity will help most to decrease the pollution of air?",
    choices=("burning crops", "driving a hybrid car"),
    answer=1,
)
SAMPLE = Sample(rows=tuple(PROSE), against=(EXAM,), language="en")
LONG = "A court of appeal has held that the clause is void, because it was not in writing. "
LONG += "The buyer paid the price in full before the goods were lost at sea. No party had insured."

PLANTED: dict[str, Row] = {
    "mojibake": chat("Is it?", "It doesnâ€™t hurt, says the â€œdoctorâ€\x9d."),
    "html": chat("Is it?", '<p>Take <b>two</b>&nbsp;of them.</p><script>x("a")</script>'),
    "boilerplate": text(f"Home | About | Contact\n{LONG}\nWe use cookies. Accept all cookies"),
    "empty": chat("What is gout?", "N/A"),
    "eval_leakage": chat(f"{EXAM.question}\nA. burning crops\nB. a hybrid car", "B."),
    "wrong_language": chat(
        "Was ist eine Hypothek?", "Das ist ein Kredit, für den das Haus haftet."
    ),
    "gibberish": chat("Why?", "We show that the loss We show that the loss " * 8),
    "truncated_answer": chat("Why?", "The tablet is taken in the morning, and again with the"),
    "echo": chat(
        "What is the dose of this drug for a child?", "What is the dose of this drug for a child?"
    ),
    "refusal": chat("Write a poem.", "I'm sorry, but I cannot help with that."),
    "gopher": text("12 34 | 56 78"),
    "repetition": text("The same line stands here.\n" * 9),
    "c4": text("lorem ipsum dolor sit amet. " * 9),
    "fineweb": text("one\ntwo\nthree\nfour"),
    "pii": chat("Who?", "Write to ann.lee@example.com, or call 212-555-0142."),
    "names": chat("Who?", "Dr. Maria Lopez of Springfield, IL called."),
}
EDGES = [
    "",
    " ",
    "\n\n",
    "a",
    "\x00",
    "?",
    "x" * 100_000,
    "🙂 🙂",
    "她周一去了学校",
    "<",
    "&amp",
    "Ã",
    "a\ud800",
]


def look(name: str, row: Row, sample: Sample = SAMPLE) -> Drop | Change | None:
    return FILTERS.get(name)().ready(sample)(row)


def test_every_filter_has_a_planted_row():
    assert sorted(PLANTED) == FILTERS.names()


@pytest.mark.parametrize("name", FILTERS.names())
def test_the_contract(name):
    kind = FILTERS.get(name)
    assert kind.__module__.endswith(f".{name}")
    assert isinstance(kind.default, bool) and kind.finds
    assert all(field.name.islower() for field in fields(kind))
    assert look(name, PROSE[0]) is None, "a plain row is left alone"
    found = look(name, PLANTED[name])
    assert found == look(name, PLANTED[name])
    if isinstance(found, Drop):
        assert found.reason in kind.finds and found.detail
    else:
        assert isinstance(found, Change) and found.what in kind.finds and found.count > 0
        assert look(name, found.row) is None, "a repaired row needs no second repair"
        assert kind.order < 40 or name in ("pii", "names"), "repairs come before the judges"


@pytest.mark.parametrize("name", FILTERS.names())
def test_hostile_texts_break_no_filter(name):
    judge = FILTERS.get(name)().ready(SAMPLE)
    for edge in EDGES:
        prompt = (Message("user", edge or "a"),)
        for row in (
            chat(edge or "a", edge),
            text(edge),
            Choice(**AT, question=edge, choices=(edge, "b"), answer=0, context=edge),
            Preference(**AT, prompt=prompt, chosen=edge, rejected="b"),
            Rated(**AT, prompt=prompt, reply=edge, wanted=True),
            Document(**AT, title=edge, text=edge),
        ):
            judge(row)


@pytest.mark.parametrize("name", FILTERS.names())
def test_nothing_to_learn_from_is_no_error(name):
    look(name, PROSE[0], Sample())


def test_a_filter_that_is_not_there():
    with pytest.raises(UnknownName, match="use 'gopher'"):
        chosen(Preset(), use=["gophr"])
    with pytest.raises(ConfigError, match="most_lines"):
        chosen(Preset(settings={"repetition": {"most_line": 1}}), use=["repetition"])


def test_the_users_words_outweigh_the_presets():
    base = Preset(use=["gopher"], leave_out=["pii"])
    assert "gopher" in dict(chosen(base)) and "pii" not in dict(chosen(base))
    assert "pii" not in dict(chosen(base, use=["c4"]))
    assert "gopher" not in dict(chosen(base, leave_out=["gopher"]))
    assert "pii" in dict(chosen(Preset(), use=["pii"]))


@pytest.mark.parametrize("domain", ["medical", "legal", "finance", "science", None])
def test_every_domain_has_a_preset_that_can_be_read(domain):
    names = [name for name, _ in chosen(preset(domain))]
    assert names.index("mojibake") < names.index("gibberish") < names.index("pii")
    assert "gopher" not in names


def test_a_row_without_a_change_is_the_same_object():
    row = PLANTED["html"]
    assert mapped(row, lambda part, text: text) is row
    assert [part for part, _ in parts(row)] == ["question", "answer"]


def test_the_judge_repairs_first_and_stops_at_the_first_drop():
    judge = Judge(chosen(Preset()), SAMPLE)
    (outcome,) = judge([chat("Who?", "<p>Write to ann@example.com, donâ€™t call her at all.</p>")])
    assert [name for name, _ in outcome.changes] == ["mojibake", "html", "pii"]
    assert outcome.row.answer == "Write to [EMAIL_1], don’t call her at all."
    assert judge([chat("What?", "<div></div>")])[0].dropped[1].reason == "empty_answer"


SPARED = {
    "html": [
        chat("Is p < 0.05 or > 0.1 better?", "Use p < 0.05 & n > 30; <unk> and List<int> stay."),
        chat("How do I write a link in HTML?", 'Write <a href="x">text</a>.'),
    ],
    "mojibake": [chat("Où ?", "Il a mangé à l’hôtel — 5 €, «ça va», Größe, NÃO.")],
    "boilerplate": [
        text(f"{LONG}\nContact your doctor at once.\nThe site uses a share of the power."),
        text("All rights reserved"),
    ],
    "wrong_language": [
        chat("What does 'force majeure' mean?", "In French law, 'force majeure' frees a party."),
        chat("Dose?", "Aspirin 100 mg"),
        text("Do mail carriers need multiple uniforms? No."),
    ],
    "gibberish": [
        text(
            "Primers: 5’-GGATCCTCATG-3’ and 5’-TTAGGCATCCG-3’ were used for the gene BRCA2 in mice."
        ),
        text("- Seizures (about 90% of patients)\n- Ataxia (about 50% of patients)\n" * 2),
        text("Send me my card now! ASAP"),
    ],
    "truncated_answer": [
        chat(
            "Symptoms?",
            "It may cause several of these:\n\nFever\n\nNausea and vomiting\n\nA rash on both arms",
        ),
        chat("Figure?", "About 4.6 percent of the whole population has this condition today.1"),
        chat("Link?", "More is found under this address: http://www.nih.gov/page"),
        chat("Title?", "immediately following the 2020 annual shareholders meeting"),
        chat("Steps?", "Do these things, one after another:\n1. Wash your hands\n2. Dry them"),
    ],
    "pii": [
        chat(
            "Where?",
            "See Section 2.1.3.4, 12 CFR 1026.37(b)(2), pp. 200-212, ISBN 978-0-306-40615-7.",
        ),
        chat("Call?", "Call 1-800-555-0100 for help; the dose is 500-1000 mg; version 10.2.0.1."),
        chat("Sum?", "Revenue was $1,234,567,890,123 in 2019 and 4111 1111 1111 1112 is no card."),
        chat("Born?", "He was born on March 2, 1962, and wrote 12 books."),
    ],
    "eval_leakage": [
        chat("Which activity decreases pollution?", "Driving a hybrid car is one of them."),
        chat("Why?", SENTENCE),
    ],
    "echo": [chat("Yes or no?", "Yes or no?")],
    "refusal": [
        chat("May I?", "You cannot appeal after thirty days, and I cannot overstate this.")
    ],
}


@pytest.mark.parametrize("name", sorted(SPARED))
def test_what_a_filter_must_spare(name):
    for row in SPARED[name]:
        assert look(name, row) is None, parts(row)


PERSONAL = {
    "ann.lee+x@mail.example.co.uk": "EMAIL",
    "(540) 555-0160": "PHONE",
    "+1 587 555 0126": "PHONE",
    "540.555.0160": "PHONE",
    "+44 20 7946 0958": "PHONE",
    "940-47-3283": "SSN",
    "3782 822463 10005": "CARD",
    "5555-5555-5555-4444": "CARD",
    "203.0.113.216": "IP",
    "2001:db8:0:1::8a2e:370": "IP",
    "GB82 WEST 1234 5698 7654 32": "IBAN",
    "300 Old Quarry Street, Springfield, IL 62779": "ADDRESS",
    "postgres://bob:hunter2@db.example.com/x": "URL",
}
LABELLED = {
    "DOB: 03/14/1962": ("BIRTH", "03/14/1962"),
    "date of birth is 14 March 1962": ("BIRTH", "14 March 1962"),
    "MRN 00482913": ("RECORD", "00482913"),
    "Patient ID: A1234567": ("RECORD", "A1234567"),
    "account number 4432-99871": ("ACCOUNT", "4432-99871"),
    "passport no. X1234567": ("PASSPORT", "X1234567"),
    "call 555-0123": ("PHONE", "555-0123"),
    "SSN 123 45 6789": ("SSN", "123 45 6789"),
}


@pytest.mark.parametrize("secret", PERSONAL)
def test_personal_data_is_replaced_and_remembered(secret):
    found = look("pii", chat("Who?", f"Noted ({secret}) here. Again: {secret}."))
    kind = PERSONAL[secret]
    assert found.row.answer == f"Noted ([{kind}_1]) here. Again: [{kind}_1]."
    assert found.secrets == {f"[{kind}_1]": secret} and found.count == 2
    assert found.kinds == {kind: 1}


@pytest.mark.parametrize("written", LABELLED)
def test_what_only_a_label_tells(written):
    kind, secret = LABELLED[written]
    found = look("pii", chat("Who?", f"Noted: {written}, as said."))
    assert found.secrets == {f"[{kind}_1]": secret}
    assert secret not in found.row.answer


def test_a_case_number_is_personal_only_where_a_domain_says_so():
    row = chat("Which?", "It is case no. 22-50612 of that court.")
    assert look("pii", row) is None
    medical = dict(chosen(preset("medical")))["pii"].ready(SAMPLE)(row)
    assert medical.row.answer == "It is case no. [CASE_1] of that court."


def test_unknown_kinds_of_personal_data():
    with pytest.raises(ConfigError, match="NAME"):
        FILTERS.get("pii")(kinds=("NAME",))


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("good", ["“naïve” — café’s 5 € §3", "日本語です", "Sjögren’s"])
def test_mojibake_is_undone_as_often_as_it_was_done(good, times):
    bad = good
    for _ in range(times):
        # Windows-1252 as browsers read it: the five undefined bytes pass through.
        bad = "".join(_sign(byte) for byte in bad.encode())
    assert look("mojibake", text(bad)).row.text == good


def _sign(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


def test_both_directions_of_a_leak():
    item = Text(**{**AT, "id": "exam"}, text=f"{LONG} {SENTENCE} {SENTENCE}")
    sample = replace(SAMPLE, against=(item,))
    assert "stand in it" in look("eval_leakage", text(LONG), sample).detail
    assert "of its" in look("eval_leakage", text(f"{SENTENCE}{item.text}{SENTENCE}"), sample).detail
    assert (
        look("eval_leakage", text("Nothing of that stands here, as anyone can see."), sample)
        is None
    )


def test_a_question_that_many_items_share_leaks_nothing():
    items = tuple(
        replace(EXAM, id=str(n), question="Which intent best matches the message of this customer?",
                context=" ".join(f"word{n}x{i}" for i in range(12)))
        for n in range(20)
    )  # fmt: skip
    sample = replace(SAMPLE, against=items)
    asked = "Which intent best matches the message of this customer?"
    assert (
        look("eval_leakage", chat(f"{asked}\nWhere is the nearest branch?", "branches"), sample)
        is None
    )
    assert look("eval_leakage", chat(f"{items[7].context}\n{asked}", "card"), sample).reason


NOISE = {
    "consonants": "wdnw nvvhk pvqkpf qml jqqdpxwl mjs mqwwk pfxnpxh zrfk tgdwx",
    "backwards": "eht tneitap dluohs ekat eht telbat htiw retaw ni gninrom",
    "partly backwards": "dna THE ,retfa PATIENT dluohs TABLET eht ekat WITH gninrom",
    "signs": "t$5k#a 9x%rq 4&mm2 zz7*q k3j#p w8$$a 1b%c2 x9*y&",
}


@pytest.mark.parametrize("kind", NOISE)
def test_what_words_look_like_is_learnt_from_the_data(kind):
    # The repository's own documents: no other text is sure to be here.
    house = Path(__file__).parents[2]
    page = "".join(file.read_text("utf-8") for file in sorted(house.glob("d*/**/*.md")))
    pages = [page[n : n + 2_000] for n in range(0, len(page), 2_000)]
    learnt = Sample(rows=tuple(text(page) for page in pages), language="en")
    judge = FILTERS.get("gibberish")().ready(learnt)
    assert judge(text(NOISE[kind])).reason == "gibberish"
    assert judge(text(SENTENCE)) is None and judge(text(LONG)) is None


WORDY = " ".join(map("".join, product("bcdfghkl", "aeiou", "bcdfgklmnp", "aeiou", ["tion"])))
HABITS = Sample(
    rows=tuple(
        replace(row, id=str(n))
        for n, row in enumerate(
            [
                chat("Title?", f"Effects of the drug on the heart, part {n} of ten")
                for n in range(99)
            ]
            + [chat("Why?", "It lowers the pressure of blood. It also harms the liver.")] * 99
            + [text(WORDY), text(WORDY.replace("tion", "ment"))] * 2
        )
    )
)


@pytest.mark.parametrize(
    ("answer", "cut"),
    [
        ("Effects of the other drug on the heart and liver", False),
        ("Effects of the other drug on the bac", True),
        ("Effects of the other drug on the bacation", False),
        ("It is given at night. It lowers the pressure of the blood", True),
        ("It is given at night, after a meal.\n\nThe", True),
        ("It is given at night, after a meal.\n\nDr. Ann Lee", False),
    ],
)
def test_the_habit_of_a_final_mark_is_learnt_for_one_sentence_and_for_several(answer, cut):
    assert (look("truncated_answer", chat("Why?", answer), HABITS) is not None) == cut
