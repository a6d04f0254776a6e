"""Every check before a run: a fixture that fails it, the message, and one that passes."""

import math
import re

import pytest
from jinja2 import Environment

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.records import Choice, Text
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.models.template import Template
from domainwright.train.preflight import check_detectable, check_rows, check_template
from domainwright.train.settings import TrainSettings
from tests.tiny import BEGIN, CHATML, chat, tiny_base, tiny_tokenizer

ROWS = [chat(f"question {n}", f"answer number {n}", name=f"r{n}") for n in range(6)]


@pytest.fixture
def base():
    return tiny_base()


def check(base, rows, max_cut_share=0.1, max_tokens=100):
    return check_rows(base, rows, max_cut_share=max_cut_share, max_tokens=max_tokens)


def encoded(base, rows=ROWS, max_tokens=100):
    return encode_rows(base.template, rows, max_tokens)


def changed(row, **fields):
    values = {name: getattr(row, name) for name in TrainRow.__dataclass_fields__}
    return TrainRow(**{**values, **fields})


def test_good_rows_pass_unchanged(base):
    rows = encoded(base, [*ROWS, Text(id="t", group="t", file="f", line=1, text="plain text")])
    assert check(base, rows) == (rows, [])


def test_no_row_is_refused(base):
    with pytest.raises(DataError, match="no training row"):
        check(base, [])


def test_a_row_without_a_supervised_token_is_refused(base):
    rows = encoded(base)
    rows[3] = changed(rows[3], supervised=[False] * len(rows[3].ids))
    with pytest.raises(DataError, match="'r3' has no supervised token"):
        check(base, rows)
    # A first token is predicted by nothing, so supervising it alone teaches nothing either.
    rows[3] = changed(rows[3], supervised=[True] + [False] * (len(rows[3].ids) - 1))
    with pytest.raises(DataError, match="'r3' has no supervised token"):
        check(base, rows)


def test_an_end_of_turn_masked_as_padding_is_refused(base):
    """transformers #23530: labels masked by `ids == pad`, where pad is the end token."""
    rows = encoded(base)
    pad = base.tokenizer.pad_token_id
    rows[2] = changed(
        rows[2],
        supervised=[on and i != pad for i, on in zip(rows[2].ids, rows[2].supervised, strict=True)],
    )
    with pytest.raises(DataError, match=r"'r2'.*is also the pad token and is masked as padding"):
        check(base, rows)


def test_an_unsupervised_end_of_turn_is_refused():
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.pad_token = BEGIN
    base = tiny_base(tokenizer=tokenizer)
    rows = encoded(base)
    rows[1] = changed(rows[1], supervised=[*rows[1].supervised[:-1], False])
    message = re.escape("'r1': the end-of-turn token '<|im_end|>' is not")
    with pytest.raises(DataError, match=message) as caught:
        check(base, rows)
    assert "supervise the token that closes" in caught.value.fix


@pytest.mark.parametrize(
    "chat_template",
    [
        CHATML.replace("<|im_end|>", "."),
        # User turns are closed, the assistant's is not.
        CHATML.replace("'<|im_end|>", "(m.role == 'user') * '<|im_end|>' + '."),
    ],
)
def test_a_template_that_does_not_close_the_turn_is_refused(chat_template):
    base = tiny_base(tokenizer=tiny_tokenizer(chat_template))
    with pytest.raises(DataError, match=r"'r0' ends with '.+', not with an end-of-turn token"):
        check(base, encoded(base))


def test_a_doubled_beginning_of_sequence_is_refused():
    base = tiny_base(tokenizer=tiny_tokenizer("<s>" + CHATML, bos=True))
    rows = encoded(base)
    assert rows[0].ids[0] == base.tokenizer.bos_token_id
    assert check(base, rows) == (rows, [])
    rows[4] = changed(
        rows[4], ids=[rows[4].ids[0], *rows[4].ids], supervised=[False, *rows[4].supervised]
    )
    with pytest.raises(DataError, match="'r4' begins with two beginning-of-sequence tokens"):
        check(base, rows)


def test_too_many_cut_answers_are_refused_with_counts(base):
    rows = encoded(base, [*ROWS, chat("long", "word " * 60, name="long")], 60)
    longest = len(rows[-1].ids) + rows[-1].cut
    with pytest.raises(
        DataError, match=r"of 60 tokens cuts the answer of 1 of 7 rows \(14%\)"
    ) as e:
        check(base, rows, 0.1, 60)
    assert f"the longest row has {longest} tokens" in e.value.cause
    assert f"max_tokens: {longest}" in e.value.fix


def test_a_few_cut_answers_are_set_aside_with_a_reason(base):
    rows = encoded(base, [*ROWS, chat("long", "word " * 60, name="long")], 60)
    kept, aside = check(base, rows, 0.2, 60)
    assert kept == rows[:-1]
    (one,) = aside
    assert (one.id, one.reason, one.file, one.line) == ("long", "answer_cut", "f.jsonl", 1)
    total = len(rows[-1].ids) + rows[-1].cut
    assert one.detail == f"{rows[-1].cut} of {total} tokens lie beyond the limit of 60"
    # The share is a limit, not a bound to stay below.
    assert check(base, rows, 1 / 7, 60)[0] == kept


def test_no_row_left_after_setting_aside_is_refused(base):
    rows = encoded(base, [chat("long", "word " * 60, name=str(n)) for n in range(3)], 60)
    with pytest.raises(DataError, match="cuts the answer of 3 of 3 rows"):
        check(base, rows, 1.0, 60)


def test_equal_prompts_are_refused(base):
    rows = encoded(base, [chat("the same", f"answer {n}", name=str(n)) for n in range(4)])
    with pytest.raises(DataError, match="All 4 rows have the same prompt"):
        check(base, rows)
    assert check(base, rows[:3])[0] == rows[:3]  # three rows may be equal by chance
    mixed = [*rows, *encoded(base, ROWS[:1])]
    assert check(base, mixed)[0] == mixed
    # Plain texts have no prompt.
    texts = [Text(id=str(n), group="g", file="f", line=1, text="the patient") for n in range(5)]
    assert len(check(base, encoded(base, texts))[0]) == 5


def test_choices_are_trained_without_an_end_of_turn(base):
    choices = [
        Choice(
            id=str(n), group="g", file="f", line=n, question=f"Q{n}", choices=("a", "b"), answer=0
        )
        for n in range(5)
    ]
    assert len(check(base, encoded(base, choices))[0]) == 5


def test_a_template_at_training_unlike_the_one_at_inference_is_refused(base):
    """unsloth #877: trained on one template, asked with another."""
    rows = encoded(base)
    check_template(base, ROWS, rows)
    plain = Template(tiny_tokenizer(None))
    other = [rows[0], encode_rows(plain, ROWS[1:2], 100)[0]]
    with pytest.raises(DataError, match=r"'r1' is trained on another template.*token 0 is in"):
        check_template(base, ROWS, other)
    # Cut inside the prompt, what is left still has to agree.
    short = encode_rows(base.template, ROWS, 5)
    check_template(base, ROWS, short)
    one = changed(short[0], ids=[*short[0].ids[:-1], 9])
    with pytest.raises(DataError, match="token 4 is in"):
        check_template(base, ROWS, [one])


def test_rows_that_are_no_conversation_have_no_template(base):
    text = Text(id="t", group="t", file="f", line=1, text="plain")
    check_template(base, [text], [TrainRow("t", [5, 6], [True, True])])


def test_a_test_set_too_small_for_the_question_is_refused():
    check_detectable(100, 0.12, None)
    check_detectable(100, 0.05, 0.05)
    with pytest.raises(
        DataError, match=r"100 items can show a difference of 12.0%, not the 5.0%"
    ) as e:
        check_detectable(100, 0.12, 0.05)
    assert "about 576 test items" in e.value.fix  # 100 (0.12 / 0.05)²


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"max_tokens": -1},
        {"micro_tokens": 0},
        {"checks": 0},
        {"checkpoint_every": 0},
        {"patience": 0},
        {"warmup_share": 1.1},
        {"decay_share": -0.1},
        {"warmup_share": math.nan},
        {"max_cut_share": 2},
        {"epochs": 0.0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"learning_rate": 0.0},
        {"learning_rate": 10.0},
        {"learning_rate": math.nan},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"train\.{name} is"):
        TrainSettings(**wrong)


def test_the_defaults_are_in_range():
    assert TrainSettings(steps=1, patience=1, micro_tokens=1).batch == 8


def test_the_template_language_is_the_one_of_transformers():
    """Guards the one import of jinja2 in the engine: its error class is what rendering raises."""
    from jinja2.exceptions import TemplateError, UndefinedError

    assert issubclass(UndefinedError, TemplateError) and Environment
