"""On a GPU every tensor is where it is used: on a pretended one all ends as on the CPU."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from domainwright.infer._sampling import Sampling
from domainwright.infer.generate import answer
from domainwright.infer.labels import label_logits
from domainwright.infer.likelihood import Request, score
from domainwright.methods import METHODS
from domainwright.methods._head import HeadedAdapter
from domainwright.models import gpu_four_bit
from domainwright.models.base import prepare
from domainwright.models.flat import flatten
from domainwright.models.forms import labelled_rows
from domainwright.models.stand_in import quantise_linears
from domainwright.train.loop import Interrupted, train
from domainwright.train.objective import penalties_of
from domainwright.train.penalties._penalty import Given
from domainwright.train.probe import probe
from domainwright.train.regimes import ReplaySettings
from domainwright.train.replay import with_base_lessons
from domainwright.train.settings import TrainSettings
from domainwright.train.together import train_together
from tests.methods.test_head import LABELS, choices
from tests.methods.test_method_contract import build, family_of
from tests.pretended_gpu import GPU, Pretended, moved, pretended_gpu
from tests.tiny import CONFIGS, documents, tiny_base, tiny_model, tiny_tokenizer, train_rows
from tests.train.candidates import make_jobs, without
from tests.train.runs import make_job
from tests.train.stopped import stop_at

GENERAL = [replace(r, id=f"general-{n}") for n, r in enumerate(train_rows((8, 13, 5, 9), seed=21))]
CHANGING = "tokens_per_s", "peak_rss_mib"
"""Figures of a run that no two runs share."""
REGIMES = {
    "label_smoothing": {"label_smoothing": 0.1},
    "prompt_weight": {"prompt_weight": 0.3},
    "neftune": {"neftune": 5.0},
    "r_drop": {"r_drop": 0.5, "neftune": 5.0},
    "average": {"average": 0.2},
    "mixout": {"mixout": 0.5},
    "kl": {"penalties": {"kl": {"weight": 0.2}}},
    "l2_sp": {"penalties": {"l2_sp": {"weight": 0.2}}},
    "ewc": {"penalties": {"ewc": {"weight": 0.2}}, "replay": ReplaySettings(share=0.0)},
    "replay": {"replay": ReplaySettings(share=0.4, learn="tokens")},
    "base's lessons": {"replay": ReplaySettings(share=0.4, learn="base")},
}


def on_both(work, family="llama", *, quantise=None):
    """What `work` makes of a base on the CPU, and of the same on the pretended GPU."""
    found = []
    for place in (nullcontext, pretended_gpu):
        like, model = tiny_base(family), tiny_model(family)
        if quantise:
            quantise_linears(model, quantise, double=True)
        with place():
            if place is pretended_gpu:
                model = moved(model)
            base = prepare(model, tiny_tokenizer(), like.source, like.sha256)
            assert (base.device == GPU) == (place is pretended_gpu)
            found.append(work(base))
    return found


def lines_of(history):
    lines = [{k: v for k, v in line.items() if k not in CHANGING} for line in without(history)]
    return [{**line.pop("rejected", {}), **line} for line in lines]


def assert_near(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=2e-4)


def test_tensors_of_two_devices_do_not_meet():
    with pretended_gpu():
        a, b = torch.ones(3, device=GPU), torch.ones(3)
        assert isinstance(a, Pretended) and a.device == GPU and not isinstance(b, Pretended)
        assert (a + b.to(a.device)).tolist() == (a.cpu() + b).tolist() == [2.0] * 3
        assert float((a + torch.tensor(1.0)).sum()) == 6.0
        for wrong in (lambda: a + b, lambda: b.copy_(a).add_(a), lambda: torch.cat([a, b])):
            with pytest.raises(RuntimeError, match="on cuda:0, found on cpu"):
                wrong()
        with pytest.raises(TypeError, match="memory of the GPU"):
            a.numpy()
        layer = torch.nn.Linear(3, 2).to(GPU)
        layer(a).sum().backward()
        assert layer.weight.grad.device == GPU and layer.bias.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("family", CONFIGS)
def test_scores_and_answers(family):
    prompts, endings = documents((5, 1, 19, 9), seed=3), documents((3, 2, 4, 2), seed=5)

    def work(base):
        scored = score(base, [Request(p, e) for p in prompts for e in endings])
        greedy = answer(base, prompts, new_tokens=8, references=endings)
        drawn = answer(base, prompts, new_tokens=8, sampling=Sampling(temperature=0.8, seed=2))
        return (
            [x.log_probability for x in (*scored, *(a.reference for a in greedy))],
            [a.ids for a in (*greedy, *drawn)],
        )

    want, got = on_both(work, family)
    assert_near(got[0], want[0])
    assert got[1] == want[1]


@pytest.mark.parametrize("name", METHODS.names())
def test_a_run_of_every_method_and_its_folder(name, tmp_path):
    def work(base):
        folder = tmp_path / base.device.type
        adapter = build(base, name)
        job = make_job(folder, base=base, adapter=adapter, steps=4, rate=5e-3, micro=25)
        got = train(job)
        adapter.save(folder / "saved")
        again = METHODS.get(name).load(base, folder / "saved")
        flat = flatten(documents((9, 4)), base.device)
        chosen_N = torch.arange(flat.tokens, device=base.device)
        with torch.no_grad(), again.attached():
            return lines_of(got.history), base.logits(flat, chosen_N).cpu()

    want, got = on_both(work, family_of(name))
    assert_near(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("method", "regime"),
    [(m, r) for m in ("lora", "full") for r in REGIMES if r != "mixout" or m == "full"],
)
def test_a_run_of_every_regime(regime, method, tmp_path):
    def work(base):
        folder = tmp_path / base.device.type
        settings = TrainSettings(**{"batch": 3, "max_forgetting": 50.0, **REGIMES[regime]})
        adapter, general = build(base, method), GENERAL
        if regime == "base's lessons":
            general, _ = with_base_lessons(base, GENERAL, folder)
        given = Given(GENERAL, folder / "lessons")
        job = make_job(folder, base=base, adapter=adapter, steps=4, rate=5e-3, settings=settings)
        replay = general if settings.replay and settings.replay.share else []
        job = replace(job, replay=replay, penalties=penalties_of(adapter, settings, given))
        return lines_of(train(job).history)

    want, got = on_both(work)
    assert_near(got, want)


@pytest.mark.parametrize("change", [{"recompute": True}, {"offload": True}, {}])
def test_a_run_that_is_stopped_and_gone_on_with(change, tmp_path):
    def work(base):
        folder = tmp_path / base.device.type
        jobs = [
            make_job(folder, base=base, adapter=build(base, "top_layers"), rate=5e-3, **change)
            for _ in range(2)
        ]
        with pytest.raises(Interrupted):
            train(jobs[0], **stop_at(7))
        return lines_of(train(jobs[1], resume=True).history)

    want, got = on_both(work)
    assert_near(got, want)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_candidates_in_one_batch(family, tmp_path):
    def work(base):
        jobs = make_jobs(tmp_path / base.device.type, base)
        return [line for got in train_together(jobs, way="fused") for line in lines_of(got.history)]

    want, got = on_both(work, family)
    assert_near(got, want)


def test_a_head_for_labels(tmp_path):
    def work(base):
        job = make_job(
            tmp_path / base.device.type,
            base=base,
            adapter=HeadedAdapter(build(base, "lora"), "classification", LABELS),
            rows=labelled_rows(base.template, choices(), LABELS, 64),
            development=labelled_rows(base.template, choices(6), LABELS, 64),
            steps=4,
        )
        history = lines_of(train(job).history)
        with job.adapter.attached():
            found = label_logits(base, documents((5, 1, 19), seed=3))
        return history, torch.stack(found).cpu().flatten().tolist()

    want, got = on_both(work)
    assert_near(got[0], want[0])
    assert got[1] == pytest.approx(want[1], rel=0, abs=5e-3)


def test_a_base_of_codes(tmp_path, monkeypatch):
    """Unpacked by PyTorch: bitsandbytes' kernels need the GPU itself."""
    monkeypatch.setattr(gpu_four_bit, "DEVICES", ())

    def work(base):
        job = make_job(tmp_path / base.device.type, base=base, steps=4, rate=5e-3)
        return lines_of(train(job).history)

    want, got = on_both(work, quantise="nf4")
    assert_near(got, want)


def test_a_probe_reads_the_passes_of_a_gpu():
    settings = TrainSettings(batch=3)

    def work(base):
        return probe(base, lambda: build(base, "lora"), train_rows((9, 14, 5)), settings)

    _, got = on_both(work)
    assert got.seconds_per_flop > 0 and got.resident_mib == 0
