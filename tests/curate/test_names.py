"""Names of persons and places: every kind of evidence, and everything that only looks like one."""

from itertools import pairwise

import pytest

from domainwright.core.errors import ConfigError
from domainwright.core.records import Chat, Choice, Message, Text
from domainwright.curate import _towns
from domainwright.curate._capitals import runs
from domainwright.curate._name_lists import lists, spelt
from domainwright.curate._names import named
from domainwright.curate.filters import FILTERS, Change, Sample
from domainwright.curate.judge import Judge
from domainwright.curate.pipeline import Wish, curate
from domainwright.curate.preset import Preset, chosen, preset
from domainwright.curate.secrets import write_secrets

AT = {"id": "1", "group": "1", "file": "f.jsonl", "line": 1}


def text(body: str) -> Text:
    return Text(**AT, text=body)


def look(row) -> Change | None:
    return FILTERS.get("names")().ready(Sample())(row)


def found(body: str) -> list[tuple[str, str]]:
    return [(secret.kind, secret.text) for secret in named([body])[0]]


PERSONS = {
    # a title, label, kin or greeting before it; names that no list knows
    "title": ("He saw Dr. Zorvane today.", "Zorvane"),
    "title without a point": ("Nurse Zorvane came.", "Zorvane"),
    "title and a name that is a word": ("Mr. Will Grant came.", "Will Grant"),
    "title and a family name that is a word": ("He saw Dr. King today.", "King"),
    "label": ("Patient: Quillan Zorvane\nAge: 4", "Quillan Zorvane"),
    "label, reversed": ("Patient Name: Zorvane, Quillan\nAge: 4", "Zorvane, Quillan"),
    "label, shouted": ("NAME: ZORVANE, QUILLAN B\nAGE: 4", "ZORVANE, QUILLAN B"),
    "label of a single name": ("Last name: Zorvane", "Zorvane"),
    "handled by": ("She was referred by Quillan Zorvane for a scan.", "Quillan Zorvane"),
    "signed": ("Electronically signed by: Quillan Zorvane on Monday", "Quillan Zorvane"),
    "copy": ("cc: Quillan Zorvane", "Quillan Zorvane"),
    "greeting": ("Dear Zorvane,\nyour test was normal.", "Zorvane"),
    "closing": ("See you.\n\nBest regards,\nQuillan Zorvane", "Quillan Zorvane"),
    "my name is": ("Hello, my name is Zorvane and I ache.", "Zorvane"),
    "I am": ("I'm Quillan Zorvane, and I ache.", "Quillan Zorvane"),
    "a man named": ("A patient named Zorvane called.", "Zorvane"),
    "kin": ("He came with his wife Zorvane.", "Zorvane"),
    "kin with a comma": ("It is her oldest son, Zorvane, who asked.", "Zorvane"),
    "contact": ("Contact Quillan Zorvane, phone 212.", "Quillan Zorvane"),
    "deposition": ("The deposition of Quillan Zorvane was taken.", "Quillan Zorvane"),
    # something behind it
    "degree": ("Read by Quillan Zorvane, MD.", "Quillan Zorvane"),
    "degree behind a family name": ("Plan made: Lopez, RN", "Lopez"),
    "suffix": ("Quillan Zorvane Jr., 45-year-old, fell.", "Quillan Zorvane"),
    "age": ("Quillan Zorvane, a 45-year-old man, fell.", "Quillan Zorvane"),
    "is of an age": ("Quillan Zorvane is a 45-year-old man.", "Quillan Zorvane"),
    "number": ("Quillan Zorvane, SSN [SSN_1].", "Quillan Zorvane"),
    "mail": ("Write to Quillan Zorvane at [EMAIL_1].", "Quillan Zorvane"),
    "lives": ("Quillan Zorvane lives at [ADDRESS_1].", "Quillan Zorvane"),
    "listed family name and what patients do": ("Quillan Lopez denies pain.", "Quillan Lopez"),
    # the lists
    "given name": ("Then Maria Zorvane fell.", "Maria Zorvane"),
    "given name, initial": ("Then Maria Q. Zorvane fell.", "Maria Q. Zorvane"),
    "given name that is a word": ("Then Mark Lopez fell.", "Mark Lopez"),
    "accents and small words": ("Then José de la Cruz fell.", "José de la Cruz"),
    "apostrophe": ("Then Jean-Luc O'Brien fell.", "Jean-Luc O'Brien"),
    "genitive": ("Then Maria Lopez’s arm broke.", "Maria Lopez"),
    "family name that is a word": ("Then Maria King fell.", "Maria King"),
    "family name first": ("Lopez, Maria fell.", "Lopez, Maria"),
    "initials": ("It is J. R. Smith again.", "J. R. Smith"),
    "behind a first word": ("Yesterday Maria Lopez fell.", "Maria Lopez"),
}


@pytest.mark.parametrize("case", PERSONS)
def test_what_is_a_person(case):
    body, name = PERSONS[case]
    assert found(body) == [("PERSON", name)]


PLACES = {
    "state": ("It is in Zorvane, TX now.", "Zorvane, TX"),
    "zip code": ("Zorvane, MD 20892", "Zorvane, MD 20892"),
    "listed town before a state that is a word": ("It is in Portland, OR now.", "Portland, OR"),
    "state in full": ("It is in Zorvane, New Mexico now.", "Zorvane, New Mexico"),
    "lives in": ("She lives in Zorvane with a cat.", "Zorvane"),
    "capital": ("Born in Zorvane, she came late.", "Zorvane"),
    "moved to": ("He moved to Los Angeles.", "Los Angeles"),
    "comes from": ("A teacher from Zorvane fell.", "Zorvane"),
    "label": ("City: Zorvane", "Zorvane"),
    "saint": ("He lives in St. Louis now.", "St. Louis"),
    "hospital": ("Transferred from St. Mary's Hospital.", "St. Mary's Hospital"),
    "centre": ("She was seen at Zorvane Medical Center.", "Zorvane Medical Center"),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_is_a_place(case):
    body, name = PLACES[case]
    assert found(body) == [("PLACE", name)]


def test_a_large_town_counts_beside_a_person():
    assert found("A congress was held in Boston.") == []
    assert found("Dr. Zorvane spoke in Boston.") == [("PERSON", "Zorvane"), ("PLACE", "Boston")]
    assert found("Dr. Zorvane read it in Boston University.") == [("PERSON", "Zorvane")]


SPARED = [
    "Parkinson disease, Crohn's disease, Wilson's Disease, Hodgkin lymphoma, Raynaud phenomenon.",
    "A Foley catheter was placed; the Apgar score was 9, and the Babinski sign absent.",
    "Guillain-Barré syndrome; Charcot-Marie-Tooth disease.",
    "Marcus Gunn pupil; Pierre Robin sequence.",
    "Maria Lopez syndrome, and the John Cunningham virus.",
    "Smith et al. 2012, (Jones, 2014), Lopez and colleagues.",
    "Mary Lopez et al.; Peter Jones (2014).",
    "Smith v. Jones; John Smith v. Mary Jones; Brown v. Board of Education; Miranda rights.",
    "Morgan Stanley, Johnson & Johnson, Wells Fargo, Arthur Andersen LLP, Freddie Mac, Dean Foods",
    "It may rain in May; April and June; in August. May Day, April Fools.",
    "Will it? Grace and Mark rose in Hope. Bill paid; Chase the Grant; Art, Frank, Faith and Joy.",
    "Will Smith come? Jack Drew Pat.",
    "Drosophila melanogaster, Rosa canina, Iris germanica, Virginia Creeper and Victoria Falls.",
    "The Martin was sold. Carter is here.",
    "Discussion Of The Frank Report\nMary Had A Little Lamb\nHeart Disease And Stroke",
    "DISCUSSION OF THE MARTIN LOPEZ CASE. MARIA WAS HERE.",
    "Which city is the capital of France? Paris, London or New York?",
    "He moved to Canada from Germany, was born in May, and lives in Texas.",
    "The James Webb telescope, the John Deere tractor, and the Thomas Jefferson University.",
    "Missouri, New York, Oregon, and Pennsylvania; California, Illinois; African Americans, Alaska",
    "Cancer, CT scan, and Ultrasonography, CT, or MRI; Deficiency, OR not; Sodium, MS",
    "Dear Customer, Dear Sirs, Dear Doctor. I am Muslim. Patient Activation Measure, a score.",
    "Name: Aspirin\nPatient: Denies pain. Chest X Ray. Alexa Fluor 488. Shannon Entropy.",
    "People like Children's Hospital and the University Hospital.",
    "She travelled to Zorvane-endemic areas.",
    "See St. Martin Lopez and 5 Rose Lane.",
    "Boys with Becker MD are weak.",
]


@pytest.mark.parametrize("body", SPARED)
def test_what_only_looks_like_a_name(body):
    assert found(body) == []


def test_a_person_has_one_number_in_all_parts_of_a_row():
    row = Chat(
        **AT,
        messages=(
            Message("user", "Is Lopez well? Maria Lopez fell."),
            Message("assistant", "Ms. Lopez is well. On Monday Maria went home to Dr. Zorvane."),
        ),
    )
    change = look(row)
    assert change.row.question == "Is [PERSON_1] well? [PERSON_1] fell."
    assert change.row.answer == (
        "Ms. [PERSON_1] is well. On Monday [PERSON_1] went home to Dr. [PERSON_2]."
    )
    assert change.secrets == {"[PERSON_1]": "Maria Lopez", "[PERSON_2]": "Zorvane"}
    assert change.kinds == {"PERSON": 2} and change.count == 5 and change.what == "names"


def test_two_persons_of_one_name_are_not_made_one():
    change = look(text("Ana Lopez and Juan Lopez fell. Mr. Lopez rose. Ana did not."))
    assert change.row.text == (
        "[PERSON_1] and [PERSON_2] fell. Mr. [PERSON_3] rose. [PERSON_1] did not."
    )


def test_what_is_called_after_a_person_is_spared_beside_the_person():
    body = "Dr. James Parkinson wrote. Parkinson's disease is slow. Parkinson's goes on."
    assert found(body) == [("PERSON", "James Parkinson")]


def test_choices_and_questions_are_one_row():
    row = Choice(
        **AT,
        question="Who is ill?",
        context="Nurse Zorvane saw Tom Quist.",
        choices=("Quist", "Zorvane", "Parkinson disease"),
        answer=0,
    )
    assert look(row).row.choices == ("[PERSON_2]", "[PERSON_1]", "Parkinson disease")


def test_what_was_replaced_can_be_put_back(tmp_path):
    body = "Maria Lopez, MD, of Zorvane, TX met Dr. Quist. [PERSON_2] stands here. She saw Quist."
    change = look(text(body))
    assert change.row.text.count("[PERSON_2]") == 1, "a placeholder of the source is not taken"
    back = change.row.text
    for placeholder, stood in change.secrets.items():
        back = back.replace(placeholder, stood)
    assert back == body
    write_secrets(tmp_path / "secrets.jsonl", {"1": change.secrets})
    assert "Maria Lopez" in (tmp_path / "secrets.jsonl").read_text()


def test_a_redacted_row_is_not_redacted_again():
    change = look(text("Patient: Maria Lopez of Austin, TX. Dr. Quist saw her in Boston."))
    assert change is not None and look(change.row) is None


def test_no_name_is_written_into_the_dataset(tmp_path):
    file = tmp_path / "notes.jsonl"
    body = "The patient Maria Lopez was seen by Dr. Zorvane in clinic, and sent home again."
    file.write_text(f'{{"text": "{body}"}}\n')
    plain = curate(Wish(files=(file,)), tmp_path / "plain")
    assert plain.changed == 0, "names stay unless they are asked for"
    curate(Wish(files=(file,), use=("names",), keep_secrets=True), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert b"Lopez" not in path.read_bytes() and b"Zorvane" not in path.read_bytes()


def test_names_run_where_they_are_asked_for():
    assert "names" not in dict(chosen(preset(None)))
    assert "names" in dict(chosen(preset(None), use=["names"]))
    assert "names" in dict(chosen(preset("medical")))
    assert "names" not in dict(chosen(preset("medical"), leave_out=["names"]))
    assert [name for name, _ in chosen(preset("medical"))][-1] == "names", "behind pii"


def test_numbers_and_names_are_replaced_together():
    judge = Judge(chosen(Preset(), use=["names"]), Sample())
    row = text("Write to Quillan Zorvane at q.zorvane@example.com, or to Zorvane's wife Dagny.")
    assert judge([row])[0].row.text == (
        "Write to [PERSON_1] at [EMAIL_1], or to [PERSON_1]'s wife Dagny."
    )


def test_one_kind_alone():
    row = text("Maria Lopez lives in Austin.")
    only = FILTERS.get("names")(kinds=("PLACE",)).ready(Sample())(row)
    assert only.row.text == "Maria Lopez lives in [PLACE_1]."
    only = FILTERS.get("names")(kinds=("PERSON",)).ready(Sample())(row)
    assert only.row.text == "[PERSON_1] lives in Austin."


def test_unknown_kinds_of_names():
    with pytest.raises(ConfigError, match="use some of: PERSON, PLACE"):
        FILTERS.get("names")(kinds=("EMAIL",))


def test_the_lists_are_whole_and_do_not_contradict_each_other():
    known = lists()
    assert len(known.given) > 1_000 and len(known.family) > 800 and len(known.city) > 200
    assert not known.given & known.word and not known.given & known.never
    assert not known.city & known.never
    for words in (known.given, known.family, known.city):
        assert all(word == spelt(word) and word[0].isupper() for word in words)


def test_two_facilities_side_by_side():
    body = "Seen at Zorvane Hospital and at Quist Clinic."
    assert found(body) == [("PLACE", "Zorvane Hospital"), ("PLACE", "Quist Clinic")]


@pytest.mark.parametrize(
    "body",
    [
        "Mr. Lee lives in Springfield, New York, NY 10001.",
        "Lopez, Maria and Lopez, Maria. Dr. Maria Lopez, Lopez, Maria saw Lopez.",
        "Patient: LOPEZ, MARIA\nMs. Lopez of McLEAN, VA lives in Mary Lopez Hospital, Austin, TX.",
    ],
)
def test_nothing_overlaps(body):
    spans = [(secret.start, secret.end) for secret in named([body])[0]]
    assert len(spans) >= 2 and all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_places_never_overlap():
    body = "Mr. Lee lives in Austin, TX and was seen at Austin Medical Center in Austin, Texas."
    spans = sorted(_towns.towns(body, runs(body), near_person=True))
    assert len(spans) == 3
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "A" * 50_000,
        "Dr. " * 9_000,
        "Maria " * 9_000,
        "Dr. Lee of Austin, TX met Al Lopez. " * 5_000,
        "A. " * 9_000,
    ],
)
def test_long_rows_end_soon(body):
    assert isinstance(named([body]), list)
