"""Which tokens are supervised, by hand; what a template may not do; how rows are written."""

from dataclasses import replace

import pytest

from domainwright.core.errors import DataError
from domainwright.core.records import Choice, Message, Text
from domainwright.models.forms import choice_prompt, continuation, encode_rows, solved, written
from domainwright.models.template import Template
from tests.tiny import BEGIN, CHATML, END, START, chat, tiny_tokenizer


def spans(template, row):
    """The text of every run of supervised tokens."""
    encoded = template.conversation(row.messages)
    assert len(encoded.ids) == len(encoded.supervised)
    runs, current = [], []
    for token, on in zip([*encoded.ids, 0], [*encoded.supervised, False], strict=True):
        if on:
            current.append(token)
        elif current:
            runs.append(template.tokenizer.decode(current))
            current = []
    return runs


@pytest.mark.parametrize(
    "answer", ["It thins the blood.", "3 mg", "Łódź · 診断 😀", "two\nlines", "a <b> c", "x"]
)
def test_the_answer_and_its_end_are_supervised_and_nothing_else(answer):
    template = Template(tiny_tokenizer())
    row = chat("What is warfarin?", answer, system="Be brief.")
    assert spans(template, row) == [answer + END]
    encoded = template.conversation(row.messages)
    assert encoded.supervised[-1] and encoded.ids[-1] == template.tokenizer.eos_token_id
    head = f"{START}system\nBe brief.{END}\n{START}user\nWhat is warfarin?{END}\n{START}assistant\n"
    first = encoded.supervised.index(True)
    assert template.tokenizer.decode(encoded.ids[:first]) == head
    assert template.prompt(row.messages[:-1]) == encoded.ids[:first]


def test_every_assistant_turn_is_supervised():
    template = Template(tiny_tokenizer())
    row = chat("a", "first", "b", "second one", "c", "third")
    assert spans(template, row) == [f"first{END}", f"second one{END}", f"third{END}"]


def test_pad_equal_to_end_masks_no_end():
    """transformers #23530: masking labels by `ids == pad` removes every end of turn."""
    template = Template(tiny_tokenizer())
    assert template.tokenizer.pad_token_id == template.tokenizer.eos_token_id
    encoded = template.conversation(chat("a", "b", "c", "d").messages)
    ends = [i for i, token in enumerate(encoded.ids) if token == template.tokenizer.eos_token_id]
    # Ends of user turns carry no loss, ends of assistant turns do.
    assert [encoded.supervised[i] for i in ends] == [False, True, False, True]


def test_white_space_around_the_answer_does_not_move_the_span():
    trimmed = CHATML.replace("m.content", "m.content | trim")
    template = Template(tiny_tokenizer(trimmed))
    assert spans(template, chat("a", "  padded answer \n")) == [f"padded answer{END}"]


@pytest.mark.parametrize(
    ("chat_template", "cause"),
    [
        # Marks the last turn: an earlier one renders differently once more turns follow.
        (CHATML.replace("m.content", "m.content + ('!' if loop.last else '')"), "more turns"),
        (CHATML.replace("m.content", "(m.content if loop.last else '…')"), "more turns"),
        # Marks the assistant's turn only while it is the last, as thinking models do.
        (
            CHATML.replace(
                "m.content", "m.content + ('!' if loop.last and m.role == 'assistant' else '')"
            ),
            "more turns",
        ),
        # Writes a header at training that is not the header at inference.
        (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>bot\n'"), "more turns"),
        (CHATML.replace("m.content", "m.content | upper"), "changes or drops"),
        (CHATML.replace("m.content", "''"), "changes or drops"),
        ("{{ raise_exception('no system turn') }}", "refuses this conversation: no system turn"),
        (CHATML.replace("m.role", "m.nothing.role"), "refuses this conversation"),
    ],
)
def test_a_template_that_cannot_be_trusted_is_refused(chat_template, cause):
    template = Template(tiny_tokenizer(chat_template))
    with pytest.raises(DataError, match=cause):
        template.conversation(chat("a", "first", "b", "second").messages)


def test_a_conversation_without_an_answer_is_refused():
    with pytest.raises(DataError, match="no supervised token"):
        Template(tiny_tokenizer()).conversation((Message("user", "a"),))


def test_a_base_without_a_template_gets_the_plain_one():
    template = Template(tiny_tokenizer(None))
    assert not template.own
    row = chat("What?", "That.", "Why?", "So.", system="S")
    text = template.render(row.messages, answer_next=False)
    assert text == f"S\nQuestion: What?\nAnswer: That.{END}\nQuestion: Why?\nAnswer: So.{END}\n"
    assert template.render(row.messages[:2], answer_next=True) == "S\nQuestion: What?\nAnswer:"
    assert spans(template, row) == [f" That.{END}", f" So.{END}"]
    assert template.stops == {template.tokenizer.eos_token_id}


def test_stops_are_what_closes_a_turn_and_the_end_of_sequence():
    tokenizer = tiny_tokenizer(bos=True)
    end = tokenizer.eos_token_id
    assert Template(tokenizer).stops == {end}
    tokenizer.eos_token = BEGIN  # a base whose end-of-sequence is not its end-of-turn
    assert Template(tokenizer).stops == {end, tokenizer.convert_tokens_to_ids(BEGIN)}
    # A template that closes a turn with plain text adds no stop.
    tokenizer = tiny_tokenizer(CHATML.replace("<|im_end|>", "."))
    assert Template(tokenizer).stops == {tokenizer.eos_token_id}


def test_the_choice_prompt():
    row = Choice(id="1", group="1", file="f", line=1, question=" Q? ", choices=("a", "b"), answer=1)
    assert choice_prompt(row) == "Question: Q?\nAnswer:"
    assert solved(row) == ("Question: Q?", "b")
    with_context = Choice(
        id="1", group="1", file="f", line=1, question="Q?", choices=("a",), answer=0, context="C. "
    )
    assert choice_prompt(with_context) == "C.\nQuestion: Q?\nAnswer:"
    labelled = replace(row, ask="Which label?")
    assert choice_prompt(labelled) == "Text: Q?\nLabel:"  # what is asked is the prompt's matter
    assert written(labelled) == "Text: Q?\nLabel: b\n\n"
    assert written(row) == "Question: Q?\nAnswer: b\n\n"
    assert solved(chat("q", "a")) == ("q", "a")


def test_rows_are_written_as_they_are_scored():
    template = Template(tiny_tokenizer())
    choice = Choice(
        id="c", group="c", file="f", line=3, question="Which?", choices=("one", "two"), answer=1
    )
    (row,) = encode_rows(template, [choice], 100)
    before, after = continuation(template, choice_prompt(choice), " two")
    assert row.ids == before + after and template.tokenizer.decode(after) == " two"
    assert row.supervised == [False] * len(before) + [True] * len(after)
    assert not row.conversation and (row.file, row.line, row.cut) == ("f", 3, 0)


@pytest.mark.parametrize("size", range(2, 12))
def test_long_texts_become_pieces_that_lose_nothing_but_a_last_single_token(size):
    template = Template(tiny_tokenizer())
    text = "the patient takes the tablets with water"
    ids = template.tokens(text)
    rows = encode_rows(template, [Text(id="t", group="t", file="f", line=1, text=text)], size)
    pieces = [ids[n : n + size] for n in range(0, len(ids), size)]
    assert [row.ids for row in rows] == [p for p in pieces if len(p) > 1]
    assert [row.id for row in rows] == [f"t#{n}" for n in range(len(rows))]
    assert all(all(row.supervised) and not row.conversation for row in rows)


def test_a_conversation_beyond_the_limit_says_how_much_is_cut():
    template = Template(tiny_tokenizer())
    row = chat("question", "a rather long answer that will be cut")
    whole = template.conversation(row.messages)
    (got,) = encode_rows(template, [row], len(whole.ids) - 5)
    assert got.cut == 5 and got.ids == whole.ids[:-5] and got.conversation
    assert got.targets == sum(whole.supervised[:-5])
    (fits,) = encode_rows(template, [row], len(whole.ids))
    assert fits.cut == 0 and fits.ids == whole.ids
