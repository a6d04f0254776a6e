"""Conversations turn by turn against transformers' generate, one at a time."""

import pytest
import torch

from domainwright.core.records import Chat, Message
from domainwright.evaluate.metrics import token_f1
from domainwright.evaluate.turns import in_turn, places, repeats, replied, up_to
from domainwright.prompting._sources import PromptSettings, ask
from tests.tiny import tiny_base

SHAPES = ("ua", "uaua", "suaua", "auauaua", "uauaua")


def row(number, shape):
    """A conversation of system, user and assistant turns."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    turns = tuple(
        Message(roles[x], f"{roles[x]} says {'the ' * (n % 3)}{number} and {n}")
        for n, x in enumerate(shape)
    )
    return Chat(id=f"r{number}", group=f"g{number}", file="f", line=1, messages=turns)


ROWS = [row(n, shape) for n, shape in enumerate(SHAPES)]


def alone(base, messages, new_tokens):
    """What transformers' own greedy generate says next."""
    prompt = base.template.prompt(messages)
    ids = torch.tensor([prompt])
    kept = base.model.config._attn_implementation
    base.model.set_attn_implementation("eager")
    out = base.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=sorted(base.template.stops),
        pad_token_id=1,
    )
    base.model.set_attn_implementation(kept)
    return base.tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_replies_are_those_of_a_plain_loop(family):
    base, calls = tiny_base(family), []

    def asking(number, own, file):
        calls.append((number, len(own), len(file)))
        rows = [*own, *file]
        prompts = [ask(r, PromptSettings()) for r in rows]
        items = replied(base, rows, prompts, decide_by="token_f1", new_tokens=5)
        return items[: len(own)], items[len(own) :]

    turns = in_turn(ROWS, asking)
    # One call a turn for all conversations; those that end there are test items.
    assert calls == [(1, 5, 0), (2, 4, 2), (3, 2, 0)]
    for conversation in ROWS:
        messages = list(conversation.messages)
        for number, place in enumerate(places(conversation)):
            want = alone(base, messages[:place], 5)
            (item,) = [x for x in turns[number].own if x.id == conversation.id]
            assert item.reply == want
            assert item.reference == conversation.messages[place].content
            assert item.question == conversation.messages[place - 1].content
            assert item.mark.correct == token_f1(want, item.reference)
            after_file = [x for x in turns[number].file if x.id == conversation.id]
            if number + 1 < len(places(conversation)):
                reply = alone(base, conversation.messages[:place], 5)
                assert [x.reply for x in after_file] == [reply]
            else:
                assert not after_file
            messages[place] = Message("assistant", want)


def test_turns_are_replies_to_a_user():
    assert [len(places(r)) for r in ROWS] == [1, 2, 2, 3, 3]
    assert places(ROWS[3]) == (2, 4, 6), "an opening word of the assistant's is no turn"
    assert places(row(9, "uauaa")) == (), "the last turn is no test item"
    assert up_to(ROWS[4], 2).messages == ROWS[4].messages[:4]
    said = up_to(ROWS[4], 3, ["mine", "too"])
    assert [m.content for m in said.messages[1:5:2]] == ["mine", "too"]
    assert said.messages[5] == ROWS[4].messages[5] and said.messages[0] == ROWS[4].messages[0]


def test_repeated_replies_are_counted_once_each():
    assert repeats([["a b", "a  b", "a b"], ["a b"], ["c", "d", "C"]]) == 2
    assert repeats([["", "", "x"], []]) == 0, "silence is no repetition"
