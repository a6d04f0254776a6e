"""Learned rows of the embedding beside LoRA, against PEFT's `trainable_token_indices`."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.infer.generate import answer
from domainwright.infer.likelihood import Request, score
from domainwright.methods import METHODS
from domainwright.methods._head import HeadedAdapter
from domainwright.methods._head import load as load_headed
from domainwright.models.base import load_base
from domainwright.models.flat import flatten
from domainwright.models.lesson import Lesson
from domainwright.models.token_rows import TokenRows
from domainwright.train.loss import batch_of, losses_of_rows, summed_loss
from domainwright.train.recompute import recomputed
from domainwright.train.shaped import Shape, shaped_batch, shaped_loss
from tests.methods.test_lora import moved
from tests.methods.test_method_contract import build, logits, step
from tests.tiny import (
    CONFIGS,
    documents,
    own_logits,
    tiny_base,
    tiny_folder,
    tiny_model,
    tiny_tokenizer,
    train_rows,
)

WORDS = ("the", " morning", "?", " q")
"""Of the tiny tokenizer: "the" is a token alone and after a space; " q" is one of the letters."""
DOCS = documents((9, 4, 13))


def words_of(count=3):
    """Words that are one token, and that occur in DOCS."""
    tokenizer = tiny_tokenizer()
    found = []
    for token in dict.fromkeys(t for d in DOCS for t in d):
        word = tokenizer.decode([token])
        own = [tokenizer(f, add_special_tokens=False).input_ids for f in (word, " " + word)]
        if own[0] == [token] and word.strip() and (word[0] == " " or len(own[1]) != 1):
            found.append(word)
    return tuple(found[:count])


@pytest.fixture
def words():
    found = words_of()
    assert len(found) == 3
    return found


def peft_of(family, folder, **changes):
    return peft.PeftModel.from_pretrained(
        tiny_model(family, **changes), folder, is_trainable=True
    ).eval()


def peft_logits(model):
    return torch.cat([own_logits(model, ids) for ids in DOCS])


def generic(base):
    base.trunk = None
    return base


TIED = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": False}),
    ("qwen2", {}),
    ("gemma", {"tie_word_embeddings": True}),
    ("gemma2", {"tie_word_embeddings": True}),
    ("gpt2", {}),
    ("mistral", {"tie_word_embeddings": True}),
    ("phi", {}),
]


@pytest.mark.parametrize(("family", "changes"), TIED, ids=str)
def test_logits_and_gradients_are_pefts(family, changes, tmp_path, words):
    base = tiny_base(family, **changes)
    adapter = moved(build(base, "lora", rank=3, tokens=words))
    assert adapter.token_rows.shape == (3, 32)
    adapter.save(tmp_path)
    # In float64: what is compared is then our rounding alone.
    model = peft_of(family, tmp_path, **changes).double()
    adapter.attach()
    want = peft_logits(model)
    torch.testing.assert_close(logits(base).double(), want, rtol=0, atol=1e-4)
    flat = flatten(DOCS)
    rows_N = torch.cat([torch.arange(d.start, d.stop - 1) for d in flat.documents()])
    nn.functional.cross_entropy(want[rows_N], flat.ids_T[rows_N + 1], reduction="sum").backward()
    theirs = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    path = next(s.path for s in base.hooks.at("embedding"))
    names = [f"base_model.model.{path}.token_adapter.trainable_tokens_delta.default"]
    wanted = [theirs[names[0]]]
    for side, own in (("A", adapter.A), ("B", adapter.B)):
        assert len(own) == len(adapter.layers)
        wanted += [
            theirs[f"base_model.model.{x.path}.lora_{side}.default.weight"] for x in adapter.layers
        ]
    assert len(theirs) == len(wanted)
    ours = [adapter.token_rows, *adapter.A, *adapter.B]
    shape = Shape(smoothing=0.0)
    from_head = base.hooks.tied
    assert from_head == bool(base.model.config.tie_word_embeddings)
    for way in ("fused", "recomputed", "shaped", "generic"):
        if way == "generic":
            generic(base)
        if way == "recomputed":
            with recomputed(base):
                loss = summed_loss(base, flat, rows_N, flat.ids_T[rows_N + 1])
                got = torch.autograd.grad(loss, ours)
        elif way == "shaped":
            asked = shaped_batch(base, train_rows((9, 4, 13), prompt=1), 1, 0.0, apart=False)
            loss, _ = shaped_loss(base, asked, shape)
            got = torch.autograd.grad(loss, ours)
        else:
            loss = summed_loss(base, flat, rows_N, flat.ids_T[rows_N + 1])
            got = torch.autograd.grad(loss, ours)
        for mine, other in zip(got, wanted, strict=True):
            limit = 2e-5 * float(other.abs().max())
            torch.testing.assert_close(
                mine.double(), other, rtol=0, atol=limit, msg=lambda m, way=way: f"{way}: {m}"
            )


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}], ids=str)
def test_every_loss_pulls_on_a_tied_heads_rows(changes, words):
    """By hand in the loss heads, and by autograd through all logits: the same gradient."""
    base = tiny_base(**changes)
    adapter = moved(build(base, "lora", tokens=words))
    adapter.attach()
    rows = train_rows((9, 4, 13), prompt=3)
    source = torch.Generator().manual_seed(4)
    lesson = Lesson(
        torch.stack([torch.randperm(320, generator=source)[:5] for _ in range(17)]),
        torch.full((17, 5), 0.15).log(),
        torch.full((17,), 0.25).log(),
        0.5,
        2.0,
    )
    shape = Shape(smoothing=0.1, anchor=0.5, agreement=0.3)
    found = []
    for product in (True, False):
        base.plain_head = product
        flat, sources_N, labels_N, *_ = batch_of(base, rows)
        assert len(labels_N) == 17
        asked = shaped_batch(base, rows, shape.copies, 0.3, apart=True)
        losses = [
            summed_loss(base, flat, sources_N, labels_N),
            summed_loss(base, flat, sources_N, labels_N, lesson),
            shaped_loss(base, asked, shape)[0],
        ]
        found.append([torch.autograd.grad(x, list(adapter.parameters())) for x in losses])
    for by_hand, by_autograd in zip(*found, strict=True):
        for a, b in zip(by_hand, by_autograd, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * float(b.abs().max()) + 1e-7)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_the_fused_trunk_carries_them(family, words):
    base = tiny_base(family)
    assert base.trunk is not None
    # Only the upper block is adapted: the gradient still has to reach the embedding.
    adapter = build(base, "lora", targets=("model.layers.1.mlp.up_proj",), tokens=words)
    moved(adapter).attach()
    read = base.trunk.hidden(flatten(DOCS), None)
    assert read is not None and read.requires_grad
    flat = flatten(DOCS)
    chosen = torch.arange(flat.tokens)
    up = torch.randn(read.shape, generator=torch.Generator().manual_seed(0))
    got = torch.autograd.grad((base.hidden(flat, chosen) * up).sum(), list(adapter.parameters()))
    generic(base)
    want = torch.autograd.grad((base.hidden(flat, chosen) * up).sum(), list(adapter.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_their_life_on_a_base(method, tied, dtype, words):
    base = tiny_base("llama", dtype, tie_word_embeddings=tied)
    frozen = {k: v.clone() for k, v in base.model.state_dict().items()}
    before = logits(base)
    plain = build(base, method)
    with plain.attached(), torch.no_grad():
        bare = logits(base)
    adapter = build(base, method, tokens=words)
    assert adapter.trainable == plain.trainable + 3 * 32
    adapter.attach()
    with torch.no_grad():
        # A row that starts as the base's own is the base's own, bit for bit.
        assert torch.equal(logits(base), bare)
    assert step(base, adapter) == {n for n, _ in adapter.named_parameters()}
    adapted = logits(base)
    with base.hooks.disabled():
        assert torch.equal(logits(base), before)
    merged = dict(adapter.merged_parameters())
    adapter.detach()
    assert torch.equal(logits(base), before)
    assert all(torch.equal(v, frozen[k]) for k, v in base.model.state_dict().items())
    assert type(base.model.get_input_embeddings()) is nn.Embedding
    # Merged: the table differs in these rows alone, and the logits are the adapter's.
    (table,) = [v for k, v in merged.items() if "embed" in k]
    moved = (table != frozen["model.embed_tokens.weight"]).any(1).nonzero()[:, 0].tolist()
    assert moved == sorted(adapter.token_ids)
    for path, weight in merged.items():
        base.model.get_parameter(path).copy_(weight)
    error = (logits(base) - adapted).float().norm() / adapted.float().norm()
    assert error <= METHODS.get(method).merge_rtol[dtype]


def test_only_their_rows_learn_and_reading_makes_no_second_table(words):
    base = tiny_base()
    adapter = build(base, "lora", tokens=words)
    adapter.attach()
    head = base.model.get_output_embeddings()
    with torch.no_grad():
        first = head.weight
        assert head.weight.data_ptr() == first.data_ptr()
        adapter.token_rows.add_(1.0)
        assert head.weight.data_ptr() == first.data_ptr()
        assert torch.equal(head.weight[list(adapter.token_ids)], adapter.token_rows)
        # Whatever changes them, even what autograd does not count.
        adapter.token_rows.data.mul_(2)
        assert torch.equal(head.weight[list(adapter.token_ids)], adapter.token_rows)
    assert not base.hooks.beyond_linears and base.plain_head
    assert base.model.get_input_embeddings().weight is base.model.model.embed_tokens.weight
    assert "weight" not in vars(type(base.model.model.norm))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2", "mamba"])
@torch.no_grad()
def test_answers_and_likelihoods(family, words):
    base = tiny_base(family)
    adapter = moved(build(base, "lora", tokens=words))
    adapter.attach()
    got = answer(base, DOCS, new_tokens=6, references=[[5, 6], [7], [8, 9]])
    want = []
    for prompt in DOCS:
        ids = list(prompt)
        for _ in range(6):
            token = int(own_logits(base.model, ids)[-1].argmax())
            if token in base.template.stops:
                break
            ids.append(token)
        want.append(ids[len(prompt) :])
    assert [a.ids for a in got] == want
    said = score(base, [Request(d, [5, adapter.token_ids[0]]) for d in DOCS])
    for likelihood, prompt in zip(said, DOCS, strict=True):
        rows = own_logits(base.model, [*prompt, 5])[-2:].log_softmax(1)
        own = rows[0, 5] + rows[1, adapter.token_ids[0]]
        assert likelihood.log_probability == pytest.approx(float(own), abs=1e-3)
    rows = train_rows((9, 4, 13))
    for loss, row in zip(losses_of_rows(base, rows, 100), rows, strict=True):
        own = own_logits(base.model, row.ids).log_softmax(1)
        wanted = -sum(float(own[i - 1, row.ids[i]]) for i in range(2, len(row.ids)))
        assert loss == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize(("family", "changes"), TIED[:3] + TIED[5:6], ids=str)
def test_folders_both_ways(method, family, changes, tmp_path, words):
    base = tiny_base(family, **changes)
    adapter = moved(build(base, method, rank=4, alpha=6.0, tokens=words))
    adapter.save(tmp_path / "ours")
    adapter.attach()
    want = logits(base)
    adapter.detach()
    # Ours again, by our own notes.
    again = METHODS.get(method).load(base, tmp_path / "ours")
    assert again.settings.tokens == words and again.token_ids == adapter.token_ids
    with again.attached():
        assert torch.equal(logits(base), want)
    # PEFT reads it and writes it, and we read that.
    model = peft_of(family, tmp_path / "ours", **changes)
    torch.testing.assert_close(peft_logits(model), want, rtol=0, atol=2e-4)
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    ours, theirs = (
        load_file(tmp_path / x / "adapter_model.safetensors") for x in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys()
    back = METHODS.get(method).load(base, tmp_path / "theirs")
    assert back.token_ids == adapter.token_ids and len(back.settings.tokens) == 3
    with back.attached():
        torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-6)


def peft_folder(folder, indices, family="llama", **changes):
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=indices
    )
    model = peft.get_peft_model(tiny_model(family, **changes), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=_SOURCE))
    model.save_pretrained(folder)
    return model


_SOURCE = torch.Generator().manual_seed(3)


@pytest.mark.parametrize(
    ("indices", "changes"),
    [
        ([7, 5, 300], {}),
        ({"embed_tokens": [7, 5]}, {}),
        ({"model.embed_tokens": [7]}, {"tie_word_embeddings": False}),
        ({"embed_tokens": [9, 5], "lm_head": [9, 5]}, {}),
        ({"embed_tokens": [5], "lm_head": [6, 300]}, {"tie_word_embeddings": False}),
        ({"embed_tokens": [5, 9], "lm_head": [5]}, {"tie_word_embeddings": False}),
    ],
    ids=str,
)
def test_a_folder_that_peft_began(indices, changes, tmp_path):
    model = peft_folder(tmp_path, indices, **changes)
    base = tiny_base(**changes)
    adapter = METHODS.get("lora").load(base, tmp_path)
    adapter.attach()
    torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-4)


def test_rows_of_a_head_alone_are_refused(tmp_path):
    peft_folder(tmp_path, {"lm_head": [5]}, tie_word_embeddings=False)
    with pytest.raises(DataError, match=r"token rows of .*lm_head"):
        METHODS.get("lora").load(tiny_base(tie_word_embeddings=False), tmp_path)


def test_a_word_is_what_it_is_alone_and_after_a_space():
    base = tiny_base()
    name = METHODS.get("lora")
    alone = base.tokenizer("the", add_special_tokens=False).input_ids
    spaced = base.tokenizer(" the", add_special_tokens=False).input_ids
    assert len(spaced) == 1
    both = name.build(base, name.Settings(tokens=("the",)), 0).token_ids
    assert both == tuple(dict.fromkeys([*(alone if len(alone) == 1 else []), *spaced]))
    assert name.build(base, name.Settings(tokens=(" the",)), 0).token_ids == tuple(spaced)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ((), "names no word"),
        (("the", " "), "empty word"),
        (("the", "the"), "twice"),
        (("the", " the"), "name the same token"),
        (("warfarin mg",), "no token of tiny-llama but"),
        (("☃☃",), "no token of tiny-llama but"),
    ],
    ids=str,
)
def test_what_a_user_can_type_wrongly(tokens, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build(tiny_base(), "lora", tokens=tokens)
    assert "lora.tokens" in caught.value.cause
    if "no token" in said:
        assert "new_tokens" in caught.value.fix


def test_a_widened_base_learns_its_new_words(tmp_path):
    """One that its user widened for good."""
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    tokenizer.add_tokens([*(f"<{n}>" for n in range(20)), "mg/kg"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), dtype="float32")
    adapter = build(base, "lora", tokens=("<7>", "mg/kg"))
    assert adapter.token_ids == tuple(tokenizer.convert_tokens_to_ids(["<7>", "mg/kg"]))
    assert len(base.tokenizer("5 mg/kg", add_special_tokens=False).input_ids) == 3
    adapter.attach()
    assert "token_rows" in step(base, adapter)
    # A tokenizer that knows more words than the embedding has rows.
    with pytest.raises(ConfigError, match="has 320 rows"):
        build(tiny_base(tokenizer=tokenizer), "lora", tokens=("<19>",))


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}], ids=str)
def test_beside_a_head_for_labels(changes, words, tmp_path):
    base = tiny_base(**changes)
    inner = moved(build(base, "lora", tokens=words))
    adapter = HeadedAdapter(inner, "classification", ["a", "b"])
    assert adapter.trainable == inner.trainable + 2 * 32
    with torch.no_grad():
        adapter.head.weight.normal_(0, 1)
    adapter.save(tmp_path)
    flat, last = flatten([DOCS[0]]), torch.tensor([len(DOCS[0]) - 1])
    with adapter.attached():
        want = adapter.head(base.hidden(flat, last))
        with base.hooks.disabled():
            assert not torch.allclose(adapter.head(base.hidden(flat, last)), want)
    again = load_headed(base, tmp_path)
    with again.attached():
        assert torch.equal(again.head(base.hidden(flat, last)), want)


def test_what_they_cannot_stand_beside(words, tmp_path):
    base = tiny_base()
    first, second = (build(base, "lora", tokens=words) for _ in range(2))
    with first.attached():
        with pytest.raises(CapabilityError, match="same weights"):
            second.attach()
        with pytest.raises(CapabilityError, match="same weights"):
            build(base, "full").attach()
        other = build(base, "lora")
        with other.attached():
            assert other.shares_batch and not first.shares_batch
            with pytest.raises(CapabilityError, match="share a flat batch"):
                base.hidden_of_each([first, other], flatten(DOCS), torch.arange(4))
        flat = flatten(DOCS)
        with base.hooks.owning({first: slice(0, flat.tokens)}):
            base.hidden(flat)
    with second.attached():  # nothing of the refused attempts stayed behind
        logits(base)
    first.save(tmp_path)
    with pytest.raises(ConfigError, match="learned rows of the embedding"):
        build(base, "lora", past=(str(tmp_path),))


def test_a_base_without_a_plain_embedding_is_refused(words, monkeypatch):
    base = tiny_base()
    monkeypatch.setattr(base.hooks, "sites", [])
    with pytest.raises(CapabilityError, match="no embedding with full weights"):
        build(base, "lora", tokens=words)


def test_beside_a_past_and_with_another_start(words, tmp_path):
    base = tiny_base()
    moved(build(base, "lora", rank=2)).save(tmp_path / "first")
    for number, settings in enumerate(({"past": (str(tmp_path / "first"),)}, {"start": "pissa"})):
        folder = tmp_path / str(number)
        adapter = moved(build(base, "lora", rank=3, tokens=words, **settings))
        adapter.save(folder)
        with adapter.attached():
            want = logits(base)
        with METHODS.get("lora").load(base, folder).attached():
            torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
        model = peft_of("llama", folder)
        torch.testing.assert_close(peft_logits(model), want, rtol=0, atol=2e-4)


def test_a_tied_head_that_is_no_longer_the_same_is_refused(words):
    base = tiny_base()
    head = base.model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
    with pytest.raises(CapabilityError, match="weight of its own"):
        build(base, "lora", tokens=words)


def test_an_embedding_of_codes_is_refused(words):
    base = tiny_base()
    embedding = base.model.get_input_embeddings()
    embedding.weight = nn.Parameter(embedding.weight.to(torch.uint8), requires_grad=False)
    with pytest.raises(CapabilityError, match="no embedding with full weights"):
        build(base, "lora", tokens=words)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_on_a_base_in_four_bits(method, words, tmp_path):
    """Its blocks hold codes; the embedding and the head are whole."""
    base = load_base(str(tiny_folder(tmp_path / "base")), dtype="float32", quantise="nf4")
    before = logits(base)
    adapter = build(base, method, tokens=words)
    with adapter.attached():
        assert torch.equal(logits(base), before)
        assert "token_rows" in step(base, adapter)
        want = logits(base)
    assert torch.equal(logits(base), before) and (want - before).abs().max() > 1e-3
    adapter.save(tmp_path / "adapter")
    with METHODS.get(method).load(base, tmp_path / "adapter").attached():
        assert torch.equal(logits(base), want)


def test_a_padding_row_learns_nothing_where_it_is_read(tmp_path):
    """As in PEFT and in the embedding itself; a tied head still moves it."""
    base = tiny_base("qwen2")
    (site,) = base.hooks.at("embedding")
    assert site.module.padding_idx == 1
    values = nn.Parameter(site.module.weight[[1, 4]].clone())
    rows = TokenRows(site.module, [1, 4], values)
    out = rows.embedded(torch.tensor([[1, 4, 5]]), site.module(torch.tensor([[1, 4, 5]])))
    (pull,) = torch.autograd.grad(out.sum(), [values])
    assert pull[0].abs().sum() == 0 and pull[1].abs().sum() > 0


def test_settings_are_written_where_a_run_keeps_them(words, tmp_path):
    adapter = build(tiny_base(), "lora", tokens=words)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] == list(adapter.token_ids)
    plain = build(tiny_base(), "lora")
    plain.save(tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "adapter_config.json").read_text())
    assert "trainable_token_indices" not in config


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_finds_its_embedding(family):
    base = tiny_base(family)
    (site,) = base.hooks.at("embedding")
    assert site.module is base.model.get_input_embeddings() and site.block is None
    assert base.hooks.tied == bool(base.model.config.tie_word_embeddings)
    adapter = build(base, "lora", tokens=words_of())
    before = logits(base)
    with adapter.attached():
        assert torch.equal(logits(base), before)
        assert "token_rows" in step(base, adapter)
        with base.hooks.disabled():
            assert torch.equal(logits(base), before)
    assert torch.equal(logits(base), before)
