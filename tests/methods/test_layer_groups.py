"""Falling rates and gradual unfreezing, against transformers' model and torch's own groups."""

import pytest
import torch
from torch.nn import functional

from domainwright.core.errors import ConfigError
from domainwright.methods import METHODS
from domainwright.train import schedule
from domainwright.train.loop import train
from domainwright.train.loss import batch_of, summed_loss
from domainwright.train.probe import probe
from domainwright.train.settings import TrainSettings
from domainwright.train.step import optimiser_of
from tests.methods.test_method_contract import build, logits, tuned
from tests.tiny import tiny_base, tiny_model, train_rows
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

GROUPS = {"groups": 3, "rate_decay": 0.385, "unfreeze_every": 0.3}


def job_of(folder, *, layers=4, steps=7, method="full", settings=GROUPS, **changes):
    base = tiny_base("llama", num_hidden_layers=layers)
    adapter = build(base, method, **settings)
    return make_job(folder, base=base, adapter=adapter, steps=steps, rate=2e-3, **changes)


def by_group(adapter):
    """{group: names of its parameters, without their ends}."""
    found = {}
    for name, group in zip(adapter.names, adapter.group_of, strict=True):
        part = name.split(".")
        found.setdefault(group, set()).add(".".join(part[: 3 if "layers" in part else -1]))
    return found


def test_blocks_are_shared_out_and_the_ends_go_with_their_neighbours():
    layer = "model.layers.{}".format
    adapter = build(tiny_base("llama", num_hidden_layers=4), "full", groups=3)
    assert by_group(adapter) == {
        0: {layer(3), layer(2), "model.norm"},
        1: {layer(1)},
        2: {layer(0), "model.embed_tokens"},  # the tied head is one with the embeddings
    }
    untied = by_group(build(tiny_base("qwen2"), "full"))
    assert untied == {
        0: {layer(1), "model.norm", "lm_head"},
        1: {layer(0), "model.embed_tokens"},
    }
    gpt2 = build(tiny_base("gpt2"), "full", groups=2)
    lowest = {n for n, g in zip(gpt2.names, gpt2.group_of, strict=True) if g}
    assert {"transformer.wte.weight", "transformer.wpe.weight"} < lowest
    assert "transformer.ln_f.weight" not in lowest
    base = tiny_base("llama")  # as families that define their last norm before the blocks
    inner = base.model.model._modules
    inner["layers"] = inner.pop("layers")
    assert by_group(build(base, "full")) == {
        0: {layer(1), "model.norm"},
        1: {layer(0), "model.embed_tokens"},
    }
    top = build(tiny_base("llama", num_hidden_layers=4), "top_layers", blocks=2)
    assert by_group(top) == {0: {layer(3), "model.norm"}, 1: {layer(2)}}


def test_vectors_have_a_weight_decay_of_their_own(tmp_path):
    job = job_of(tmp_path, weight_decay=0.1, vector_decay=0.01)
    groups = optimiser_of(job).param_groups
    found = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert set(found) == {p for p in job.adapter.parameters() if p.requires_grad}
    assert {(p.dim() >= 2, decay) for p, decay in found.items()} == {(True, 0.1), (False, 0.01)}
    factors = {factor for _, factor in job.adapter.rate_groups()}
    assert {group["factor"] for group in groups} == factors
    for name in ("weight_decay", "vector_decay"):
        with pytest.raises(ConfigError, match=f"train.{name} is -1"):
            TrainSettings(**{name: -1.0})


def test_a_run_equals_a_plain_loop_with_torchs_groups(tmp_path):
    """The oracle hands each group to AdamW when its turn comes, at its own rate."""
    job = job_of(tmp_path, weight_decay=0.1, vector_decay=0.1, schedule="stlr", batch=3)
    model = tiny_model("llama", num_hidden_layers=4).train()
    groups = [[], [], []]
    for name, parameter in model.named_parameters():
        block = int(name.split(".")[2]) if "layers" in name else None
        number = {3: 0, 2: 0, 1: 1, 0: 2, None: 0 if "norm" in name else 2}[block]
        groups[number].append(parameter.requires_grad_(number == 0))
    optimiser = torch.optim.AdamW(groups[0], lr=0.0, betas=(0.9, 0.999), weight_decay=0.1)
    losses = []
    for step in range(job.steps):
        for number, begins in ((1, 2), (2, 4)):  # round(0.3 · 7), round(0.6 · 7)
            if step == begins:
                optimiser.add_param_group({"params": [p.requires_grad_() for p in groups[number]]})
        total, count = 0.0, 0
        for row in job.order.step(step):
            table = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
            total += functional.cross_entropy(
                table[1:-1], torch.tensor(row.ids[2:]), reduction="sum"
            )
            count += len(row.ids) - 2
        optimiser.zero_grad()
        (total / count).backward()
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for number, group in enumerate(optimiser.param_groups):
            group["lr"] = 2e-3 * 0.385**number * schedule.factor("stlr", step, 7, 0.0, 0.0)
        optimiser.step()
        losses.append(float(total.detach()) / count)
    history = train(job).history[1:]
    assert [h["loss"] for h in history] == pytest.approx(losses, rel=1e-5)
    values = dict(zip(job.adapter.names, job.adapter.values, strict=True))
    for name, want in model.named_parameters():
        torch.testing.assert_close(values[name].data, want.data, rtol=1e-3, atol=2e-5, msg=name)
    assert job.adapter.trainable == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_stopping_before_or_after_a_group_begins_changes_nothing(tmp_path, cut):
    """Groups begin at steps 2 and 4; what began has moments, what waits has none."""
    same_after_a_stop(job_of, tmp_path, cut)


def test_below_the_lowest_trained_group_nothing_is_differentiated():
    base = tiny_base("llama", num_hidden_layers=4)
    adapter = build(base, "full", **GROUPS)
    seen = []
    for layer in base.model.model.layers:
        layer.register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
    batch = batch_of(base, train_rows((7, 4)))
    with adapter.attached():
        for step, want in ((0, [False, False, True, True]), (2, [False, True, True, True])):
            with adapter.learning(step, 7):
                summed_loss(base, *batch).backward()
            assert seen == want
            seen.clear()
        got = {n for n, v in zip(adapter.names, adapter.values, strict=True) if v.grad is not None}
        assert got == {n for n, g in zip(adapter.names, adapter.group_of, strict=True) if g < 2}
        with adapter.learning(4, 7):
            logits(base)
        assert seen == [True] * 4
    assert all(v.requires_grad for v in adapter.values)


def test_the_plans_probe_measures_the_dearest_step(monkeypatch):
    """All groups train there, or the run would need more memory than was planned."""
    base = tiny_base("llama", num_hidden_layers=4)
    asked, plain = [], METHODS.get("full").build(base, METHODS.get("full").Settings(), 0)
    kind = type(plain)
    whole = kind.learning

    def learning(self, step, steps):
        asked.append((step, steps))
        return whole(self, step, steps)

    monkeypatch.setattr(kind, "learning", learning)
    job = job_of("/nowhere")
    probe(base, lambda: build(base, "full", **GROUPS), job.rows, job.settings)
    assert asked and set(asked) == {(1, 1)}


def test_settings_that_would_leave_a_group_out_are_refused():
    settings = METHODS.get("full").Settings
    with pytest.raises(ConfigError, match=r"would begin after 1\.00 of the run") as caught:
        settings(unfreeze_every=0.25)
    assert "below 0.25, or fewer groups" in caught.value.fix
    assert settings(unfreeze_every=0.24).groups == 5
    for wrong in ({"rate_decay": 0.0}, {"rate_decay": 1.1}, {"groups": 1}, {"unfreeze_every": -1}):
        with pytest.raises(ConfigError):
            METHODS.get("top_layers").Settings(**wrong)


@pytest.mark.parametrize("steps", [7, 10, 19, 40, 105])
def test_the_slanted_triangle_is_ulmfits(steps):
    """Their formula, written out; it falls below 0 where the tenth was rounded down."""
    cut_frac, ratio = 0.1, 32
    cut = max(1, int(steps * cut_frac))
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        want = (1 + p * (ratio - 1)) / ratio
        got = schedule.factor("stlr", t, steps, 0.3, 0.2)
        assert got == pytest.approx(want if p >= 0 else 1 / ratio, abs=1e-12)
        assert (want > 0) == (p > -1 / 31) and 1 / ratio <= got <= 1


def test_an_adapter_with_groups_is_saved_and_loaded(tmp_path):
    adapter = tuned(tiny_base("llama"), "full", **{**GROUPS, "groups": 2})
    adapter.save(tmp_path)
    other = tiny_base("llama")
    again = METHODS.get("full").load(other, tmp_path)
    assert again.settings == adapter.settings and again.group_of == adapter.group_of
    again.attach()
    assert torch.equal(logits(other), logits(adapter.base))
