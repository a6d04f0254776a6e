"""O-LoRA: the penalty in plain torch, a past that does not move, one artifact that is the sum."""

import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.methods.lora import LoraSettings
from domainwright.train.loop import train
from domainwright.train.objective import penalties_of
from domainwright.train.penalties.o_lora import OLoraPenalty
from domainwright.train.settings import TrainSettings
from domainwright.train.step import take_step
from domainwright.train.together import train_together
from tests.methods.test_lora import peft_logits
from tests.methods.test_method_contract import build, logits
from tests.tiny import tiny_base, tiny_model
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

LORA = METHODS.get("lora")


def drawn(adapter, seed):
    """The adapter with random factors."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=source))
    return adapter


def saved(folder, base, seed, **settings):
    adapter = drawn(build(base, "lora", **settings), seed)
    adapter.save(folder)
    return adapter


def two_past(folder, base):
    """Two earlier adapters with other ranks, scales and starts."""
    first = saved(folder / "one", base, 1, rank=3, alpha=5.0)
    second = saved(folder / "two", base, 2, rank=2, alpha=4.0, rslora=True, start="olora")
    return [str(folder / "one"), str(folder / "two")], [first, second]


def job_of(folder, past, weight=0.5, **changes):
    base = changes.pop("base", None) or tiny_base()
    adapter = build(base, "lora", rank=4, past=tuple(past), **changes.pop("lora", {}))
    job = make_job(folder, base=base, adapter=adapter, **changes)
    asked = TrainSettings(penalties={"o_lora": {"weight": weight}} if weight else {})
    return replace(job, penalties=penalties_of(adapter, asked))


def test_the_penalty_is_that_of_a_plain_loop(tmp_path):
    """And so is its gradient, which reaches the new A alone."""
    folders, past = two_past(tmp_path, tiny_base())
    adapter = drawn(build(tiny_base(), "lora", rank=4, past=tuple(folders)), 3)
    got = torch.stack(list(OLoraPenalty(adapter, 0.7).parts())).sum()
    want = 0.0
    for i, a in enumerate(adapter.A):
        for earlier in past:
            (_, change) = list(earlier.changes())[i]
            for row in change.factors()[0].detach():
                for mine in a:
                    want = want + 0.7 * (row @ mine).abs()
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-4) and got > 1
    mine = torch.autograd.grad(got, list(adapter.A))
    for a, b in zip(mine, torch.autograd.grad(want, list(adapter.A)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("fused", [True, False])
def test_it_answers_as_the_sum_and_so_does_its_folder(family, rslora, fused, tmp_path):
    """Merged weights by hand: the base's, and every change. PEFT reads the folder."""
    base = tiny_base(family)
    folders, past = two_past(tmp_path, base)
    adapter = drawn(build(base, "lora", rank=4, alpha=6.0, past=tuple(folders), rslora=rslora), 3)
    if not fused:
        base.trunk = None
    with adapter.attached(), torch.no_grad():
        got = logits(base)
    oracle = tiny_base(family)
    with torch.no_grad():
        for i, layer in enumerate(oracle.hooks.linears):
            own = 6 / (2 if rslora else 4) * adapter.B[i] @ adapter.A[i]
            whole = own + sum(list(p.changes())[i][1].product_OI() for p in past)
            layer.module.weight.add_(whole.T if layer.transposed else whole)
        torch.testing.assert_close(got, logits(oracle), rtol=0, atol=2e-4)
    adapter.save(tmp_path / "three")
    config = json.loads((tmp_path / "three/adapter_config.json").read_text())
    assert config["r"] == 4 + 3 + 4  # olora's file has twice its rank
    model = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "three").eval()
    torch.testing.assert_close(peft_logits(model), got, rtol=0, atol=1e-4)
    again = LORA.load(tiny_base(family), tmp_path / "three")
    assert again.settings.past == () and not again.parents
    with again.attached(), torch.no_grad():
        torch.testing.assert_close(logits(again.base), got, rtol=0, atol=5e-5)


def test_training_moves_no_bit_of_the_past(tmp_path):
    """Weight decay, the draw back and the mean of states leave it alone, too."""
    (folder, _), _ = two_past(tmp_path, tiny_base())
    before = load_file(tmp_path / "one/adapter_model.safetensors")
    job = job_of(tmp_path / "run", [folder], weight_decay=0.3, average=0.3)
    assert job.adapter.trainable == build(tiny_base(), "lora", rank=4).trainable
    begun = [a.detach().clone() for a in job.adapter.A]
    train(job)
    job.adapter.save(tmp_path / "three")
    after = load_file(tmp_path / "three/adapter_model.safetensors")
    scale = job.adapter.settings.scale_of("")
    for name, value in before.items():
        if "lora_A" in name:
            assert torch.equal(after[name][:3], value)
        else:
            assert torch.equal(after[name][:, :3], value * (5 / 3) / scale)
    assert not any(torch.equal(a, b) for a, b in zip(job.adapter.A, begun, strict=True))


def test_a_step_has_the_gradient_of_autograd(tmp_path):
    """Fused execution against hooks called one by one, with the past in both."""
    folders, _ = two_past(tmp_path, tiny_base())

    def gradients(trunk):
        job = job_of(tmp_path / "run", folders, rate=0.0, clip=1e9)
        drawn(job.adapter, 5)
        if not trunk:
            job.base.trunk = None
        parameters = list(job.adapter.parameters())
        told = {}
        with job.adapter.attached():
            optimiser = torch.optim.AdamW(parameters, lr=0.0)
            take_step(job, optimiser, parameters, 0, job.rows[:3], told)
        return [p.grad for p in parameters], told["o_lora"]

    (got, cost), (want, same) = gradients(True), gradients(False)
    assert cost == pytest.approx(same) and cost > 1
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_the_new_rows_turn_away_from_the_old(tmp_path):
    (folder, _), _ = two_past(tmp_path, tiny_base())

    def overlap(weight):
        job = job_of(tmp_path / f"run-{weight}", [folder], weight=weight, steps=25)
        train(job)
        return sum(float(x.detach()) for x in OLoraPenalty(job.adapter, 1.0).parts())

    assert overlap(0.5) < 0.3 * overlap(0)


def test_stopping_and_going_on_changes_no_bit(tmp_path):
    (folder, _), _ = two_past(tmp_path, tiny_base())
    _, want = same_after_a_stop(lambda place: job_of(place, [folder]), tmp_path / "runs")
    assert all(line["o_lora"] > 0 for line in want.history[1:] if "loss" in line)


def test_beside_others_in_one_batch_a_past_counts_in_its_own_rows(tmp_path):
    (folder, _), _ = two_past(tmp_path, tiny_base())

    def jobs(place):
        first = job_of(tmp_path / place / "0", [folder], weight=0, steps=3, micro=200)
        other = make_job(tmp_path / place / "1", base=first.base, steps=3, micro=200)
        return [first, other]

    want = train_together(jobs("a"), way="in turn")
    got = train_together(jobs("b"), way="fused")
    for a, b in zip(got, want, strict=True):
        assert [x["loss"] for x in a.history if "loss" in x] == pytest.approx(
            [x["loss"] for x in b.history if "loss" in x], rel=1e-4
        )


def test_what_cannot_be_a_past_is_refused(tmp_path):
    base = tiny_base()
    folders, _ = two_past(tmp_path, base)
    saved(tmp_path / "few", base, 4, targets=("q", "v"))
    saved(tmp_path / "other", tiny_base(seed=1), 4)
    drawn(build(base, "dora"), 5).save(tmp_path / "dora")
    third = build(base, "lora", past=tuple(folders))
    third.save(tmp_path / "three")
    for names, kind, words in (
        ([str(tmp_path / "none")], ConfigError, "there is no such folder"),
        ([str(tmp_path / "few")], ConfigError, "leaves out the layer"),
        ([str(tmp_path / "other")], DataError, "was trained on"),
        ([str(tmp_path / "dora")], DataError, "dora"),
        ([folders[0], folders[0]], ConfigError, "would count twice"),
        ([str(tmp_path / "three"), folders[1]], ConfigError, "would count twice"),
    ):
        with pytest.raises(kind, match=words):
            build(base, "lora", past=tuple(names))
    for settings in ({"start": "eva"}, {"start": "pissa"}):
        with pytest.raises(ConfigError, match="random start"):
            LoraSettings(past=("x",), **settings)
    for method in ("qlora", "dora"):
        with pytest.raises(ConfigError, match="only lora"):
            METHODS.get(method).Settings(past=("x",))
    with pytest.raises(CapabilityError, match="has none") as caught:
        job_of(tmp_path / "run", [])
    assert "past: [RUN]" in caught.value.fix
