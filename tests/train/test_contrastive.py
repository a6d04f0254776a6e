"""Tuning of the sentence encoder: the loss, clean batches, and what it learns and keeps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.seeds import generator
from domainwright.evaluate.retained import shipped_suite
from domainwright.maths.ranking import ndcg
from domainwright.models import embedded
from domainwright.models.encoder import Encoder
from domainwright.train.contrastive import (
    CHUNK,
    ContrastiveSettings,
    Pair,
    Passage,
    backward,
    batches,
    hard_negatives,
    loss,
    passages_of,
    tune,
)
from tests.tiny import tiny_tokenizer

needs_encoder = pytest.mark.skipif(
    embedded.package_folder(embedded.ENCODER_PACKAGE) is None,
    reason="the package of the embedded encoder is not installed (`make setup`)",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random encoder of two small layers."""
    folder = tmp_path_factory.mktemp("encoder")
    config = hf.BertConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = tiny_tokenizer(None)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return Encoder(torch.float32, folder)


def pair(number, negatives=(), group=None):
    passage = Passage(f"passage {number} of the water", f"d{number}")
    return Pair(f"question {number}?", passage, group or f"g{number}", tuple(negatives))


def unit(rows, seed):
    drawn = generator(seed, "unit").standard_normal((rows, 16))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_the_loss_is_that_of_a_plain_loop():
    queries, passages = unit(5, 0), unit(9, 1)
    want = 0.0
    for i in range(5):
        exps = [np.exp(20 * float(queries[i] @ passages[j])) for j in range(9)]
        want -= np.log(exps[i] / sum(exps)) / 5
    got = loss(torch.from_numpy(queries), torch.from_numpy(passages))
    assert got.item() == pytest.approx(want, abs=1e-6)


def test_no_batch_holds_two_right_passages_for_a_row():
    pairs = [pair(n % 23, group=f"g{n % 17}") for n in range(120)]
    for epoch in range(3):
        made = batches(pairs, 8, 0, epoch)
        for batch in made:
            for values in (
                [p.query for p in batch],
                [p.passage.text for p in batch],
                [p.passage.group for p in batch],
                [p.group for p in batch],
            ):
                assert len(set(values)) == len(batch) <= 8
        assert made == batches(pairs, 8, 0, epoch)
        assert sum(map(len, made)) >= 108
    assert batches(pairs, 8, 0, 0) != batches(pairs, 8, 0, 1)
    assert batches([pair(0), pair(0)], 8, 0, 0) == batches([], 8, 0, 0) == []
    assert [len(b) for b in batches([pair(n) for n in range(19)], 8, 0, 0)] == [8, 8]
    assert [len(b) for b in batches([pair(n) for n in range(3)], 8, 0, 0)] == [3]


def test_a_negative_that_is_right_for_another_row_does_not_join():
    wrong, right = Passage("elsewhere", "x"), Passage("more on 1", "d1")
    batch = [pair(0, [right, wrong]), pair(1, [wrong])]
    own = [p.passage.text for p in batch]
    assert passages_of(batch, 1) == [*own, "elsewhere"]
    assert passages_of(batch, 0) == own


def test_hard_negatives_are_deep_elsewhere_and_far_enough():
    similar = np.linspace(0.9, 0.3, 80)
    groups = [f"d{n // 2}" for n in range(80)]
    settings = ContrastiveSettings()
    ranking = list(range(80))
    found = hard_negatives([ranking], similar, 12, groups, settings, generator(0, "x"))
    # Ranks 10 to 50 are numbers 9 to 49; 12 and 13 are of the gold group.
    want = [n for n in range(9, 50) if n not in (12, 13) and similar[n] <= 0.95 * similar[12]]
    assert sorted(found) == want and found != want
    assert 9 not in found  # too near the positive
    assert hard_negatives([ranking[:9]], similar, 12, groups, settings, generator(0, "x")) == []


def test_chunks_give_the_gradients_of_the_whole_batch(tiny):
    pairs = [pair(n, [Passage(f"another water {n} " * (n + 1), f"x{n}")]) for n in range(CHUNK)]
    settings = ContrastiveSettings()
    one, other = copy.deepcopy(tiny.model), copy.deepcopy(tiny.model)
    chunked, whole = copy.copy(tiny), copy.copy(tiny)
    chunked.model, whole.model = one, other
    got = backward(chunked, pairs, settings)
    queries = whole.pooled([p.query for p in pairs])
    value = loss(queries, whole.pooled(passages_of(pairs, 1)))
    value.backward()
    assert got == pytest.approx(value.item(), rel=1e-5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        # Sums of other lengths: float32 in another order.
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_base_encoder_stays_as_it_was(tiny, kind):
    texts = ["warfarin and the blood", "tablets with water"]
    before, state = tiny.encode(texts), copy.deepcopy(tiny.model.state_dict())
    settings = ContrastiveSettings(kind=kind, learning_rate=1e-2, batch=4, rank=4)
    pairs = [pair(n) for n in range(12)]
    tuned = tune(tiny, pairs, settings, dtype=torch.float32)
    again = tune(tiny, pairs, settings, dtype=torch.float32)
    assert tuned.losses == again.losses and len(tuned.losses) == 6
    assert all(torch.equal(x, again.change[n]) for n, x in tuned.change.items())
    assert all(x.dtype == torch.float32 for x in tuned.change.values())
    assert all(n.endswith((".A", ".B")) for n in tuned.change) == (kind == "lora")
    other = tiny.changed(tuned.change, "tuned")
    assert np.abs(other.encode(texts) - before).max() > 1e-3
    del other
    np.testing.assert_array_equal(tiny.encode(texts), before)
    assert all(torch.equal(x, state[n]) for n, x in tiny.model.state_dict().items())
    assert tune(tiny, pairs, settings, 1, dtype=torch.float32).losses != tuned.losses


def test_vectors_of_a_tuned_encoder_are_kept_apart(tiny, tmp_path):
    settings = ContrastiveSettings(learning_rate=1e-2, batch=4)
    tuned = tiny.changed(tune(tiny, [pair(n) for n in range(8)], settings).change, "tuned")
    base, other = (e.encode(["water"], cache=tmp_path) for e in (tiny, tuned))
    assert len(list(tmp_path.iterdir())) == 2 and not np.array_equal(base, other)


def test_what_cannot_be_trained_is_refused(tiny):
    with pytest.raises(DataError, match="Of 2 pairs no two"):
        tune(tiny, [pair(0), pair(0)], ContrastiveSettings())
    with pytest.raises(ConfigError, match="batch is 1"):
        ContrastiveSettings(batch=1)
    with pytest.raises(ConfigError, match="rank is 0"):
        ContrastiveSettings(rank=0)


WORDS = (
    "blorfin quenzal dravoth mipsure tolgrin vashume kredlow zintara "
    "purnock fleshim gorvane hustrel"
).split()
"""Made names, which the encoder cannot know."""
THINGS = (
    "volcano; violin; penguin; bicycle; cathedral; cactus; submarine; cheese; "
    "carpet; telescope; beetle; umbrella"
).split("; ")
TAUGHT = (("What is a {}?", "This is about the {} and what it is."),
          ("Where do I find a {}?", "A {} is found in many places of the world."),
          ("How old is the {}?", "The age of a {} can be very different."))  # fmt: skip
ASKED = ("Who owns a {} today?", "The {} belongs to somebody who lives in the town.")


def scored(encoder, queries, passages):
    """Mean nDCG@10 where every query wants the passage at its place."""
    ranked = np.argsort(-encoder.encode(queries) @ encoder.encode(passages).T, axis=1)
    return float(np.mean([ndcg(list(r), {n}) for n, r in enumerate(ranked)]))


def halves():
    """The sentences of the shipped general texts, each cut in the middle."""
    sentences = [s.split() for t in shipped_suite().texts for s in t.text.split(". ")]
    cut = [(s[: len(s) // 2], s[len(s) // 2 :]) for s in sentences if len(s) >= 12][:40]
    return [" ".join(a) for a, _ in cut], [" ".join(b) for _, b in cut]


@pytest.mark.embedded
@needs_encoder
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_it_learns_the_words_of_a_field_and_keeps_the_rest(kind):
    base = Encoder(torch.float32)
    pairs = [
        Pair(asked.format(word), Passage(told.format(thing), thing), word)
        for word, thing in zip(WORDS, THINGS, strict=True)
        for asked, told in TAUGHT
    ]
    settings = ContrastiveSettings(kind=kind, epochs=3 if kind == "full" else 4, batch=12)
    settings = replace(settings, learning_rate=3 * settings.rate)
    tuned = tune(base, pairs, settings)
    assert np.mean(tuned.losses[-3:]) < 0.6 * np.mean(tuned.losses[:3])
    other = base.changed(tuned.change, "tuned")
    queries = [ASKED[0].format(w) for w in WORDS]
    passages = [ASKED[1].format(t) for t in THINGS]
    before, after = (scored(e, queries, passages) for e in (base, other))
    assert after > before + 0.2
    kept, general = (scored(e, *halves()) for e in (base, other))
    assert general > kept - 0.02
