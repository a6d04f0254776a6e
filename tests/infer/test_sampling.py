"""Drawn answers: their distribution, and that nothing but (seed, prompt, place) decides them."""

import pytest
import torch

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import share
from domainwright.infer import generate
from domainwright.infer._sampling import Sampling
from domainwright.infer.generate import answer
from tests.tiny import documents, own_logits, tiny_base


def test_tokens_come_as_often_as_they_are_likely():
    """4,000 draws from one distribution; a share p of them errs by √(p (1 - p) / 4000)."""
    logits = 2 * torch.randn(1, 12, generator=torch.Generator().manual_seed(3))
    for temperature in (1.0, 0.5):
        sampling = Sampling(temperature=temperature, seed=1)
        got = sampling.drawn(logits.expand(4000, -1), [(n, 0) for n in range(4000)])
        want = (logits[0] / temperature).softmax(0)
        found = torch.bincount(torch.tensor(got), minlength=12) / 4000
        assert ((found - want).abs() < 4 * (want * (1 - want) / 4000).sqrt() + 1e-9).all()


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(500, -1)
    assert set(Sampling().drawn(logits, [(n, 1) for n in range(500)])) == {1, 3}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
def test_an_answer_is_drawn_token_by_token(family):
    """The oracle reads the whole text anew for every token and walks along the vocabulary."""
    base = tiny_base(family)
    prompts = documents((5, 1, 9, 12), seed=3)
    got = answer(base, prompts, new_tokens=7, sampling=Sampling(temperature=0.8, seed=4))
    greedy = answer(base, prompts, new_tokens=7)
    assert any(a.ids != b.ids for a, b in zip(got, greedy, strict=True))
    for number, (prompt, told) in enumerate(zip(prompts, got, strict=True)):
        ids: list[int] = []
        stop = None
        while len(ids) < 7 and stop is None:
            shares = (own_logits(base.model, prompt + ids)[-1] / 0.8).softmax(0).tolist()
            wanted, total, token = share(4, f"sample {number} {len(ids)}"), 0.0, -1
            while total <= wanted:
                token += 1
                total += shares[token]
            if token in base.template.stops:
                stop = token
            else:
                ids.append(token)
        assert (told.ids, told.stop) == (ids, stop)


@pytest.mark.parametrize("limits", [(2, 10_000, 50), (64, 16_384, 1)])
def test_rows_and_batches_do_not_matter(limits, monkeypatch):
    base, prompts = tiny_base(), documents((5, 1, 19, 9, 12, 2, 7, 7), seed=3)
    sampling = Sampling(seed=2)
    want = answer(base, prompts, new_tokens=9, sampling=sampling)
    for name, value in zip(("BATCH_ROWS", "BATCH_TOKENS", "READ_TOKENS"), limits, strict=True):
        monkeypatch.setattr(generate, name, value)
    got = answer(base, prompts, new_tokens=9, sampling=sampling)
    assert [a.ids for a in got] == [a.ids for a in want]
    other = answer(base, prompts, new_tokens=9, sampling=Sampling(seed=3))
    assert [a.ids for a in other] != [a.ids for a in want]


def test_equal_prompts_have_answers_of_their_own():
    got = answer(tiny_base(), [[5, 6, 7]] * 6, new_tokens=8, sampling=Sampling())
    assert len({tuple(a.ids) for a in got}) == 6


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ConfigError, match="The temperature is"):
        Sampling(temperature=temperature)
