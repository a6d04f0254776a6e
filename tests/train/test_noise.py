"""Noise on the embeddings: its size, that it is each row's own, and that nothing else has it."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from domainwright.models.flat import flatten
from domainwright.train.noise import EmbeddingNoise, embedding_noise
from tests.tiny import tiny_base, train_rows
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop
from tests.train.test_shaped import gradient_of


def test_noise_is_uniform_and_as_large_as_the_row_is_short():
    noise = EmbeddingNoise(64, 5.0, seed=1, step=2, copies=1)
    for length in (4, 400):
        drawn = noise.of(0, 0, length)
        bound = 5 / math.sqrt(length * 64)
        assert drawn.shape == (length, 64) and float(drawn.abs().max()) <= bound
        # The variance of U(-a, a) is a²/3.
        assert float(drawn.var()) == pytest.approx(bound**2 / 3, rel=0.15)
    assert not torch.equal(noise.of(0, 0, 4), noise.of(1, 0, 4))
    assert not torch.equal(noise.of(0, 0, 4), noise.of(0, 1, 4))
    other = EmbeddingNoise(64, 5.0, seed=1, step=3, copies=1)
    assert not torch.equal(noise.of(0, 0, 4), other.of(0, 0, 4))
    assert torch.equal(noise.of(7, 0, 9), EmbeddingNoise(64, 5.0, 1, 2, 1).of(7, 0, 9))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
def test_a_training_pass_reads_the_noisy_embeddings(family):
    """The oracle gives transformers' model the embeddings with noise, document by document."""
    base = tiny_base(family)
    rows = train_rows((7, 5))
    flat = flatten([r.ids for r in rows])
    module = base.model.get_input_embeddings()
    with embedding_noise(base, 6.0, seed=3, step=1) as noise:
        noise.begin(flat)
        got = base.hidden(flat)
        with torch.no_grad():
            quiet = base.hidden(flat)
    assert "forward" not in module.__dict__ and torch.equal(base.hidden(flat), quiet)
    for number, (row, part) in enumerate(zip(rows, flat.documents(), strict=True)):
        drawn = EmbeddingNoise(noise.width, 6.0, 3, 1, 1).of(number, 0, len(row.ids))
        embedded = (module(torch.tensor([row.ids])) + drawn).detach()
        want = base.model.base_model(inputs_embeds=embedded, use_cache=False)
        torch.testing.assert_close(got[part], want.last_hidden_state[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(got, quiet, atol=1e-3)


@pytest.mark.parametrize("changes", [{}, {"r_drop": 1.0}, {"prompt_weight": 0.5}], ids=str)
def test_packing_does_not_change_a_rows_noise(changes):
    def at(micro):
        job = make_job("/nowhere", micro=micro, neftune=9.0, clip=1e9, **changes)
        rows = job.rows[:4]
        # A common beginning must be read twice: each row has noise of its own.
        rows[1] = replace(rows[1], ids=rows[0].ids[:4] + rows[1].ids[4:])
        return gradient_of(job, step=2, rows=rows)

    loss, _, want, _ = at(10_000)
    other, _, got, _ = at(1)
    assert loss == pytest.approx(other, rel=1e-5)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    plain, *_ = gradient_of(
        make_job("/nowhere", **changes) if not changes.get("r_drop") else make_job("/nowhere"),
        step=2,
    )
    assert abs(plain - loss) > 1e-3


def test_stopping_and_going_on_changes_no_bit(tmp_path):
    changes = {"neftune": 5.0, "r_drop": 0.5, "label_smoothing": 0.1, "prompt_weight": 0.1}
    same_after_a_stop(partial(make_job, **changes), tmp_path)


def test_checkpointing_draws_the_same_noise():
    plain = gradient_of(make_job("/nowhere", base=tiny_base("gpt2"), neftune=5.0))
    again = gradient_of(make_job("/nowhere", base=tiny_base("gpt2"), neftune=5.0, recompute=True))
    for a, b in zip(plain[2], again[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
