"""Every data format: good records under every name users give the columns, and bad ones."""

import json

import pytest

from domainwright.core.records import Chat, Choice, Document, Preference, Rated, Row, Text
from domainwright.curate._cells import Unusable
from domainwright.curate._place import Place
from domainwright.curate.readers import READERS

U, A = "user", "assistant"


def turns(*pairs, keys=("role", "content")):
    return [dict(zip(keys, pair, strict=True)) for pair in pairs]


def row(name, record, place=None):
    return READERS.get(name)().row(record, place or Place("f.jsonl", "f", 7))


def reason(name, record):
    with pytest.raises(Unusable) as caught:
        row(name, record)
    assert caught.value.detail
    return caught.value.reason


def said(chat):
    return [(message.role, message.content) for message in chat.messages]


CHAT = turns((U, "Why?"), (A, "So."))
SHARE = turns(("human", "Why?"), ("gpt", "So."), keys=("from", "value"))
EXAMPLES = {
    "messages": {"messages": CHAT},
    "sharegpt": {"conversations": SHARE},
    "alpaca": {"instruction": "Why?", "output": "So."},
    "prompt_completion": {"question": "Why?", "answer": "So."},
    "choice": {"question": "Why?", "choices": ["So.", "No."], "answer": 0},
    "text": {"text": "So."},
    "labelled": {"text": "So.", "label": "fine"},
    "tagged": {"tokens": ["So", "."], "tags": ["B-WORD", "O"]},
    "document": {"title": "T", "text": "So."},
    "preference": {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    "rated": {"prompt": "Why?", "completion": "So.", "label": True},
}


@pytest.mark.parametrize("name", READERS.names())
class TestEveryReader:
    """The contract. A new reader needs an example here and nothing else."""

    def test_reads_its_example_with_every_shared_column(self, name):
        shared = {"id": 7, "patient_id": "p1", "date": "2024-05-31", "category": "dose"}
        made = row(name, EXAMPLES[name] | shared)
        assert isinstance(made, Row)
        assert (made.id, made.group, made.date, made.topic) == ("7", "p1", "2024-05-31", "dose")
        assert (made.file, made.line) == ("f.jsonl", 7)

    def test_makes_an_id_and_a_group(self, name):
        made = row(name, EXAMPLES[name] | {"source": "everywhere"})
        assert (made.id, made.group, made.date, made.topic) == ("f:7", "f:7", None, None)

    def test_declares_what_it_needs(self, name):
        reader = READERS.get(name)()
        assert reader.needs
        assert set(reader.needs) <= set(reader.columns)
        assert isinstance(reader.priority, int)

    @pytest.mark.parametrize(
        "value", [None, "", " \n", 0, True, [], {}, [None], [[]], {"a": []}, b"x"]
    )
    def test_survives_any_value_in_any_column(self, name, value):
        for column in EXAMPLES[name]:
            try:
                made = row(name, EXAMPLES[name] | {column: value})
            except Unusable as why:
                assert why.reason.islower()
                assert why.detail
            else:
                assert isinstance(made, Row)

    def test_survives_a_missing_column(self, name):
        for column in EXAMPLES[name]:
            rest = {key: value for key, value in EXAMPLES[name].items() if key != column}
            try:
                assert isinstance(row(name, rest), Row)
            except Unusable as why:
                assert why.reason in ("missing_column", "too_few_choices")

    def test_does_not_match_nothing(self, name):
        assert not READERS.get(name)().matches(set())


def test_every_reader_has_an_example():
    assert set(EXAMPLES) == set(READERS.names())


@pytest.mark.parametrize(
    "column", ["messages", "conversations", "conversation", "chat", "dialogue"]
)
@pytest.mark.parametrize("name", ["messages", "sharegpt"])
@pytest.mark.parametrize("pack", [lambda v: v, json.dumps, repr], ids=["list", "json", "python"])
def test_turns_in_every_column_and_packing(name, column, pack):
    chat = row(name, {column: pack(CHAT if name == "messages" else SHARE)})
    assert isinstance(chat, Chat)
    assert said(chat) == [(U, "Why?"), (A, "So.")]


@pytest.mark.parametrize(
    ("role", "meant"),
    [
        *((role, U) for role in ("user", "human", "User", " prompter ")),
        *((role, A) for role in ("assistant", "gpt", "bot", "model", "AI")),
    ],
)
def test_names_of_roles(role, meant):
    other = (A, "x") if meant == U else (U, "x")
    pair = [(role, "y"), other] if meant == U else [other, (role, "y")]
    assert (meant, "y") in said(row("messages", {"messages": turns(*pair)}))


@pytest.mark.parametrize(
    ("chat", "why"),
    [
        ([], "no_assistant_turn"),
        (turns((U, "a")), "no_assistant_turn"),
        (turns((A, "a"), (U, "b")), "roles_out_of_order"),
        (turns((A, "a")), "roles_out_of_order"),
        (turns((U, "a"), (U, "b"), (A, "c")), "roles_out_of_order"),
        (turns((U, "a"), (A, "b"), (A, "c")), "roles_out_of_order"),
        (turns((U, "a"), ("system", "s"), (A, "c")), "roles_out_of_order"),
        (turns(("system", "s"), ("system", "t"), (U, "a"), (A, "c")), "roles_out_of_order"),
        (turns((U, "a"), (A, " ")), "empty_answer"),
        (turns((U, "a"), ("bot", None)), "empty_answer"),
        (turns((U, ""), (A, "b")), "empty_question"),
        (turns((U, "a"), ("tool", "b")), "unknown_role"),
        (turns((U, "a"), (None, "b")), "unknown_role"),
        (turns((U, "a"), (A, True)), "wrong_type"),
        (turns((U, [{"type": "image_url"}]), (A, "b")), "wrong_type"),
        (["a", "b"], "wrong_type"),
        ("no list", "wrong_type"),
        (None, "wrong_type"),
        ({"role": U}, "wrong_type"),
    ],
    ids=repr,
)
def test_conversations_that_cannot_be_used(chat, why):
    assert reason("messages", {"messages": chat}) == why


def test_a_last_user_turn_is_cut_and_noted():
    place = Place("f", "f", 1)
    chat = row("messages", {"messages": turns((U, "a"), (A, "b"), (U, "c"), (U, "d"))}, place)
    assert said(chat) == [(U, "a"), (A, "b")]
    assert place.notes == {"unanswered_user_turn_cut": 2}


def test_system_messages():
    pair = ((U, "a"), (A, "b"))
    chat = row("messages", {"messages": turns(("system", "s"), *pair)})
    assert said(chat) == [("system", "s"), *pair]
    assert said(row("messages", {"messages": turns(("system", ""), *pair)})) == list(pair)
    chat = row("sharegpt", {"conversations": SHARE, "system": "s"})
    assert said(chat)[0] == ("system", "s")


def test_content_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert said(row("messages", {"messages": turns((U, parts), (A, "c"))}))[0] == (U, "ab")


def test_alpaca_with_everything():
    record = {
        "instruction": "Sum up.",
        "input": "A long text.",
        "output": "Short.",
        "system": "Be brief.",
        "history": [["Hello?", "Hello."]],
    }
    assert said(row("alpaca", record)) == [
        ("system", "Be brief."),
        (U, "Hello?"),
        (A, "Hello."),
        (U, "Sum up.\n\nA long text."),
        (A, "Short."),
    ]
    assert said(row("alpaca", record | {"history": json.dumps(record["history"])})) == said(
        row("alpaca", record)
    )
    dolly = {"instruction": "Sum up.", "context": "A long text.", "response": "Short."}
    assert said(row("alpaca", dolly))[0] == (U, "Sum up.\n\nA long text.")
    assert reason("alpaca", record | {"output": " "}) == "empty_answer"
    assert reason("alpaca", record | {"instruction": None}) == "empty_question"
    assert reason("alpaca", record | {"history": 3}) == "wrong_type"


QUESTIONS = ("prompt", "query", "question", "instruction", "input", "user")
ANSWERS = ("completion", "response", "answer", "output", "target", "assistant", "reply")


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize("told", ANSWERS)
def test_pairs_under_every_name(asked, told):
    reader = READERS.get("prompt_completion")()
    assert reader.matches({asked, told})
    assert said(row("prompt_completion", {asked: "Why?", told: 42})) == [(U, "Why?"), (A, "42")]


def test_pairs_with_context_history_and_turns():
    record = {"question": "Why?", "context": "Since when.", "answer": "So."}
    assert said(row("prompt_completion", record))[0] == (U, "Since when.\n\nWhy?")
    history = turns((U, "a"), (A, "b"))
    assert len(said(row("prompt_completion", record | {"history": history}))) == 4
    record = {"prompt": turns((U, "Why?")), "completion": turns((A, "So."))}
    assert said(row("prompt_completion", record)) == [(U, "Why?"), (A, "So.")]
    listlike = {"question": "Which numbers?", "answer": "[1, 2]"}
    assert row("prompt_completion", listlike).answer == "[1, 2]"
    for value, why in {"": "empty_answer", None: "empty_answer", True: "wrong_type"}.items():
        assert reason("prompt_completion", {"question": "Why?", "answer": value}) == why
    assert reason("prompt_completion", {"answer": "So."}) == "missing_column"
    assert (
        reason("prompt_completion", {"question": float("nan"), "answer": "x"}) == "empty_question"
    )


WORDS = ["red", "green", "blue"]
SHAPES = {
    "list": {"choices": WORDS},
    "json": {"options": json.dumps(WORDS)},
    "python": {"options": repr(WORDS)},
    "arc": {"choices": {"label": ["A", "B", "C"], "text": WORDS}},
    "numbered": {"choices": {"label": ["1", "2", "3"], "text": WORDS}},
    "medqa": {"options": dict(zip("ABC", WORDS, strict=True))},
    "objects": {"choices": [{"label": x, "text": w} for x, w in zip("ABC", WORDS, strict=True)]},
    "letters": dict(zip("abc", WORDS, strict=True)),
    "choice_a": {f"choice_{x}": w for x, w in zip("abc", WORDS, strict=True)},
    "option1": {f"option{n}": w for n, w in enumerate(WORDS, 1)},
    "option_0": {f"option_{n}": w for n, w in enumerate(WORDS)},
    "medmcqa": {f"op{x}": w for x, w in zip("abc", WORDS, strict=True)},
    "empty last column": {**dict(zip("abc", WORDS, strict=True)), "d": ""},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "column", ["answer", "answer_idx", "label", "gold", "correct", "answerkey", "answer_key"]
)
def test_choices_in_every_shape_and_column(shape, column):
    for told in ("green", " green ", 1, 1.0, [1], "B", "b", "(B)"):
        if shape == "numbered" and told in (1, [1], "B", "b", "(B)"):
            continue  # its labels are numbers, so a 1 is the first choice there
        record = {"question": "Which?", **SHAPES[shape], column: told}
        assert READERS.get("choice")().matches(set(record))
        made = row("choice", record)
        assert isinstance(made, Choice)
        assert (made.choices, made.answer) == (tuple(WORDS), 1)


def test_labels_decide_before_positions():
    record = {"question": "Which?", **SHAPES["numbered"]}
    assert row("choice", record | {"answer": "1"}).answer == 0
    assert row("choice", record | {"answer": 3}).answer == 2


def test_an_answer_as_text_of_digits():
    record = {"question": "How many?", "choices": ["4", "8", "16"]}
    assert row("choice", record | {"answer": "16"}).answer == 2
    assert row("choice", record | {"answer": "1"}).answer == 1
    clash = {"question": "How many?", "choices": ["2", "4", "6"]}
    assert reason("choice", clash | {"answer": "2"}) == "ambiguous_answer"
    assert row("choice", clash | {"answer": 2}).answer == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": 3}, "answer_out_of_range"),
        ({"answer": -1}, "answer_out_of_range"),
        ({"answer": "D"}, "answer_out_of_range"),
        ({"answer": "yellow"}, "answer_out_of_range"),
        ({"answer": None}, "answer_out_of_range"),
        ({"answer": True}, "wrong_type"),
        ({"answer": 0.5}, "wrong_type"),
        ({"choices": []}, "too_few_choices"),
        ({"choices": ["red"]}, "too_few_choices"),
        ({"choices": None}, "too_few_choices"),
        ({"choices": "red or green"}, "wrong_type"),
        ({"choices": ["red", "red "]}, "duplicate_choices"),
        ({"choices": ["red", ""]}, "empty_choice"),
        ({"choices": ["red", True]}, "wrong_type"),
        ({"choices": {"label": ["A"], "text": WORDS}}, "wrong_type"),
        ({"question": " "}, "empty_question"),
    ],
    ids=repr,
)
def test_choices_that_cannot_be_used(change, why):
    assert reason("choice", {"question": "Which?", "choices": WORDS, "answer": 0} | change) == why


def test_choices_that_differ_in_case_differ():
    assert row("choice", {"question": "?", "choices": ["Tt", "TT"], "answer": "TT"}).answer == 1


def test_preferences_in_every_shape():
    want = ([(U, "Why?")], "So.", "No.")
    head, good, bad = turns((U, "Why?")), turns((A, "So.")), turns((A, "No."))
    for record in (
        EXAMPLES["preference"],
        {"question": "Why?", "chosen": good, "rejected": bad},
        {"prompt": head, "chosen": good, "rejected": bad},
        {"chosen": head + good, "rejected": head + bad},
        {"prompt": "Why?", "chosen": head + good, "rejected": head + bad},
        {"chosen": json.dumps(head + good), "rejected": json.dumps(head + bad)},
    ):
        made = row("preference", record)
        assert isinstance(made, Preference)
        assert ([(m.role, m.content) for m in made.prompt], made.chosen, made.rejected) == want
    made = row(
        "preference", EXAMPLES["preference"] | {"history": turns((U, "a"), (A, "b"), (A, "c"))}
    )
    assert [m.content for m in made.prompt] == ["a", "b\n\nc", "Why?"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chosen": "No. "}, "identical_pair"),
        ({"chosen": ""}, "empty_answer"),
        ({"rejected": None}, "empty_answer"),
        ({"prompt": ""}, "empty_question"),
        ({"chosen": turns((U, "x"))}, "no_assistant_turn"),
        ({"chosen": turns((U, "x"), (A, "y"))}, "prompts_differ"),
        ({"history": turns((A, "b"))}, "roles_out_of_order"),
        ({"chosen": 3.5, "rejected": "3.5"}, "identical_pair"),
    ],
    ids=repr,
)
def test_preferences_that_cannot_be_used(change, why):
    assert reason("preference", EXAMPLES["preference"] | change) == why


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(True, True), (False, False), ("true", True), ("False", False), (1, True), ("0", False)],
)
def test_ratings(value, wanted):
    for column in ("label", "wanted", "desirable", "thumbs_up"):
        made = row("rated", {"prompt": "Why?", "completion": "So.", column: value})
        assert isinstance(made, Rated)
        assert (made.prompt[0].content, made.reply, made.wanted) == ("Why?", "So.", wanted)
    turned = {"prompt": turns((U, "Why?")), "completion": turns((A, "So.")), "label": value}
    assert row("rated", turned).reply == "So."


def test_ratings_that_cannot_be_used():
    assert reason("rated", EXAMPLES["rated"] | {"label": "maybe"}) == "wrong_type"
    assert reason("rated", EXAMPLES["rated"] | {"label": None}) == "wrong_type"
    assert reason("rated", EXAMPLES["rated"] | {"completion": ""}) == "empty_answer"
    assert reason("rated", EXAMPLES["rated"] | {"prompt": turns((A, "x"))}) == "roles_out_of_order"


@pytest.mark.parametrize("column", ["text", "content", "body", "document", "passage"])
def test_texts_and_documents(column):
    text = row("text", {column: "So."})
    document = row("document", {column: "So.", "title": "T"})
    assert isinstance(text, Text)
    assert isinstance(document, Document)
    assert (text.text, document.title, document.text) == ("So.", "T", "So.")
    assert row("document", {column: "So."}).title == "f"
    assert reason("text", {column: " "}) == "empty_text"
    assert reason("document", {column: ["x"]}) == "wrong_type"


@pytest.mark.parametrize(
    ("written", "iso"),
    [
        ("2024-05-31", "2024-05-31"),
        ("2024/05/31", "2024-05-31"),
        ("2024-05-31T10:00:00+02:00", "2024-05-31T08:00:00"),
        ("2024-05-31 10:00:00", "2024-05-31T10:00:00"),
        ("2024-05", "2024-05"),
        (2024, "2024"),
        ("03/04/2024", None),
        ("yesterday", None),
        (3.5, None),
    ],
)
def test_dates(written, iso):
    place = Place("f", "f", 1)
    assert row("text", {"text": "x", "published": written}, place).date == iso
    assert place.notes == ({} if iso else {"date_not_iso": 1})


@pytest.mark.parametrize(
    "column",
    ["group", "group_id", "patient", "patient_id", "document_id", "doc_id", "contract", "case_id"],
)
def test_groups(column):
    assert row("prompt_completion", EXAMPLES["prompt_completion"] | {column: 5}).group == "5"
