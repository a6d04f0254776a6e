"""LoRA on the embedding, against PEFT."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.infer.generate import answer
from domainwright.infer.likelihood import Request, score
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from domainwright.studies.api import load_run, train_method
from domainwright.studies.combine import combine_runs
from domainwright.studies.export import export
from domainwright.train.loss import summed_loss
from tests.methods.test_lora import moved, peft_logits
from tests.methods.test_method_contract import build, logits, step
from tests.studies.world import save_base, study_file
from tests.tiny import documents, own_logits, tiny_base, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
DOCS = documents((9, 4, 13))
UNTIED = {"tie_word_embeddings": False}
TARGETS = ("all-linear", "embedding")
KINDS = [
    ("llama", {}, "model.embed_tokens"),
    ("llama", UNTIED, "embed_tokens"),
    ("gpt2", {}, "wte"),
    ("gemma2", {"tie_word_embeddings": True}, "embedding"),
]


@pytest.mark.parametrize(("family", "changes", "name"), KINDS, ids=str)
def test_logits_gradients_and_folders_are_pefts(family, changes, name, tmp_path):
    base = tiny_base(family, **changes)
    settings = {"rank": 3, "alpha": 6.0, "rank_pattern": {"embed_tokens|wte|embeddings": 2}}
    adapter = moved(build(base, "lora", targets=("all-linear", name), **settings))
    assert adapter.embedding_A.shape == (2, 320) and adapter.embedding_B.shape == (32, 2)
    adapter.save(tmp_path / "ours")
    with adapter.attached():
        ours = logits(base)
        flat = flatten(DOCS)
        rows_N = torch.cat([torch.arange(d.start, d.stop - 1) for d in flat.documents()])
        labels_N = flat.ids_T[rows_N + 1]
        mine = [adapter.embedding_A, adapter.embedding_B, *adapter.A, *adapter.B]
        got = torch.autograd.grad(summed_loss(base, flat, rows_N, labels_N), mine)
    model = peft.PeftModel.from_pretrained(
        tiny_model(family, **changes), tmp_path / "ours", is_trainable=True
    )
    want = peft_logits(model.eval())
    torch.testing.assert_close(ours, want, rtol=0, atol=2e-4)
    nn.functional.cross_entropy(want[rows_N], labels_N, reduction="sum").backward()
    theirs = {n.removeprefix("base_model.model."): p.grad for n, p in model.named_parameters()}
    path = adapter.embedding.path
    names = [f"{path}.lora_embedding_{x}.default" for x in "AB"]
    names += [f"{x.path}.lora_{side}.default.weight" for side in "AB" for x in adapter.layers]
    for grad, key in zip(got, names, strict=True):
        limit = 5e-5 * float(theirs[key].abs().max())
        torch.testing.assert_close(grad, theirs[key], rtol=0, atol=limit)
    # PEFT writes the whole table with it; ours is without, and both are read.
    for whole in (True, False):
        folder = tmp_path / f"theirs-{whole}"
        model.save_pretrained(folder, save_embedding_layers=whole)
        tensors = load_file(folder / "adapter_model.safetensors")
        assert any("base_layer" in key for key in tensors) == whole
        again = METHODS.get("lora").load(base, folder)
        assert again.embedding.path == path
        with again.attached():
            torch.testing.assert_close(logits(base), ours, rtol=0, atol=1e-6)
    assert tensors.keys() == load_file(tmp_path / "ours/adapter_model.safetensors").keys()
    back = METHODS.get("lora").load(base, tmp_path / "ours")
    with back.attached():
        assert torch.equal(logits(base), ours)


def test_it_starts_as_peft_does():
    adapter = build(tiny_base(), "lora", targets=TARGETS, rank=64)
    assert not adapter.embedding_A.any()
    assert adapter.embedding_B.detach().std() == pytest.approx(1, abs=0.05)
    other = build(tiny_base(), "lora", targets=TARGETS, rank=64, seed=1)
    assert not torch.equal(adapter.embedding_B, other.embedding_B)
    alone = build(tiny_base(), "lora", targets=("embedding",), rank=2)
    assert alone.trainable == 2 * (320 + 32) and not alone.layers


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("changes", [{}, UNTIED], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_its_life_on_a_base(method, changes, dtype):
    base = tiny_base("llama", dtype, **changes)
    frozen = {k: v.clone() for k, v in base.model.state_dict().items()}
    before = logits(base)
    adapter = build(base, method, targets=TARGETS)
    plain = build(base, method)
    with plain.attached(), torch.no_grad():
        bare = logits(base)
    adapter.attach()
    with torch.no_grad():
        assert torch.equal(logits(base), bare)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    moved(adapter)
    want = logits(base)
    with base.hooks.disabled():
        assert torch.equal(logits(base), before)
    # Codes that own a part of a batch are added as a change: another rounding.
    limit = (1e-4 if dtype == torch.float32 else 0.3) if method == "qlora" else 0.0
    with base.hooks.owning({adapter: slice(0, 26)}):
        torch.testing.assert_close(logits(base), want, rtol=0, atol=limit)
    with pytest.raises(CapabilityError, match="same weights"):
        build(base, method, targets=("embedding",)).attach()
    adapter.detach()
    assert torch.equal(logits(base), before)
    assert all(torch.equal(v, frozen[k]) for k, v in base.model.state_dict().items())
    assert adapter.unties == (not changes) and not adapter.shares_batch and not plain.unties


@torch.no_grad()
def test_answers_and_likelihoods():
    base = tiny_base()
    adapter = moved(build(base, "lora", targets=TARGETS))
    with adapter.attached():
        got = answer(base, DOCS, new_tokens=5)
        said = score(base, [Request(d, [5, 9]) for d in DOCS])
        for found, prompt in zip(got, DOCS, strict=True):
            ids = list(prompt)
            for _ in range(len(found.ids)):
                ids.append(int(own_logits(base.model, ids)[-1].argmax()))
            assert found.ids == ids[len(prompt) :]
        for likelihood, prompt in zip(said, DOCS, strict=True):
            rows = own_logits(base.model, [*prompt, 5])[-2:].log_softmax(1)
            own = float(rows[0, 5] + rows[1, 9])
            assert likelihood.log_probability == pytest.approx(own, abs=1e-3)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_is_trained_opened_and_merged(method, tmp_path):
    """The base is tied: merged, its head has a weight of its own, as transformers loads it."""
    base = save_base(tmp_path / "base")
    settings = {method: {"targets": ["all-linear", "embed_tokens"]}}
    study = study_file(tmp_path / "study", base, methods=settings)
    train_method(study, method, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.base.hooks.tied and run.adapter.embedding_A.any()
    ids = DOCS[0]
    with run.adapter.attached(), torch.no_grad():
        want = run.base.logits(flatten([ids]), torch.arange(len(ids)))
    export(tmp_path / "run", tmp_path / "merged", "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert not model.config.tie_word_embeddings
    torch.testing.assert_close(own_logits(model, ids), want, rtol=0, atol=3e-4)
    train_method(study, method, tmp_path / "other", overrides=["seed=1"])
    if method == "lora":
        with pytest.raises(ConfigError, match=r"lora\.targets. cannot be combined"):
            combine_runs([tmp_path / "run", tmp_path / "other"], tmp_path / "both")
        with pytest.raises(ConfigError, match="no part of a sum"):
            build(run.base, "lora", past=(str(tmp_path / "run"),))


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("dora", {}, "this method"),
        ("lora", {"start": "pissa"}, "start: pissa"),
        ("lora", {"start": "eva"}, "start: eva"),
        ("lora", {"tokens": (" the",)}, "lora.tokens"),
        ("lora", {"new_tokens": ("metformin",)}, "lora.new_tokens"),
    ],
    ids=str,
)
def test_what_it_does_not_go_with(method, settings, said):
    with pytest.raises(ConfigError, match=f"does not go with {said}"):
        build(tiny_base(), method, targets=TARGETS, **settings)


def test_a_whole_table_that_was_trained_is_refused(tmp_path):
    model = peft.get_peft_model(
        tiny_model("llama"), peft.LoraConfig(target_modules=["embed_tokens", "q_proj"])
    )
    with torch.no_grad():
        model.get_input_embeddings().base_layer.weight[7] += 1
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(DataError, match="all of it was trained"):
        METHODS.get("lora").load(tiny_base(), tmp_path)


def test_a_turned_embedding_is_refused(tmp_path):
    """PEFT has DoRA there; ours computes it on linear layers alone."""
    config = peft.LoraConfig(target_modules=["embed_tokens", "q_proj"], use_dora=True)
    peft.get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises((ConfigError, DataError), match="embed_tokens"):
        METHODS.get("dora").load(tiny_base(), tmp_path)


def test_the_padding_token_learns_nothing_in_a():
    """As in PEFT and in the embedding itself."""
    base = tiny_base("qwen2")
    adapter = moved(build(base, "lora", targets=("embedding",)))
    assert adapter.embedding.module.padding_idx == 1
    with adapter.attached():
        out = base.model.get_input_embeddings()(torch.tensor([[1, 4]]))
        (pull,) = torch.autograd.grad(out.sum(), [adapter.embedding_A])
    assert not pull[:, 1].any() and pull[:, 4].all()
