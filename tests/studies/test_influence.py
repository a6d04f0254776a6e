"""Influence: gradients against autograd on transformers' own model, the sum against plain loops."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from domainwright.core.errors import ConfigError, DataError
from domainwright.core.progress import quiet
from domainwright.core.seeds import generator
from domainwright.curate.select import SelectSettings
from domainwright.curate.selection import SELECTIONS, Seen
from domainwright.curate.selection.influence import Influence
from domainwright.models.forms import encode_rows
from domainwright.studies._influence import Moments, WarmUp, influence, kept_influence
from tests.studies import world
from tests.tiny import chat, tiny_base, tiny_model

ROWS = [
    chat(f"What colour is {plant}?", f"{plant} is {world.COLOURS[n % 5]}", name=plant)
    for n, plant in enumerate(world.PLANTS)
]


def warmed(base, rows, wanted, seed=0):
    """A run after its first epoch, its mean rate and its documents."""
    documents = encode_rows(base.template, rows, 256)
    drawn = generator(seed, "warm-up").permutation(len(rows))[:16]
    run = WarmUp.of(base, [documents[n] for n in drawn], wanted, seed)
    run.job.adapter.attach()
    return run, run.train(0, run.job.steps // wanted.epochs, quiet), documents


def test_a_rows_gradient_is_that_of_autograd():
    base = tiny_base()
    run, _, documents = warmed(base, ROWS, Influence(rank=2))
    adapter, document = run.job.adapter, documents[3]
    model, factors = tiny_model("llama"), [p.detach().requires_grad_() for p in run.parameters]
    layers = len(adapter.layers)
    weights = {
        f"{x.path}.weight": model.get_parameter(f"{x.path}.weight") + 2.0 * b @ a
        for x, a, b in zip(adapter.layers, factors[:layers], factors[layers:], strict=True)
    }
    logits = functional_call(model, weights, (torch.tensor([document.ids]),)).logits[0]
    marked = [i for i, on in enumerate(document.supervised) if on and i]
    labels = torch.tensor([document.ids[i] for i in marked])
    loss = torch.nn.functional.cross_entropy(logits[[i - 1 for i in marked]], labels)
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(loss, factors)])
    assert float(wanted.abs().max()) > 1e-3
    # Float32, another order of sums.
    torch.testing.assert_close(run.gradient([document]), wanted, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(
        run.gradient([document] * 2), run.gradient([document]), rtol=1e-5, atol=1e-6
    )


def test_the_next_update_has_the_moments_that_adam_would_have():
    rng = torch.Generator().manual_seed(0)
    value = torch.nn.Parameter(torch.randn(9, generator=rng))
    optimiser = torch.optim.AdamW([value], lr=0.1, betas=(0.9, 0.999))
    moments = None
    for _ in range(3):
        value.grad = torch.randn(9, generator=rng)
        if optimiser.state:
            state = optimiser.state[value]
            moments = Moments(
                first_P=state["exp_avg"].clone(), second_P=state["exp_avg_sq"].clone()
            )
        optimiser.step()
    state = optimiser.state[value]
    after = state["exp_avg"] / (state["exp_avg_sq"] + 1e-8).sqrt()
    torch.testing.assert_close(moments.next_update(value.grad), after, rtol=1e-5, atol=1e-6)


def test_the_influence_is_the_sum_of_the_formula():
    wanted = Influence(rank=2, epochs=1)
    rows, development = ROWS[:12], ROWS[12:16]
    found = influence(tiny_base(), rows, development, wanted, max_tokens=256, seed=0, listen=quiet)
    base = tiny_base()
    run, _, documents = warmed(base, rows, wanted)
    state = run.optimiser.state
    first, second = (
        np.concatenate([state[p][name].numpy().ravel() for p in run.parameters])
        for name in ("exp_avg", "exp_avg_sq")
    )

    def cosine(a, b):
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    goals = [
        run.gradient([document]).numpy()
        for document in encode_rows(base.template, development, 256)
    ]
    for value, document in zip(found, documents, strict=True):
        g = run.gradient([document]).numpy()
        update = (0.9 * first + 0.1 * g) / np.sqrt(0.999 * second + 0.001 * g**2 + 1e-8)
        mean = sum(cosine(update, goal) for goal in goals) / 4
        assert value == pytest.approx(mean, abs=1e-4)


def test_the_base_is_itself_again():
    base, wanted = tiny_base(), Influence(rank=2, epochs=1)
    before = base.model(torch.tensor([[5, 6, 7]])).logits
    influence(base, ROWS[:4], ROWS[12:14], wanted, max_tokens=256, seed=0, listen=quiet)
    assert torch.equal(before, base.model(torch.tensor([[5, 6, 7]])).logits)


@pytest.mark.parametrize("seed", [0, 1])
def test_of_a_pool_with_random_answers_the_good_half_is_chosen(seed):
    rng = generator(seed, "planted")
    asked = world.questions()
    rows = [chat(x["question"], x["answer"], name=x["id"]) for x in asked[:48]]
    development = [chat(x["question"], x["answer"], name=x["id"]) for x in asked[48:]]
    spoilt = set(rng.permutation(48)[:24].tolist())
    letters = list("abcdefghijklmnopqrstuvwxyz")
    for n in spoilt:
        words = ["".join(rng.choice(letters, 5)) for _ in range(4)]
        rows[n] = chat(rows[n].question, " ".join(words), name=rows[n].id)
    found = influence(
        tiny_base(), rows, development, Influence(epochs=2), max_tokens=256, seed=seed, listen=quiet
    )
    kept = SELECTIONS.get("influence")().choose(Seen(count=48, influence_N=found), 24).rows
    # By lot 6 ± 1.5 of the first 12 and 12 ± 1.7 of all 24 would be spoilt.
    assert len(spoilt & set(kept[:12])) <= 1
    assert len(spoilt & set(kept)) <= 7


def test_what_was_found_is_kept(tmp_path):
    asked = []

    def find(**changes):
        return kept_influence(
            ROWS[:6],
            ROWS[6:8],
            Influence(rank=2, epochs=1, **changes),
            base=tiny_base,
            max_tokens=256,
            seed=0,
            cache=tmp_path,
            listen=lambda step: asked.append(step.stage),
        )

    first = find()
    assert {"warm up to select", "compare gradients"} == set(asked)
    asked.clear()
    assert np.array_equal(find(), first) and not asked
    find(share=0.5)
    assert asked


def test_rows_that_teach_nothing_are_refused():
    rows = [*ROWS[:5], chat("a long question " * 30, "cut")]
    found = influence(
        tiny_base(),
        rows,
        ROWS[6:9],
        Influence(rank=2, epochs=1),
        max_tokens=40,
        seed=0,
        listen=quiet,
    )
    assert np.isnan(found[5]) and not np.isnan(found[:5]).any()
    chosen = SELECTIONS.get("influence")().choose(Seen(count=6, influence_N=found), 6)
    assert chosen.refused[5][0] == "nothing_learned" and len(chosen.rows) == 5
    with pytest.raises(DataError, match=r"raise train\.max_tokens"):
        influence(tiny_base(), rows[5:], ROWS[:2], Influence(), max_tokens=40, seed=0, listen=quiet)
    with pytest.raises(DataError, match="there are none"):
        kept_influence(
            rows,
            [],
            Influence(),
            base=tiny_base,
            max_tokens=40,
            seed=0,
            cache=None,
            listen=quiet,
        )
    for settings, told in (({"share": 2.0}, "share of 2.0"), ({"rank": 0}, "rank 0")):
        with pytest.raises(ConfigError, match=told):
            SelectSettings(method="influence", rows=1, settings=settings)
