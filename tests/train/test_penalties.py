"""What every penalty must do, a new file in train/penalties at once; and each one's closed form."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError
from domainwright.core.seeds import derive
from domainwright.models.flat import flatten
from domainwright.models.lowrank import LowRank
from domainwright.train.loop import train
from domainwright.train.objective import penalties_of
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given
from domainwright.train.penalties.ewc import EwcPenalty, fisher_of, kept_fisher
from domainwright.train.penalties.l2_sp import L2SpPenalty, squared_norm
from domainwright.train.regimes import ReplaySettings
from domainwright.train.settings import TrainSettings
from domainwright.train.step import take_step
from domainwright.train.together import train_together
from tests.methods.test_method_contract import REFUSED, build
from tests.tiny import own_logits, tiny_base, train_rows
from tests.train.candidates import without
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

GENERAL = train_rows((8, 13, 5, 9), seed=21)
ANCHORS = [name for name in PENALTIES.names() if name != "o_lora"]
"""Penalties on leaving the base; that on meeting earlier adapters is in test_o_lora.py."""
each_penalty = pytest.mark.parametrize("name", ANCHORS)


def penalised(folder, name, weight, method="lora", settings=None, family="llama", **changes):
    """A job with one penalty, of any method."""
    base = tiny_base(family)
    adapter = build(base, method, **(settings or {}))
    job = make_job(folder, base=base, adapter=adapter, penalties=(), **changes)
    if not weight:
        return job
    asked = TrainSettings(penalties={name: {"weight": weight}}, replay=ReplaySettings(share=0.0))
    given = Given(GENERAL, folder.parent / "lessons")
    return replace(job, penalties=penalties_of(adapter, asked, given))


def moved(job):
    """Mean square change of the logits on the training rows."""
    flat = flatten([row.ids for row in job.rows])
    everywhere = torch.arange(flat.tokens)
    with torch.no_grad():
        bare = job.base.logits(flat, everywhere)
        with job.adapter.attached():
            return float((job.base.logits(flat, everywhere) - bare).square().mean())


@pytest.mark.parametrize("name", PENALTIES.names())
def test_its_settings_have_a_weight_and_a_line_says_what_it_does(name):
    kind = PENALTIES.get(name)
    assert "weight" in {f.name for f in fields(kind.Settings)} and kind.summary.endswith(".")
    with pytest.raises(ConfigError, match="weight is -1"):
        kind.Settings(weight=-1.0)


@each_penalty
class TestEveryPenalty:
    def test_at_the_start_it_costs_nothing(self, name, tmp_path):
        job = replace(penalised(tmp_path, name, 3.0), learning_rate=0.0)
        told = {}
        parameters = list(job.adapter.parameters())
        with job.adapter.attached():
            optimiser = torch.optim.AdamW(parameters, lr=0.0)
            take_step(job, optimiser, parameters, 0, job.rows[:3], told)
            got = [p.grad.clone() for p in parameters]
            take_step(replace(job, penalties=()), optimiser, parameters, 0, job.rows[:3])
        assert told[name] == pytest.approx(0, abs=1e-6)
        for a, p in zip(got, parameters, strict=True):
            torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("method", ["lora", "full", "ia3", "bottleneck"])
    def test_it_holds_a_run_back(self, name, method, tmp_path):
        rate = 2e-3 if method == "full" else 2e-2
        weight = 300.0 if name == "ewc" else 30.0
        free = penalised(tmp_path / "free", name, 0, method, steps=5, rate=rate)
        try:
            held = penalised(tmp_path / "held", name, weight, method, steps=5, rate=rate)
        except CapabilityError as error:
            assert name == "ewc" and method in ("ia3", "bottleneck")
            assert f"{method} changes something else" in error.cause and "l2_sp" in error.fix
            return
        train(free)
        told = train(held)
        assert moved(held) < 0.7 * moved(free)
        assert all(line[name] > 0 for line in told.history[2:])

    def test_stopping_and_going_on_changes_no_bit(self, name, tmp_path):
        same_after_a_stop(lambda folder: penalised(folder, name, 0.5), tmp_path)

    def test_beside_other_candidates_it_steps_alone(self, name, tmp_path):
        want = train(penalised(tmp_path / "alone", name, 0.5, steps=3))
        first = penalised(tmp_path / "a", name, 0.5, steps=3)
        others = [
            make_job(tmp_path / str(n), base=first.base, steps=3, method={"rank": 2 + n})
            for n in range(2)
        ]
        got, *_ = train_together([first, *others], way="fused")
        assert without(got.history) == without(want.history)


@pytest.mark.parametrize("start", ["random", "olora"])
def test_the_norm_of_a_low_rank_change_is_that_of_the_product(start):
    """And its gradient; with a start that is no part of the change."""
    adapter = build(tiny_base(), "lora", rank=3, start=start, rslora=True)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(torch.randn(p.shape, generator=source))
    changes = [hook for _, hook in adapter.places()]
    assert all(isinstance(x, LowRank) for x in changes)
    got, want = (
        sum(f(x) for x in changes) for f in (squared_norm, lambda x: x.product_OI().square().sum())
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    parameters = list(adapter.parameters())
    pairs = zip(
        torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("method", ["full", "bitfit", "layernorm", "ia3", "prefix", "dora"])
def test_other_parameters_are_held_where_they_began(method):
    family = "gpt2" if "llama" in REFUSED.get(method, ()) else "llama"
    base = tiny_base(family, torch.bfloat16)
    adapter = build(base, method)
    begun = [p.detach().clone() for p in adapter.parameters()]
    penalty = L2SpPenalty(adapter, 0.6)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(torch.randn(p.shape, generator=source))
    pairs = list(zip(adapter.parameters(), begun, strict=True))
    total = torch.stack(list(penalty.parts())).sum()
    want = 0.3 * sum(float((p.detach() - b).square().sum()) for p, b in pairs)
    assert total.item() == pytest.approx(want, rel=1e-4)
    got = torch.autograd.grad(total, [p for p, _ in pairs])
    for (p, b), gradient in zip(pairs, got, strict=True):
        torch.testing.assert_close(gradient, 0.6 * (p.detach() - b), rtol=1e-5, atol=1e-6)
    if method == "full":  # the base itself is the start: no copy of it is made
        own = {x.data_ptr() for x in base.model.parameters()}
        assert all(start.data_ptr() in own for _, start in penalty.others)


def test_nearness_to_the_base_is_torchs_divergence_of_the_bare_model():
    job = penalised(Path("/nowhere"), "kl", 2.0, "full", rate=0.0)
    with torch.no_grad():
        for p in job.adapter.parameters():
            p.mul_(1.05)
    told = {}
    parameters = list(job.adapter.parameters())
    rows = job.rows[:3]
    with job.adapter.attached():
        take_step(job, torch.optim.AdamW(parameters, lr=0.0), parameters, 0, rows, told)
        mine = [own_logits(job.base.model, r.ids).detach().log_softmax(1) for r in rows]
    total = 0.0
    for row, logs in zip(rows, mine, strict=True):
        bare = own_logits(job.base.model, row.ids).detach().log_softmax(1)
        apart = functional.kl_div(logs, bare, log_target=True, reduction="none").sum(1)
        total += sum(float(apart[i - 1]) for i, on in enumerate(row.supervised) if on and i)
    assert told["kl"] == pytest.approx(total / sum(r.targets for r in rows), rel=1e-3)
    assert told["kl"] > 0.01


def quiet_listener(step):
    pass


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_fisher_is_that_of_single_documents_with_the_bases_own_labels(family):
    """By torch alone: eager logits, one document after the other, the same draws."""
    base = tiny_base(family)
    names = [f"{x.path}.weight" for x in base.hooks.linears[:3]]
    got = fisher_of(base, names, GENERAL, 7, quiet_listener)
    wanted = [base.model.get_parameter(n).requires_grad_(True) for n in names]
    totals = [torch.zeros(p.shape) for p in wanted]
    for number, row in enumerate(GENERAL):
        marked = [i - 1 for i, on in enumerate(row.supervised) if on and i]
        logs = own_logits(base.model, row.ids)[marked].log_softmax(1)
        source = torch.Generator().manual_seed(derive(7, "fisher", number))
        labels = torch.multinomial(logs.detach().exp(), 1, generator=source)[:, 0]
        loss = functional.nll_loss(logs, labels, reduction="sum")
        for total, gradient in zip(totals, torch.autograd.grad(loss, wanted), strict=True):
            total += gradient.square() / len(GENERAL)
    for name, total in zip(names, totals, strict=True):
        torch.testing.assert_close(got[name], total, rtol=1e-3, atol=1e-5 * float(total.max()))
    fresh = fisher_of(tiny_base(family), names, GENERAL, 8, quiet_listener)
    assert not torch.allclose(fresh[names[0]], got[names[0]])
    assert not any(p.requires_grad for p in fresh.values())


def test_the_fisher_asks_for_no_gradient_afterwards_and_is_kept(tmp_path, monkeypatch):
    base = tiny_base()
    names = [f"{base.hooks.linears[0].path}.weight"]
    first = kept_fisher(base, names, GENERAL, tmp_path, quiet_listener)
    assert not any(p.requires_grad for p in base.model.parameters())
    monkeypatch.setattr("domainwright.train.penalties.ewc.fisher_of", lambda *a: pytest.fail())
    again = kept_fisher(base, names, GENERAL, tmp_path, quiet_listener)
    assert torch.equal(first[names[0]], again[names[0]])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_ewc_is_the_weighed_distance_of_the_weights(family, method):
    """The oracle forms the merged weights. GPT-2 stores some of them the other way round."""
    base = tiny_base(family)
    adapter = build(base, method)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=source))
    before = {n: p.detach().clone() for n, p in base.model.named_parameters()}
    fisher = {n: torch.rand(p.shape, generator=source) for n, p in before.items()}
    parts = torch.stack(list(EwcPenalty(adapter, 3.0, fisher).parts()))
    want = sum(
        1.5 * float((fisher[n] * (value - before[n]).square()).sum())
        for n, value in adapter.merged_parameters()
    )
    assert parts.detach().sum().item() == pytest.approx(want, rel=1e-4)


def test_ewc_without_general_text_is_refused():
    with pytest.raises(ConfigError, match="there is none") as caught:
        TrainSettings(replay=None, penalties={"ewc": {}})
    assert "share of 0" in caught.value.fix
