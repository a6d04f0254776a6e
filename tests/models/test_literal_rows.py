"""Rows that are plain text: what is read, what is learnt, and how they are shown as examples."""

from dataclasses import replace

import pytest
from tokenizers.processors import TemplateProcessing

from domainwright.core.records import Chat, Choice, Message
from domainwright.curate.dataset import row_as_json, row_from_json
from domainwright.models.forms import choice_prompt, encode_rows, in_one_text, offered, written
from domainwright.models.template import Template
from domainwright.prompting._sources import PromptSettings, ask
from tests.tiny import BEGIN, END, chat, tiny_tokenizer

PLACE = {"id": "a", "group": "a", "file": "f", "line": 1}
PROMPT = "Question: what is warfarin?\nAnswer:"


def row(prompt=PROMPT, answer=" the blood", head=None):
    turns = [Message("system", head)] if head else []
    turns += [Message("text", prompt), Message("assistant", answer)]
    return Chat(**PLACE, messages=tuple(turns))


def choice(**changes):
    values = {"question": PROMPT, "choices": ("red", "blue"), "answer": 1, "delimiter": "\n"}
    return Choice(**PLACE, **values | changes)


def tokenizers():
    adding = tiny_tokenizer(bos=True)
    adding._tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, adding.bos_token_id)]
    )
    return {"plain": tiny_tokenizer(), "begin": tiny_tokenizer(bos=True), "adding": adding}


@pytest.mark.parametrize("kind", ["plain", "begin", "adding"])
@pytest.mark.parametrize("prompt", [PROMPT, "Text", BEGIN + PROMPT, "次の質問\n\n"])
def test_a_prompt_is_read_as_the_tokenizer_reads_text(kind, prompt):
    tokenizer = tokenizers()[kind]
    template = Template(tokenizer)
    asked = row(prompt)
    ids = template.prompt(asked.messages[:-1])
    whole = template.conversation(asked.messages)
    # The tokenizer itself, told to add nothing, and the begin token by hand.
    begins = [tokenizer.bos_token_id] if kind == "adding" and not prompt.startswith(BEGIN) else []
    assert ids == begins + tokenizer(prompt, add_special_tokens=False).input_ids
    text = f"{prompt} the blood{END}"
    assert whole.ids == begins + tokenizer(text, add_special_tokens=False).input_ids
    learnt = [i for i, on in zip(whole.ids, whole.supervised, strict=True) if on]
    assert whole.ids[: len(ids)] == ids and learnt == whole.ids[len(ids) :]
    assert tokenizer.decode(learnt) == f" the blood{END}"
    (encoded,) = encode_rows(template, [asked], 99)
    assert (encoded.ids, encoded.supervised) == (whole.ids, whole.supervised)


def test_a_choice_is_learnt_behind_its_own_delimiter():
    tokenizer = tiny_tokenizer()
    (encoded,) = encode_rows(Template(tokenizer), [choice()], 99)
    said = [i for i, on in zip(encoded.ids, encoded.supervised, strict=True) if on]
    assert tokenizer.decode(encoded.ids) == f"{PROMPT}\nblue" and tokenizer.decode(said) == "\nblue"
    assert offered(choice()) == ["\nred", "\nblue"] and choice_prompt(choice()) == PROMPT
    assert offered(choice(delimiter=None)) == [" red", " blue"]


def test_examples_stand_as_they_were_written():
    assert written(choice()) == f"{PROMPT}\nblue\n\n"
    assert written(row()) == f"{PROMPT} the blood\n\n"
    assert row().answer == "the blood" and row().question == PROMPT
    assert in_one_text(row()) and in_one_text(choice()) and not in_one_text(chat("a", "b"))


def test_a_description_comes_first_and_an_instruction_before_it():
    shown = "shown\n\n"
    bare, told = PromptSettings(), PromptSettings(instruction="Be brief.")
    for own in (row(head="About plants.\n\n"), choice(ask="About plants.\n\n")):
        assert ask(own, bare).text == f"About plants.\n\n{PROMPT}"
        assert ask(own, told, lead=shown).text == f"Be brief.\nAbout plants.\n\nshown\n\n{PROMPT}"
    prompt = ask(row(head="About plants.\n\n"), bare)
    assert prompt.messages == (Message("text", prompt.text),)


@pytest.mark.parametrize("own", [row(head="x"), choice(), choice(ask="x"), choice(delimiter="")])
def test_they_are_written_to_a_dataset_and_read_back(own):
    assert row_from_json(row_as_json(own)) == own


def test_rows_in_the_houses_form_are_written_as_ever():
    """Their datasets keep their hashes."""
    plain = row_as_json(replace(choice(), delimiter=None))
    assert "delimiter" not in plain and "ask" not in plain
