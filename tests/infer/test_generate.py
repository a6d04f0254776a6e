"""Batched answers against transformers' generate, one prompt at a time."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from domainwright.core.errors import ConfigError
from domainwright.infer import generate
from domainwright.infer.generate import answer
from domainwright.infer.likelihood import Request, score
from domainwright.methods import METHODS
from domainwright.models import native
from domainwright.models.base import Base
from domainwright.models.template import Template
from tests.tiny import CONFIGS, PACKED, chat, documents, own_logits, tiny_base

LENGTHS = (5, 1, 19, 9, 12, 2)


def library(base, prompt, new_tokens):
    """transformers' own greedy generate, and whether it met a stop."""
    kept = base.model.config._attn_implementation
    base.model.set_attn_implementation("eager")
    ids = torch.tensor([prompt])
    stops = [1, base.tokenizer.eos_token_id]
    out = base.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=1,
    )[0, len(prompt) :].tolist()
    base.model.set_attn_implementation(kept)
    return (out[:-1], True) if out[-1] in stops else (out, False)


def stopping_base(family, prompts, new_tokens):
    """A base whose end-of-sequence token appears in about half of its answers to `prompts`."""
    base = tiny_base(family)
    answers = [library(base, p, new_tokens)[0][1:] for p in prompts]
    in_answers = Counter(t for ids in answers for t in set(ids))
    token = min(sorted(in_answers), key=lambda t: abs(in_answers[t] - len(prompts) / 2))
    base.tokenizer.eos_token = base.tokenizer.convert_ids_to_tokens(token)
    return base


@pytest.mark.parametrize("family", CONFIGS)
def test_answers_equal_transformers_one_by_one(family):
    prompts = documents(LENGTHS, seed=3) + documents((7, 4, 11, 3, 8, 6), seed=4)
    base = stopping_base(family, prompts, 12)
    got = answer(base, prompts, new_tokens=12)
    want = [library(base, p, 12) for p in prompts]
    assert [(a.ids, a.ended) for a in got] == want
    assert {ended for _, ended in want} == {True, False}
    assert [a.prompt_tokens for a in got] == [len(p) for p in prompts]
    assert all(
        a.text == base.tokenizer.decode(a.ids, skip_special_tokens=True).strip() for a in got
    )


def shapes(base, monkeypatch):
    """(rows, tokens) of every forward pass, noted as they happen."""
    noted = []
    forward = base.model.base_model.forward
    monkeypatch.setattr(
        base.model.base_model,
        "forward",
        lambda *a, **k: (noted.append(tuple((*a, k.get("input_ids"))[0].shape)), forward(*a, **k))[
            1
        ],
    )
    return noted


def sharing_prompts(count, seed):
    """Prompts of different lengths after the same block, one of them continuing another."""
    block, *questions = documents((21, *(1 + n * 7 % 13 for n in range(count))), seed)
    found = [[*block, *q] for q in questions]
    return [*found, [*found[0], 5, 6], found[1], block, *documents((3, 30), seed + 1)]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("limits", [(2, 10_000, 50), (5, 150, 4096), (64, 16_384, 1)])
def test_answers_of_any_memory_are_the_same(family, limits, monkeypatch):
    """Few rows, few columns, few prompts read at a time: rows are refilled and moved."""
    prompts = sharing_prompts(12, seed=5)
    base = stopping_base(family, prompts, 9)
    names = ("BATCH_ROWS", "BATCH_TOKENS", "READ_TOKENS")
    for name, value in zip(names, limits, strict=True):
        monkeypatch.setattr(generate, name, value)
    steps = []
    noted = shapes(base, monkeypatch)
    references = documents(tuple(1 + n % 4 for n in range(len(prompts))), seed=6)
    got = answer(base, prompts, new_tokens=9, references=references, listen=steps.append, stage="s")
    packed = noted[:]
    assert [(a.ids, a.ended) for a in got] == [library(base, p, 9) for p in prompts]
    for prompt, wanted, result in zip(prompts, references, got, strict=True):
        (alone,) = score(base, [Request(prompt, wanted)])
        assert result.reference.log_probability == pytest.approx(alone.log_probability, abs=1e-4)
        assert result.reference.greedy == alone.greedy
    last = steps[-1]
    assert (last.stage, last.done, last.total) == ("s", len(prompts), len(prompts))
    if base.feeding == "packed" and base.plain_head:
        assert max(rows for rows, tokens in packed if tokens == 1) <= limits[0]
        longest = max(map(len, prompts)) + max(map(len, references))
        assert max(tokens for _, tokens in packed) <= max(limits[2], longest)


def test_what_prompts_share_is_read_once(monkeypatch):
    base, prompts = tiny_base(), sharing_prompts(12, seed=7)
    noted = shapes(base, monkeypatch)
    answer(base, prompts, new_tokens=1)
    prefixes = {tuple(p[:n]) for p in prompts for n in range(1, len(p) + 1)}
    assert noted == [(1, len(prefixes))] and len(prefixes) < sum(map(len, prompts)) / 2


def test_a_finished_row_is_filled_again_and_a_draining_batch_shrinks(monkeypatch):
    """Answers of many lengths: no step is spent on a row while another prompt waits for it."""
    base, prompts = tiny_base(), documents(tuple(range(3, 27)), seed=6)
    monkeypatch.setattr(Template, "stops", property(lambda self: set(range(90))))
    alone = [answer(base, [p], new_tokens=14)[0].ids for p in prompts]
    assert len({len(ids) for ids in alone}) > 3
    monkeypatch.setattr(generate, "BATCH_ROWS", 6)
    noted = shapes(base, monkeypatch)
    got = answer(base, prompts, new_tokens=14)
    assert [a.ids for a in got] == alone
    assert noted[0] == (1, sum(map(len, prompts)))
    # The longest prompts go first; each row that is free takes the next.
    waiting, rows, want, width = list(range(24)), [], [], 6
    while True:
        rows = [n for n in rows if n > 1]
        while waiting and len(rows) < 6:
            ids = alone[waiting.pop()]
            # The first token comes with the prompt; the last step meets the stop or the limit.
            if steps := min(13, len(ids)):
                rows.append(steps + 1)
        rows = [n - 1 for n in rows]
        if not rows:
            break
        if 2 * len(rows) <= width:
            width = len(rows)
        want.append((width, 1))
    assert noted[1:] == want and len(set(want)) > 2


def test_a_few_long_prompts_do_not_take_the_rows_of_many_short_ones(monkeypatch):
    monkeypatch.setattr(generate, "BATCH_TOKENS", 400)
    base = tiny_base()
    prompts = documents((90, 5, 6, 7, 8, 9, 10, 11), seed=2)
    noted = shapes(base, monkeypatch)
    got = answer(base, prompts, new_tokens=5)
    assert [a.ids for a in got] == [library(base, p, 5)[0] for p in prompts]
    assert max(rows for rows, tokens in noted if tokens == 1) == 7
    assert generate._rows(90, 5) == 4 and generate._rows(1000, 5) == 1


def test_an_answer_stops_at_the_length_limit_and_reads_no_more(monkeypatch):
    base = tiny_base()
    calls = []
    forward = base.model.base_model.forward
    monkeypatch.setattr(
        base.model.base_model, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1]
    )
    (got,) = answer(base, documents((6,)), new_tokens=5)
    assert len(got.ids) == 5 and not got.ended and len(calls) == 5
    (one,) = answer(base, documents((6,)), new_tokens=1)
    assert one.ids == got.ids[:1]


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_stop_texts_end_an_answer_before_them(family):
    base = tiny_base(family)
    prompts = documents((6, 9, 3), seed=8)
    free = answer(base, prompts, new_tokens=20)
    # A text that appears in the middle of the first answer, and not at its very beginning.
    stop = base.tokenizer.decode(free[0].ids[9:11])
    assert stop.strip() and free[0].text.find(stop) > 0
    got = answer(base, prompts, new_tokens=20, stop_texts=["no such text", stop])
    for a, b in zip(free, got, strict=True):
        raw = base.tokenizer.decode(a.ids, skip_special_tokens=True)
        assert b.text == raw.split(stop)[0].strip()
        assert b.ended == (stop in raw) and stop not in b.text
    assert len(got[0].ids) < 20


def test_the_answer_to_a_conversation_continues_its_prompt():
    base = tiny_base()
    row = chat("What is warfarin used for?")
    prompt = base.template.prompt(row.messages)
    (got,) = answer(base, [prompt], new_tokens=9)
    assert (got.ids, got.ended) == library(base, prompt, 9)


def test_no_prompt_gives_no_answer_and_a_long_one_is_refused():
    base = tiny_base()
    assert answer(base, [], new_tokens=4) == []
    assert len(answer(base, documents((250,)), new_tokens=6)[0].ids) <= 6
    with pytest.raises(
        ConfigError, match="250 tokens and an answer of up to 7 exceed the context of 256"
    ):
        answer(base, documents((250,)), new_tokens=7)


def test_several_stop_ids_end_an_answer():
    base = tiny_base()
    prompts = documents((8, 5), seed=9)
    free = answer(base, prompts, new_tokens=10)
    stop = free[0].ids[4]
    base.tokenizer.eos_token = base.tokenizer.convert_ids_to_tokens(stop)
    assert base.template.stops == {stop, 1}
    got = answer(base, prompts, new_tokens=10)
    assert got[0].ids == free[0].ids[: free[0].ids.index(stop)] and got[0].ended


@pytest.mark.parametrize("family", CONFIGS)
def test_references_are_scored_beside_the_answers(family):
    prompts = documents(LENGTHS, seed=3)
    base = stopping_base(family, prompts, 9)
    references = documents((4, 1, 7, 2, 11, 3), seed=12)
    references[2] = own_greedy(base, prompts[2], 3)
    plain = answer(base, prompts, new_tokens=9)
    got = answer(base, prompts, references=references, new_tokens=9)
    assert [(a.ids, a.ended, a.prompt_tokens) for a in got] == [
        (a.ids, a.ended, a.prompt_tokens) for a in plain
    ]
    assert all(a.reference is None for a in plain)
    for prompt, wanted, result in zip(prompts, references, got, strict=True):
        table = own_logits(base.model, prompt + wanted).double().log_softmax(-1)
        picked = [float(table[len(prompt) - 1 + k, t]) for k, t in enumerate(wanted)]
        assert result.reference.log_probability == pytest.approx(sum(picked), abs=1e-4)
        assert result.reference.tokens == len(wanted)
    assert [a.reference.greedy for a in got] == [False, False, True, False, False, False]


def own_greedy(base, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(own_logits(base.model, ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_whoever_wants_is_told_of_every_answer_once_it_is_whole(family):
    base = tiny_base(family)
    prompts = documents((3, 9, 5))
    heard, steps = {}, []

    def told(number, reply):
        assert number not in heard and len(steps) < 30
        heard[number] = reply

    found = answer(
        base,
        prompts,
        new_tokens=5,
        references=[[1, 2]] * 3,
        listen=lambda step: steps.append((step.done, len(heard))),
        told=told,
    )
    assert {n: replace(x, seconds=0.0) for n, x in enumerate(found)} == heard
    # Never later than the step that counts it.
    assert steps and all(done == told_of for done, told_of in steps)


def test_a_reference_that_does_not_fit_is_refused():
    base = tiny_base()
    with pytest.raises(ConfigError, match="250 tokens and an answer of up to 9 exceed"):
        answer(base, documents((250,)), references=documents((9,)), new_tokens=2)


def test_the_time_of_a_batch_is_shared_and_without_the_references(monkeypatch):
    base = tiny_base()
    prompts, references = documents((4, 5, 6, 7)), documents((4, 4, 4, 4), seed=1)

    def seconds(**more):
        ticks = iter(range(0, 1000, 10))
        clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
        monkeypatch.setattr(generate, "time", clock)
        return [a.seconds for a in answer(base, prompts, new_tokens=2, **more)]

    # One look at the clock while the prompts are read: 20 seconds for four rows.
    assert seconds() == [5.0] * 4
    # 10 of 50 seconds went to the references alone, and 12 of the 34 tokens read beside the
    # prompts in another 10 were theirs.
    assert seconds(references=references) == pytest.approx([(50 - 10 - 10 * 12 / 34) / 4] * 4)


def test_bfloat16_answers_are_written():
    assert set(PACKED) < set(CONFIGS)
    for family in ("llama", "gemma2"):
        base = tiny_base(family, torch.bfloat16)
        got = answer(base, documents((5, 9)), new_tokens=6)
        assert all(a.ids for a in got)


def test_a_long_reference_of_another_row_refuses_nothing():
    """Each row's own prompt and reference must fit, not the longest of each."""
    base = tiny_base("llama")
    prompts, references = [[3] * 240, [4] * 5], [[5] * 4, [6] * 100]
    both = answer(base, prompts, new_tokens=4, references=references)
    alone = answer(base, prompts[1:], new_tokens=4, references=references[1:])
    assert both[1].ids == alone[0].ids
    assert both[1].reference.tokens == 100


@pytest.mark.skipif(native.library() is None, reason=f"no native kernels: {native.reason()}")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_fused_step_answers_as_the_plain_one_does(family, monkeypatch):
    """bfloat16, with an adapter: the same tokens until a near tie, and the same likelihoods."""
    wide = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    base = tiny_base(family, torch.bfloat16, **wide)
    adapter = METHODS.get("lora").build(base, METHODS.get("lora").Settings(rank=4), 0)
    with torch.no_grad():
        for b in adapter.B:
            b.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    adapter.attach()
    prompts = documents((9, 4, 30, 12, 5, 21))
    calls, plain = [], Base.read_one
    monkeypatch.setattr(Base, "read_one", lambda *a: calls.append(1) or plain(*a))
    fast = answer(base, prompts, new_tokens=6)
    assert calls
    monkeypatch.setattr(Base, "read_one", lambda *_: None)
    slow = answer(base, prompts, new_tokens=6)
    alike = [
        next((i for i, (a, b) in enumerate(zip(x.ids, y.ids, strict=False)) if a != b), 6)
        for x, y in zip(fast, slow, strict=True)
    ]
    assert sum(alike) >= 0.8 * 6 * len(prompts)
