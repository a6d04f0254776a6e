"""Which strategies a study asks, and which it leaves out and says why."""

from types import SimpleNamespace

import pytest

from domainwright.core.records import Chat, Document, Message
from domainwright.studies._choice import strategies
from domainwright.studies._passages import CHARACTERS, ENCODED_PER_S, LARGEST_SHARE

PROMPTS = ["zero_shot", "instructed", "few_shot"]


def data(task="answers", documents=0, rows=1, words=10):
    """`documents` pages and `rows` training rows of so many words of four characters."""
    text = "and " * words
    pages = [
        Document(id=f"d{n}", group=f"d{n}", file="d", line=n, title="", text=text)
        for n in range(documents)
    ]
    turns = (Message("user", text[: len(text) // 2]), Message("assistant", text[len(text) // 2 :]))
    row = Chat(id="r", group="r", file="r", line=1, messages=turns)
    return SimpleNamespace(task=task, documents=pages, split=SimpleNamespace(train=[row] * rows))


def asked(*wanted, minutes=30, head=False, **given):
    return strategies(wanted or ["auto"], data(**given), minutes=minutes, head=head)


def test_auto_asks_what_the_data_are_fit_for():
    assert asked() == ([*PROMPTS, "rag", "lora"], [])
    assert asked(documents=1) == ([*PROMPTS, "rag", "rag_few_shot", "lora", "lora+rag"], [])
    assert asked(task="texts") == (["zero_shot", "lora"], [])


def test_plain_text_has_nothing_to_be_shown():
    names, skipped = asked("few_shot", "lora", "lora+rag", task="texts")
    assert names == ["zero_shot", "lora"] and [s.name for s in skipped] == ["few_shot", "lora+rag"]
    assert "no question" in skipped[0].reason


def test_a_head_is_not_combined_with_what_stands_ahead_of_a_sentence():
    wanted = ["zero_shot", "few_shot", "lora", "lora+rag"]
    names, skipped = asked(*wanted, task="entities", documents=1, head=True)
    assert names == wanted[:3] and [s.name for s in skipped] == ["lora+rag"]
    assert "reads the sentence alone" in skipped[0].reason
    assert asked(*wanted, task="entities", documents=1) == (wanted, [])
    for head in (False, True):
        names, _ = asked(task="entities", documents=1, head=head)
        assert ("lora+rag" in names) is not head


@pytest.mark.parametrize("documents", [True, False])
def test_auto_makes_no_vectors_that_would_take_most_of_the_budget(documents):
    """A page of 100 words, or as many rows as there would be pages."""
    most = LARGEST_SHARE * 60 * ENCODED_PER_S / 100  # in one minute
    overlapping = 1.3 if documents else 1.0
    few, many = int(0.5 * most / overlapping), int(1.2 * most)
    assert len("and ") == CHARACTERS
    for count, words in ((few, "rag"), (many, "rag_bm25")):
        given = {"documents": count} if documents else {"rows": count}
        names, skipped = asked(minutes=1, words=100, **given)
        more = [f"lora+{words}"] if documents else []
        shown = ["rag_few_shot"] if documents and words == "rag" else []
        assert names == [*PROMPTS, words, *shown, "lora", *more]
        left_out = ["rag", *(["rag_few_shot", "lora+rag"] if documents else [])]
        assert [s.name for s in skipped] == (left_out if count == many else [])
        assert all("million tokens of passages" in s.reason for s in skipped)
        # What is named is asked, however long it takes.
        assert asked("rag", minutes=1, words=100, **given) == (["zero_shot", "rag"], [])
    assert asked(minutes=30, words=100, **given)[1] == []
