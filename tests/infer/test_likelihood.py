"""Likelihoods against brute force and against lm-evaluation-harness with the same model object."""

import math
import random

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from domainwright.core.errors import DataError
from domainwright.core.records import Text
from domainwright.evaluate.tasks import TASKS
from domainwright.evaluate.tasks.texts import windows
from domainwright.infer import likelihood
from domainwright.infer.likelihood import Request, score
from domainwright.models.forms import continuation
from tests.tiny import CONFIGS, CORPUS, documents, own_logits, tiny_base, tiny_tokenizer

SHORT = 40
"""Context of the bases on which inputs must be cut."""


def brute(base, context, answer):
    """(Σ log p, all greedy), from the whole table of log-probabilities."""
    table = own_logits(base.model, (context + answer)[:-1]).double().log_softmax(-1)
    rows = range(len(context) - 1, len(context) + len(answer) - 1)
    pairs = list(zip(rows, answer, strict=True))
    return sum(float(table[r, t]) for r, t in pairs), all(
        int(table[r].argmax()) == t for r, t in pairs
    )


def random_requests(seed, count):
    rng = random.Random(seed)
    docs = documents(tuple(rng.randrange(2, 25) for _ in range(2 * count)), seed)
    return [Request(a, b) for a, b in zip(docs[::2], docs[1::2], strict=True)]


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_equal_brute_force(family):
    base = tiny_base(family)
    requests = random_requests(1, 8)
    greedy = requests[0].context
    for _ in range(3):  # one continuation that is greedy all along
        greedy = [*greedy, int(own_logits(base.model, greedy)[-1].argmax())]
    requests.append(Request(requests[0].context, greedy[len(requests[0].context) :]))
    requests.append(Request(requests[0].context, [*requests[-1].continuation[:-1], 9]))
    got = score(base, requests)
    for request, result in zip(requests, got, strict=True):
        want, is_greedy = brute(base, request.context, request.continuation)
        assert result.log_probability == pytest.approx(want, abs=1e-4)
        assert result.greedy == is_greedy and result.tokens == len(request.continuation)
    assert got[-2].greedy and not got[-1].greedy


def test_batches_and_blocks_of_any_size_give_the_same(monkeypatch):
    base = tiny_base()
    requests = random_requests(2, 12)
    whole = score(base, requests)
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 40)
    monkeypatch.setattr(likelihood, "HEAD_ROWS", 3)
    steps, sizes = [], []
    batch = likelihood._score_batch
    monkeypatch.setattr(
        likelihood, "_score_batch", lambda b, keys: (sizes.append(keys), batch(b, keys))[1]
    )
    parts = score(base, requests, listen=steps.append)
    for a, b in zip(whole, parts, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
        assert (a.greedy, a.tokens) == (b.greedy, b.tokens)
    assert all(len(s) == 1 or sum(len(k[0]) - 1 for k in s) <= 40 for s in sizes)
    assert len(sizes) > 5
    assert (steps[-1].done, steps[-1].total) == (12, 12)


def test_whoever_wants_is_told_of_every_likelihood():
    base, heard = tiny_base(), {}
    requests = [Request([1, 2, 3], [n]) for n in (4, 5, 4, 6)]
    found = score(base, requests, told=lambda number, x: heard.setdefault(number, x))
    assert heard == dict(enumerate(found))


def test_equal_requests_are_computed_once(monkeypatch):
    base = tiny_base()
    requests = random_requests(3, 3)
    seen = []
    batch = likelihood._score_batch
    monkeypatch.setattr(
        likelihood, "_score_batch", lambda b, keys: (seen.extend(keys), batch(b, keys))[1]
    )
    # The same tokens with another split are another request.
    moved = Request(
        requests[0].context + requests[0].continuation[:1], requests[0].continuation[1:]
    )
    got = score(base, [*requests, requests[1], moved, requests[0]])
    assert len(seen) == 4 and got[3] == got[1] and got[5] == got[0] != got[4]
    assert score(base, []) == []


def sharing_requests(seed, context=256):
    """Requests that share beginnings in every way; some are cut on the left."""
    rng = random.Random(seed)
    block, other, *parts = documents((30, 17, *(rng.randrange(1, 9) for _ in range(24))), seed)
    found = []
    for number in range(0, len(parts), 4):
        question = [*(block if number % 8 else other), *parts[number]]
        found.append(Request(question, parts[number + 1]))
        found.append(Request(question, [*parts[number + 1], *parts[number + 2]]))  # continues it
        found.append(Request([*question, *parts[number + 1]], parts[number + 2]))  # another split
        found.extend(Request(question, [token]) for token in (5, 9, 200))  # one row, three labels
        found.append(Request(question, [*parts[number + 1][:1], *parts[number + 3]]))
    found.append(Request(block[:3], block[3:]))  # a prefix of the others
    found.append(Request(block[:1], block[1:2]))
    found.append(Request(documents((context,), seed + 1)[0], parts[0]))  # cut
    found.append(Request([7, *documents((context,), seed + 1)[0]], parts[0]))  # cut to the same
    rng.shuffle(found)
    return found


@pytest.mark.parametrize("limits", [(8192, 256), (60, 7)])
@pytest.mark.parametrize("family", CONFIGS)
def test_sharing_requests_score_as_alone(family, limits, monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", limits[0])
    monkeypatch.setattr(likelihood, "HEAD_ROWS", limits[1])
    base = tiny_base(family, max_position_embeddings=64)
    requests = sharing_requests(3, base.context)
    for request, result in zip(requests, score(base, requests), strict=True):
        whole = [*request.context, *request.continuation][-(base.context + 1) :]
        count = len(request.continuation)
        want, is_greedy = brute(base, whole[:-count], whole[-count:])
        assert result.log_probability == pytest.approx(want, abs=2e-4)
        assert (result.greedy, result.tokens) == (is_greedy, count)


def reads(base, monkeypatch):
    """(tokens read, rows through the head) per batch, noted as they happen."""
    noted = []
    hidden, project = base.hidden, base.project
    monkeypatch.setattr(
        base, "hidden", lambda flat, *a: (noted.append([flat.tokens, 0]), hidden(flat, *a))[1]
    )

    def projected(x):
        noted[-1][1] += len(x)
        return project(x)

    monkeypatch.setattr(base, "project", projected)
    return noted


def test_what_requests_share_is_read_once(monkeypatch):
    base = tiny_base()
    noted = reads(base, monkeypatch)
    requests = sharing_requests(4)
    score(base, requests)
    cut = [tuple(r.context + r.continuation)[-(base.context + 1) :] for r in requests]
    inputs = {whole[:n] for whole in cut for n in range(1, len(whole))}
    rows = {
        whole[: len(whole) - k]
        for whole, r in zip(cut, requests, strict=True)
        for k in range(1, len(r.continuation) + 1)
    }
    assert noted == [[len(inputs), len(rows)]]
    assert len(inputs) < sum(map(len, cut)) / 3
    assert len(rows) < sum(len(r.continuation) for r in requests)


def test_a_block_that_all_share_is_read_once_per_batch(monkeypatch):
    base = tiny_base()
    noted = reads(base, monkeypatch)
    block, *questions = documents((50, *[10] * 40), seed=5)
    requests = [Request([*block, *q], [t]) for q in questions for t in (4, 5, 6)]
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 160)
    score(base, requests)
    own = sum(tokens for tokens, _ in noted) - 50 * len(noted)
    assert 380 <= own <= 400 and len(noted) == 4 and sum(rows for _, rows in noted) == 40
    assert max(tokens for tokens, _ in noted) <= 160


def test_logits_of_a_capped_head_are_bounded(monkeypatch):
    """Gemma 2's head is not one matrix product, so all logits of a batch exist at once."""
    base = tiny_base("gemma2")
    assert not base.plain_head
    rows = []
    logits = base.logits
    monkeypatch.setattr(base, "logits", lambda f, n: (rows.append(len(n)), logits(f, n))[1])
    monkeypatch.setattr(likelihood, "HEAD_ROWS", 20)
    requests = random_requests(8, 12)
    score(base, requests)
    assert max(rows) <= max(20, max(len(r.continuation) for r in requests)) and len(rows) > 3


def test_a_continuation_beyond_the_context_is_refused():
    """The harness refuses it too; scored silently it would read other documents' tokens."""
    base = tiny_base(max_position_embeddings=SHORT)
    (a,) = documents((SHORT,))
    first = score(base, [Request([5], a)])[0]
    assert first.log_probability == pytest.approx(brute(base, [5], a)[0], abs=1e-4)
    with pytest.raises(DataError, match=f"of {SHORT + 1} tokens.*context of {SHORT}"):
        score(base, [Request([7, 8], [*a, 5])])
    with pytest.raises(DataError, match="empty"):
        score(base, [Request([7, 8], [])])


def harness(base, tokenizer=None):
    return HFLM(
        pretrained=base.model, tokenizer=tokenizer or base.tokenizer, batch_size=1, device="cpu"
    )


def instances(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=n)
        for n, args in enumerate(arguments)
    ]


def random_pairs(seed, count):
    """Contexts and continuations: with and without spaces at the seam, empty, over-long."""
    rng = random.Random(seed)
    words = " ".join(CORPUS).split()

    def some(low, high):
        return " ".join(rng.choice(words) for _ in range(rng.randrange(low, high)))

    pairs = []
    for number in range(count):
        context, answer = some(1, 9), " " + some(1, 4)
        match number % 8:
            case 1:
                context, answer = context + " ", answer.lstrip()
            case 2:
                context, answer = context + "  \n ", answer
            case 3:
                answer = answer.lstrip()  # no space: tokens may merge across the seam
            case 4:
                context = ""
            case 5:
                context = some(30, 60)  # longer than the context of the base
            case 6:
                context, answer = context + "\n", "Ł ü 診" + answer
            case 7:  # a seam inside a word, which is one token when written whole
                word = rng.choice([w for w in words if len(w) > 5])
                context, answer = f"{context} {word[:3]}", word[3:] + answer
        pairs.append((context, answer))
    return pairs


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_requests_score_as_in_the_harness(family, bos):
    tokenizer = tiny_tokenizer(bos=bos)
    base = tiny_base(family, tokenizer=tokenizer, max_position_embeddings=SHORT)
    assert base.context == SHORT
    pairs = random_pairs(4, 40)
    want = harness(base).loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    got = score(base, [Request(*continuation(base.template, *pair)) for pair in pairs])
    assert any(len(continuation(base.template, *p)[0]) > SHORT for p in pairs)
    for pair, ours, (value, greedy) in zip(pairs, got, want, strict=True):
        assert ours.log_probability == pytest.approx(value, abs=1e-4), pair
        assert ours.greedy == greedy


def adds_bos(tokenizer):
    """The tokenizer, beginning every text with <s> by itself, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def test_a_tokenizer_that_begins_texts_itself_scores_as_in_the_harness():
    base = tiny_base(tokenizer=adds_bos(tiny_tokenizer(bos=True)))
    assert base.tokenizer("a").input_ids[0] == base.tokenizer.bos_token_id
    pairs = list(random_pairs(5, 16))
    want = harness(base).loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    got = score(base, [Request(*continuation(base.template, *pair)) for pair in pairs])
    for ours, (value, _) in zip(got, want, strict=True):
        assert ours.log_probability == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("bos", [False, True])
def test_bits_per_byte_are_those_of_the_harness(bos):
    base = tiny_base(tokenizer=tiny_tokenizer(bos=bos), max_position_embeddings=SHORT)
    rng = random.Random(6)
    words = [*" ".join(CORPUS).split(), "Łódź", "診断"]
    texts = [" ".join(rng.choice(words) for _ in range(n)) for n in (1, 5, 20, 60, 140)]
    exact = base.tokenizer.decode(documents((2 * SHORT,))[0])
    texts = [*texts, exact, " "]
    rows = [Text(id=str(n), group="g", file="f", line=1, text=t) for n, t in enumerate(texts)]
    want = harness(base).loglikelihood_rolling(
        instances("loglikelihood_rolling", [(t,) for t in texts]), disable_tqdm=True
    )
    got = TASKS.get("texts").run(base, rows)
    for text, item, nats in zip(texts, got, want, strict=True):
        bits = -nats / len(text.encode()) / math.log(2)
        assert -item.mark.correct == pytest.approx(bits, abs=1e-4)
        assert item.loss == pytest.approx(-nats, abs=1e-3)
        assert item.loss_tokens == len(base.tokenizer(text).input_ids)


def test_an_empty_text_has_no_windows():
    base = tiny_base()
    row = Text(id="1", group="g", file="f", line=1, text="")
    assert windows(base, "") == []
    (item,) = TASKS.get("texts").run(base, [row])
    assert item.mark.correct == 0 and item.loss_tokens == 0


def test_windows_predict_every_token_once():
    base = tiny_base(max_position_embeddings=SHORT)
    text = " ".join(CORPUS * 2)
    ids = base.tokenizer(text).input_ids
    parts = windows(base, text)
    assert [t for part in parts for t in part.continuation] == ids and len(parts) > 2
    for part in parts:
        assert len(part.context) >= 1 and len(part.context) + len(part.continuation) <= SHORT + 1


def test_bfloat16_scores_are_near():
    requests = random_requests(7, 6)
    want = score(tiny_base(), requests)
    got = score(tiny_base(dtype=torch.bfloat16), requests)
    for a, b in zip(want, got, strict=True):
        assert b.log_probability == pytest.approx(a.log_probability, rel=0.03)
