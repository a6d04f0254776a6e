"""Prompts that change no weight: what is shown, in which order, and what never is."""

import itertools
import math
import re
from functools import cache

import numpy as np
import pytest

from domainwright.core.errors import ConfigError
from domainwright.core.records import Choice, Document, Message, Text
from domainwright.maths.words import words
from domainwright.models import embedded
from domainwright.prompting import PROMPTINGS, _index
from domainwright.prompting._index import Index, passages_of
from domainwright.prompting._sources import PromptSettings, Sources, ask, question_of
from tests.tiny import chat

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(
        embedded.package_folder(embedded.ENCODER_PACKAGE) is None
        or embedded.package_folder(embedded.GGUF_PACKAGE) is None,
        reason="the packages of the embedded models are not installed (`make setup`)",
    ),
]
FACTS = [
    ("Which drug thins the blood?", "Warfarin thins the blood."),
    ("What does warfarin do to the blood?", "It keeps the blood from clotting."),
    ("Which bird cannot fly?", "The ostrich cannot fly."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("What is the capital of France?", "The capital is Paris."),
    ("Which planet is the largest?", "Jupiter is the largest planet."),
]
ROWS = [chat(q, a, name=f"r{n}", group=f"g{n}") for n, (q, a) in enumerate(FACTS)]
DOCUMENTS = [
    Document(id=f"d{n}", group=f"g{n}", file="f", line=n, title=title, text=text)
    for n, (title, text) in enumerate(
        [
            ("Spiders", "Spiders are arachnids with eight legs that spin webs from silk."),
            ("Warfarin", "Warfarin is a drug that thins the blood and prevents clots."),
            ("Paris", "Paris is the capital of France and lies on the river Seine."),
            ("", "Jupiter is the largest planet and has many moons."),
            ("Ostriches", "The ostrich is the largest bird and cannot fly."),
        ]
    )
]


@cache
def tokenizer():
    """A real one: what markers and words cost in tokens is the point here."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded.smollm2_folder())


def count_tokens(text):
    return len(tokenizer()(text, add_special_tokens=False).input_ids)


def strategy(name, rows=ROWS, documents=(), **settings):
    sources = Sources(
        examples=rows,
        documents=documents,
        settings=PromptSettings(**settings),
        count_tokens=count_tokens,
    )
    return PROMPTINGS.get(name)(sources)


def rendered(prompt):
    """Tokens of the whole prompt, as a model would read it."""
    if prompt.text:
        return count_tokens(prompt.text)
    turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
    text = tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return count_tokens(text)


def choice_row(question, answer, *others, group="x"):
    return Choice(
        id="c" + group,
        group=group,
        file="f",
        line=1,
        question=question,
        choices=(answer, *others),
        answer=0,
    )


def test_every_strategy_says_what_it_needs():
    assert {"zero_shot", "few_shot", "rag"} <= set(PROMPTINGS.names())
    for name in PROMPTINGS.names():
        kind = PROMPTINGS.get(name)
        assert kind.summary and set(kind.needs) <= {"examples", "documents"}


def test_zero_shot_asks_the_question_alone():
    row = ROWS[0]
    assert strategy("zero_shot").prompt(row).messages == row.messages[:-1]
    with_instruction = strategy("zero_shot", instruction="Be brief.").prompt(row)
    assert with_instruction.messages == (Message("system", "Be brief."), *row.messages[:-1])
    own = chat("q", "a", system="Mine.")
    assert strategy("zero_shot", instruction="Be brief.").prompt(own).messages == own.messages[:-1]
    choice = choice_row("Q?", "a", "b")
    assert strategy("zero_shot").prompt(choice).text == "Question: Q?\nAnswer:"
    text = strategy("zero_shot", instruction="Be brief.").prompt(choice).text
    assert text == "Be brief.\nQuestion: Q?\nAnswer:"
    assert (
        strategy("zero_shot").prompt(Text(id="t", group="t", file="f", line=1, text="x")).text == ""
    )


def test_the_lead_stands_before_the_last_turn_only():
    row = chat("first", "reply", "second", "answer", system="S")
    got = ask(row, PromptSettings(), before=[Message("user", "shown")], lead="L ")
    assert [m.content for m in got.messages] == ["S", "shown", "first", "reply", "L second"]


def test_what_is_searched_for():
    assert question_of(ROWS[0]) == FACTS[0][0]
    assert question_of(choice_row("Q?", "a")) == "Q?"
    context = Choice(
        id="1", group="1", file="f", line=1, question="Q?", choices=("a",), answer=0, context="C"
    )
    assert question_of(context) == "C\nQ?"
    assert question_of(DOCUMENTS[0]) == ""


def test_the_nearest_examples_are_shown_nearest_last():
    ask_blood = chat("Which medicine thins blood?", "?", name="t", group="test")
    prompt = strategy("few_shot", context_tokens=5000).prompt(ask_blood)
    assert len(prompt.examples) == 4 and prompt.examples[-1] == "r0" and prompt.examples[-2] == "r1"
    contents = [m.content for m in prompt.messages]
    assert contents[-1] == "Which medicine thins blood?" and contents[-3:-1] == list(FACTS[0])
    assert [m.role for m in prompt.messages] == ["user", "assistant"] * 4 + ["user"]
    # With two examples, the two nearest are kept.
    few = strategy("few_shot", examples=2, context_tokens=5000)
    assert few.prompt(ask_blood).examples == ("r1", "r0")


@pytest.mark.parametrize("name", ["few_shot", "rag"])
def test_the_rows_own_group_is_never_shown(name):
    """Also where it would be the nearest by far, and where nothing else is left."""
    for row in ROWS:
        prompt = strategy(name, context_tokens=5000).prompt(row)
        shown = " ".join([*(m.content for m in prompt.messages[:-1]), *prompt.passages])
        assert row.id not in prompt.examples and row.answer not in shown
        assert prompt.examples or prompt.passages
    alone = [chat(q, a, name=f"r{n}", group="one") for n, (q, a) in enumerate(FACTS)]
    prompt = strategy(name, alone, context_tokens=5000).prompt(alone[2])
    assert (prompt.examples, prompt.passages) == ((), ())
    assert prompt.messages == alone[2].messages[:-1]


@pytest.mark.parametrize("name", ["few_shot", "rag"])
@pytest.mark.parametrize("budget", [1, 15, 40, 70, 110, 160, 5000])
def test_the_context_budget_holds(name, budget):
    long = " ".join(f"{w} means something else today" for w in "abcdefghijklmnop")
    rows = [
        chat(f"{q} {long[: 40 * n]}", f"{a} {long}", name=f"r{n}", group=f"g{n}")
        for n, (q, a) in enumerate(FACTS)
    ] + ROWS
    documents = (
        []
        if name == "few_shot"
        else [
            Document(
                id=f"d{n}",
                group="d",
                file="f",
                line=n,
                title="T",
                text=f"{d.text} {long} 診断 Łódź",
            )
            for n, d in enumerate(DOCUMENTS)
        ]
    )
    tuned = strategy(name, rows, documents, context_tokens=budget)
    bare = strategy("zero_shot")
    used = []
    for row in [chat(q, "?", name="t", group="test") for q, _ in FACTS]:
        used.append(rendered(tuned.prompt(row)) - rendered(bare.prompt(row)))
    for q, a in FACTS:
        row = choice_row(q, a, "other", group="test")
        used.append(rendered(tuned.prompt(row)) - rendered(bare.prompt(row)))
    assert max(used) <= budget
    if budget >= 110:
        assert max(used) > 0.5 * min(budget, 300)


def test_examples_of_choices_are_plain_text():
    pool = [choice_row(q, a, "wrong", group=f"g{n}") for n, (q, a) in enumerate(FACTS)]
    row = choice_row("Which drug thins blood?", "a", "b", group="test")
    prompt = strategy("few_shot", pool, examples=1, context_tokens=500, instruction="I").prompt(row)
    q, a = FACTS[0]
    assert prompt.text == f"I\nQuestion: {q}\nAnswer: {a}\n\nQuestion: {row.question}\nAnswer:"


def test_the_right_passage_is_found():
    for (question, _), title in zip(
        FACTS, ["Warfarin", "Warfarin", "Ostriches", "Spiders", "Paris", "Jupiter"], strict=True
    ):
        row = chat(question, "?", name="t", group="test")
        prompt = strategy("rag", documents=DOCUMENTS, passages=2, context_tokens=500).prompt(row)
        assert len(prompt.passages) == 2 and prompt.passages[0].startswith(title)
        lead = prompt.messages[-1].content
        assert lead.startswith("Answer the question with the help of these passages.\n\n[1] ")
        assert lead.endswith(f"\n\nQuestion: {question}")
        assert f"[1] {prompt.passages[0]}\n[2] {prompt.passages[1]}\n" in lead


def test_documents_may_share_the_group_of_a_row():
    """A group forbids training rows; a document is the user's to quote."""
    row = chat("How many legs has a spider?", "?", name="t", group="g0")
    prompt = strategy("rag", documents=DOCUMENTS, context_tokens=500).prompt(row)
    assert prompt.passages[0].startswith("Spiders: ")


def test_passages_are_quoted_ahead_of_a_choice():
    row = choice_row("Which drug thins blood?", "a", "b", group="test")
    prompt = strategy("rag", documents=DOCUMENTS, passages=1, context_tokens=500).prompt(row)
    assert prompt.text == f"[1] {prompt.passages[0]}\nQuestion: {row.question}\nAnswer:"


def test_a_long_passage_is_cut_to_fit():
    text = "Warfarin thins the blood. " + " ".join(f"word{n}" for n in range(140))
    documents = [Document(id="d", group="d", file="f", line=1, title="Drugs", text=text)]
    row = chat("What thins the blood?", "?", group="test")
    whole = strategy("rag", documents=documents, context_tokens=5000).prompt(row).passages[0]
    cut = strategy("rag", documents=documents, context_tokens=250).prompt(row).passages[0]
    assert whole == f"Drugs: {text}" and whole.startswith(cut) and len(cut) < len(whole)
    assert 180 < count_tokens(cut) <= 250
    # Hardly anything would be left: nothing is quoted.
    assert strategy("rag", documents=documents, context_tokens=60).prompt(row).passages == ()


def test_passages_cover_every_word_and_overlap():
    words = [f"w{n}" for n in range(500)]
    (document,) = [Document(id="d", group="g", file="f", line=1, title="T", text=" ".join(words))]
    parts = passages_of([document])
    pieces = [p.text.split() for p in parts]
    assert pieces[0] == words[:150] and pieces[1][0] == "w128" and pieces[-1][-1] == "w499"
    for a, b in itertools.pairwise(pieces):
        assert a[-22:] == b[:22]
    assert [p.id for p in parts] == [f"d#{n}" for n in range(len(parts))]
    assert {(p.group, p.title) for p in parts} == {("g", "T")}
    for size in (1, 150, 151, 172, 173):
        text = " ".join(words[:size])
        pieces = passages_of([Document(id="d", group="g", file="f", line=1, title="", text=text)])
        assert pieces[0].shown == " ".join(words[: min(size, 150)])
        assert pieces[-1].text.split()[-1] == f"w{size - 1}"


class NoVectors:
    """A dense search that finds nothing, so that only BM25 speaks."""

    def encode(self, texts, *_, **__):
        return np.full((len(texts), 1), np.nan)

    def vector(self, text):
        return np.full(1, np.nan)


def bm25(texts, query, k1=1.5, b=0.75):
    """Lucene's form by hand: ln(1 + (N - n + ½) / (n + ½)) · tf / (tf + k1 (1 - b + b l / L))."""
    docs = [re.findall(r"[a-z0-9]+", t.lower()) for t in texts]
    mean = sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        score = 0.0
        for term in re.findall(r"[a-z0-9]+", query.lower()):
            holding = sum(term in d for d in docs)
            if holding:
                idf = math.log(1 + (len(docs) - holding + 0.5) / (holding + 0.5))
                tf = doc.count(term)
                score += idf * tf / (tf + k1 * (1 - b + b * len(doc) / mean))
        scores.append(score)
    return scores


QUERIES = [
    "the largest planet",
    "drug for the blood blood",
    "fly",
    "Seine river in France",
    "zebra",
]


@pytest.mark.parametrize("query", QUERIES)
def test_lexical_scores_are_those_of_bm25(query, monkeypatch):
    monkeypatch.setattr(_index, "default_encoder", NoVectors)
    texts = [d.text for d in DOCUMENTS]
    index = Index(texts)
    want = bm25(texts, query)
    got = index._bm25.get_scores(words(query))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
    order = sorted((n for n in range(5) if want[n] > 0), key=lambda n: -want[n])
    assert index.search(query) == order


@pytest.mark.parametrize(
    ("texts", "query", "first"),
    [
        # A script without spaces: a sentence must not be one word.
        (["血圧を下げる薬です。", "抗凝固薬はワルファリンです。"], "ワルファリンとは", 1),
        (["Der Fluss durch Paris", "Ein Café an der Ecke"], "cafe", 1),
    ],
)
def test_lexical_search_knows_the_words_of_other_scripts(texts, query, first, monkeypatch):
    monkeypatch.setattr(_index, "default_encoder", NoVectors)
    assert Index(texts).search(query)[:1] == [first]


def test_the_two_rankings_are_fused_by_reciprocal_rank(monkeypatch):
    class Dense:
        def encode(self, texts, *_, **__):
            known = {"alpha one": 0.1, "alpha alpha two": 0.3, "beta": 0.9, "gamma": 0.2}
            return np.array([[known.get(t, 1.0)] for t in texts])

        def vector(self, text):
            return self.encode([text])[0]

    monkeypatch.setattr(_index, "default_encoder", Dense)
    index = Index(["alpha one", "alpha alpha two", "beta", "gamma"])
    # Lexical: 1, 0. Dense: 2, 1, 3, 0.
    scores = {0: 1 / 62 + 1 / 64, 1: 1 / 61 + 1 / 62, 2: 1 / 61, 3: 1 / 63}
    assert index.search("alpha") == sorted(scores, key=lambda n: -scores[n])
    allowed = np.array([True, False, False, True])
    assert index.search("alpha", allowed) == [0, 3]
    assert index.search("", allowed) == [3, 0]  # only the vectors can rank an empty query
    assert index.search("alpha", np.zeros(4, dtype=bool)) == []


@pytest.mark.parametrize("name", ["context_tokens", "examples", "passages"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=rf"prompting\.{name} is 0"):
        PromptSettings(**{name: 0})
