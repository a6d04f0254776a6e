"""Entities in tags against seqeval's own counts, a second reading, and lists read back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domainwright.maths.listed import NONE, OTHER, listed, read_listed
from domainwright.maths.spans import (
    Counts,
    Span,
    counts_of,
    is_tag,
    spans_of,
    summed,
    tag_names,
    tags_of,
)
from domainwright.maths.words import pieces

FIXTURE = Path(__file__).parents[1] / "fixtures" / "seqeval.json"
CASES = json.loads(FIXTURE.read_text(encoding="utf-8"))["cases"]
KINDS = ("DRUG", "DOSE", "B-CELL", "GO:1", "a b")


@pytest.mark.parametrize("number", range(len(CASES)))
def test_spans_and_counts_are_those_of_seqeval(number):
    case = CASES[number]
    pairs = list(zip(case["true"], case["given"], strict=True))
    own = [[[s.kind, s.start, s.end - 1] for s in spans_of(tags)] for tags in case["true"]]
    assert own == case["spans"]
    each = [counts_of(spans_of(b), spans_of(a)) for a, b in pairs]
    total = summed(counts for row in each for counts in row.values())
    *micro, _ = case["scores"]["micro"]
    assert [total.precision, total.recall, total.f1] == pytest.approx(micro)
    for kind, (*scores, support) in case["scores"]["kinds"].items():
        counts = summed(row[kind] for row in each if kind in row)
        assert (counts.precision, counts.recall, counts.true) == pytest.approx(
            (*scores[:2], support)
        )
        # The library calls a type without a single span 0, and so it cannot occur in its lists.
        assert counts.f1 == pytest.approx(scores[2])


WORDS = st.sampled_from(["5", "mg", "5 mg", "#2", "a", "a#", "aa", "-", "none", "x:"])
TEXT = st.text(min_size=1, max_size=4).map(lambda x: " ".join(x.split()) or "x")


@st.composite
def sentences(draw, kinds=KINDS, words=WORDS):
    """(words, spans in order that do not overlap)."""
    found, at, length = [], 0, draw(st.integers(1, 9))
    while at < length:
        size = draw(st.integers(0, 3))
        if size and at + size <= length:
            found.append(Span(at, at + size, draw(st.sampled_from(kinds))))
        at += max(1, size)
    return draw(st.lists(words, min_size=length, max_size=length)), found


def iob1(spans, length):
    """B-X only behind an equal neighbour."""
    tags, before = ["O"] * length, None
    for span in spans:
        touches = before and before.end == span.start and before.kind == span.kind
        tags[span.start : span.end] = [f"I-{span.kind}"] * (span.end - span.start)
        if touches:
            tags[span.start] = f"B-{span.kind}"
        before = span
    return tags


def ended(spans, length, marks):
    """BIOES or BILOU."""
    begin, inside, end, single = marks
    tags = ["O"] * length
    for a, b, kind in spans:
        own = [begin, *[inside] * (b - a - 2), end] if b - a > 1 else [single]
        tags[a:b] = [f"{mark}-{kind}" for mark in own]
    return tags


@given(sentences())
def test_every_scheme_is_read_as_the_same_spans(case):
    words, spans = case
    count = len(words)
    ways = [tags_of(spans, count), iob1(spans, count)]
    ways += [ended(spans, count, marks) for marks in ("BIES", "BILU", "BMES")]
    for tags in ways:
        assert all(map(is_tag, tags))
        assert spans_of(tags) == spans
        assert tags_of(spans_of(tags), count) == ways[0]


@given(st.lists(st.sampled_from(["O", *(f"{m}-{k}" for m in "BIESLU" for k in "XY")]), max_size=8))
def test_any_tags_give_spans_that_bio_tags_keep(tags):
    spans = spans_of(tags)
    again = tags_of(spans, len(tags))
    assert spans_of(again) == spans
    assert [tag == "O" for tag in again] == [tag == "O" for tag in tags]
    assert {tag[2:] for tag in again} == {tag[2:] for tag in tags}


def brute(given_spans, true):
    """(right, given, true) by comparing everything with everything."""
    right = sum(1 for g in set(given_spans) for t in set(true) if tuple(g) == tuple(t))
    return right, len(set(given_spans)), len(set(true))


@given(sentences(), sentences())
def test_counts_are_those_of_a_second_count(one, other):
    assert tuple(summed(counts_of(one[1], other[1]).values())) == brute(one[1], other[1])


def test_what_is_not_in_the_sentence_is_given_and_wrong():
    own = [Span(0, 1, "X"), Span(2, 3, "Y")]
    assert counts_of(own[:1], own, ["X", "Z"]) == {
        "X": Counts(1, 2, 1),
        "Y": Counts(0, 0, 1),
        "Z": Counts(0, 1, 0),
    }
    assert summed([]) == Counts(0, 0, 0) and summed([]).f1 == 1
    assert Counts(0, 0, 2).f1 == Counts(0, 2, 0).f1 == Counts(0, 0, 2).precision == 0


@pytest.mark.parametrize("tag", ["B", "B-", "X-DRUG", "NOUN", "", None, 3, "B- X", "B-a: b", "o"])
def test_what_is_no_tag(tag):
    assert not is_tag(tag)


def test_names_of_tags():
    assert tag_names(["b", "a", "b"]) == ("O", "B-a", "I-a", "B-b", "I-b")


@settings(max_examples=400)
@given(st.one_of(sentences(), sentences(words=TEXT)))
def test_a_list_is_read_back_as_the_spans_it_was_made_of(case):
    words, spans = case
    found = read_listed(listed(words, spans), words, KINDS)
    assert (found.spans, found.strange, found.parsed) == (spans, [], True)


@given(st.text(max_size=80), sentences())
def test_any_reply_is_read(reply, case):
    found = read_listed(reply, case[0], KINDS)
    assert all(0 <= s.start < s.end <= len(case[0]) for s in found.spans)
    assert found.parsed or not (found.spans or found.strange)


SENTENCE = "give 5 mg warfarin , then 6 mg of Warfarin".split()


@pytest.mark.parametrize(
    ("reply", "spans", "strange"),
    [
        ("DRUG: warfarin", [(3, 4, "DRUG")], []),
        ("DRUG: warfarin\nDRUG: warfarin", [(3, 4, "DRUG"), (9, 10, "DRUG")], []),
        ("DOSE: 6 mg\nDRUG: warfarin", [(6, 8, "DOSE"), (3, 4, "DRUG")], []),
        ("Sure:\n- dose: 5mg.\n2. DRUG: 'Warfarin'", [(1, 3, "DOSE"), (9, 10, "DRUG")], []),
        ("DOSE: mg #2", [(7, 8, "DOSE")], []),
        ("DOSE: mg #3", [], ["DOSE"]),
        ("DRUG: aspirin\nDRUG: warfarin", [(3, 4, "DRUG")], ["DRUG"]),
        ("DRUG: warfarin #1\nDRUG: warfarin #1", [(3, 4, "DRUG")], ["DRUG"]),
        ("DOSE: 5 mg\nUNIT: mg\nnote: that is all", [(1, 3, "DOSE")], [OTHER]),
        ("None.", [], []),
        (NONE, [], []),
    ],
)
def test_replies_of_models(reply, spans, strange):
    found = read_listed(reply, SENTENCE, ("DRUG", "DOSE"))
    assert ([tuple(s) for s in found.spans], found.strange, found.parsed) == (spans, strange, True)


@pytest.mark.parametrize("reply", ["", "I do not know.", "UNIT: mg", "DRUG:", "Text: give 5 mg"])
def test_replies_that_list_nothing(reply):
    found = read_listed(reply, SENTENCE, ("DRUG", "DOSE"))
    assert (found.spans, found.strange, found.parsed) == ([], [], False)


def test_a_line_says_which_place_only_where_it_must():
    words = ["mg", "5", "mg", "mg"]
    assert listed(words, [Span(1, 3, "DOSE"), Span(3, 4, "UNIT")]) == "DOSE: 5 mg\nUNIT: mg"
    assert listed(words, [Span(2, 3, "UNIT")]) == "UNIT: mg #2"
    assert listed(["room", "#2"], [Span(0, 2, "PLACE")]) == "PLACE: room #2 #1"
    assert listed(words, []) == NONE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't give 2.5mg, 1,000 IU.", "Don ' t give 2.5mg , 1,000 IU ."),
        ("A1.5 v1.2.3 e.g. 3, 4", "A1.5 v1.2.3 e . g . 3 , 4"),
        ("naïve café ﬁx_it", "naïve café ﬁx_it"),
        ("हिन्दी में", "हिन्दी में"),
        ("東京タワー x", "東 京 タ ワ ー x"),
        (" \n", ""),
    ],
)
def test_words_and_signs_of_a_text(text, words):
    assert " ".join(text[a:b] for a, b in pieces(text)) == words


@given(st.text(max_size=40))
def test_pieces_lose_nothing_but_spaces(text):
    found = pieces(text)
    assert "".join(text[a:b] for a, b in found) == "".join(text.split())
    assert all(a < b for a, b in found) and found == sorted(found)
