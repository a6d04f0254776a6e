"""Words that become tokens with an adapter, against transformers' and PEFT's own resizing."""

import copy
import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.core.records import Message
from domainwright.infer.generate import answer
from domainwright.infer.likelihood import Request, score
from domainwright.methods import METHODS
from domainwright.methods._head import HeadedAdapter
from domainwright.methods._head import load as load_headed
from domainwright.models.base import load_base
from domainwright.models.flat import flatten
from domainwright.models.forms import TrainRow, encode_rows
from domainwright.train.loss import summed_loss
from domainwright.train.shaped import Shape, shaped_batch, shaped_loss
from tests.methods.test_lora import moved
from tests.methods.test_method_contract import build, logits
from tests.tiny import (
    chat,
    own_logits,
    tiny_base,
    tiny_model,
    tiny_tokenizer,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
WORDS = ("metformin", "§ 823", " Müller")
FORMS = ("metformin", " metformin", "§ 823", " § 823", " Müller")
TEXT = "take metformin with water, Müller says so in § 823 and metformin."
UNTIED = {"tie_word_embeddings": False}
NARROW = {"vocab_size": 310}
"""As many rows as the tiny tokenizer has tokens; by default there are ten more."""
KINDS = [
    ("llama", {}),
    ("llama", NARROW),
    ("llama", NARROW | UNTIED),
    ("gpt2", NARROW),
    ("gemma", NARROW | {"tie_word_embeddings": True}),
    ("mistral", UNTIED | {"vocab_size": 312}),
]
"""With all new rows within the table, with none there, and with some."""


def widened(family, **changes):
    """(model, tokenizer) as transformers widens them, and the rows by hand."""
    plain, tokenizer = tiny_tokenizer(), tiny_tokenizer()
    assert tokenizer.add_tokens([AddedToken(f, normalized=False) for f in FORMS]) == len(FORMS)
    model = tiny_model(family, **changes)
    pieces = [plain(form, add_special_tokens=False).input_ids for form in FORMS]

    def tables():
        both = (model.get_output_embeddings(), model.get_input_embeddings())
        return {id(m.weight): m for m in both}.values()

    rows = [[m.weight[p].mean(0) for p in pieces] for m in tables()]
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for module, values in zip(tables(), rows, strict=True):
            for token, row in enumerate(values, start=310):
                module.weight[token] = row
    return model, tokenizer


def ids_of(base):
    return base.tokenizer(TEXT, add_special_tokens=False).input_ids


def read(base, ids):
    flat = flatten([ids])
    return base.logits(flat, torch.arange(len(ids)))


@pytest.mark.parametrize(("family", "changes"), KINDS, ids=str)
@pytest.mark.parametrize("trunk", [True, False], ids=["fused", "generic"])
def test_the_start_and_the_gradients_are_those_of_a_resized_model(family, changes, trunk):
    base = tiny_base(family, **changes)
    if not trunk:
        base.trunk = None
    model, tokenizer = widened(family, **changes)
    adapter = build(base, "lora", new_tokens=WORDS)
    assert adapter.words.texts == FORMS and adapter.token_ids == tuple(range(310, 315))
    tied = base.hooks.tied
    assert adapter.head_ids == (() if tied else adapter.token_ids)
    bare = build(tiny_base(family, **changes), "lora").trainable
    assert adapter.trainable == bare + (1 if tied else 2) * 5 * 32
    adapter.attach()
    ids = ids_of(base)
    assert ids == tokenizer(TEXT, add_special_tokens=False).input_ids
    assert set(ids) >= {311, 313, 314}
    want = own_logits(model, ids)
    got = read(base, ids)
    assert got.shape == want.shape == (len(ids), max(315, changes.get("vocab_size", 320)))
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    # With what the adapter adds at zero, its rows have the gradient of the model's own.
    model.requires_grad_(True)
    nn.functional.cross_entropy(
        own_logits(model, ids)[:-1], torch.tensor(ids[1:]), reduction="sum"
    ).backward()
    flat, rows_N = flatten([ids]), torch.arange(len(ids) - 1)
    labels_N = flat.ids_T[1:]
    asked = shaped_batch(base, [row_of(ids)], 1, 0.0, apart=False)
    losses = [
        summed_loss(base, flat, rows_N, labels_N),
        shaped_loss(base, asked, Shape(smoothing=0.0))[0],
    ]
    ours = [x for x in (adapter.token_rows, adapter.head_rows) if x is not None]
    theirs = [model.get_input_embeddings(), *([] if tied else [model.get_output_embeddings()])]
    for loss in losses:
        for mine, module in zip(torch.autograd.grad(loss, ours), theirs, strict=True):
            other = module.weight.grad[310:315]
            limit = 3e-5 * float(other.abs().max())
            torch.testing.assert_close(mine, other, rtol=0, atol=limit)


def row_of(ids):
    return TrainRow("row", ids, [True] * len(ids))


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
@pytest.mark.parametrize(("family", "changes"), KINDS[1:4], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_base_is_itself_again(method, family, changes, dtype):
    base = tiny_base(family, dtype, **changes)
    tokenizer, template = base.tokenizer, base.template
    kept = {k: (v, v.clone()) for k, v in base.model.state_dict(keep_vars=True).items()}
    vocabulary, size = base.vocabulary, base.parameters
    words, before = tokenizer.get_vocab(), logits(base)
    tied, plain_ids = base.hooks.tied, ids_of(base)
    adapter = build(base, method, new_tokens=WORDS)
    for _ in range(2):
        assert len(base.tokenizer) == 310
        adapter.attach()
        assert base.vocabulary == 315 and len(base.tokenizer) == 315
        assert base.template.tokenizer is base.tokenizer and base.hooks.tied == tied
        assert len(ids_of(base)) < len(plain_ids)
        # Both moved and read, by every way of reading.
        assert step_on(base, adapter) == {n for n, _ in adapter.named_parameters()}
        adapter.detach()
        assert base.tokenizer is tokenizer and base.template is template
        assert tokenizer.get_vocab() == words and ids_of(base) == plain_ids
        assert (base.vocabulary, base.parameters) == (vocabulary, size)
        assert base.words is None and base.hooks.tied == tied
        assert torch.equal(logits(base), before)
        now = base.model.state_dict(keep_vars=True)
        assert now.keys() == kept.keys()
        for name, (own, value) in kept.items():
            assert now[name] is own and torch.equal(own, value)
    assert base.model.get_input_embeddings().num_embeddings == 310
    assert base.model.get_output_embeddings().out_features == 310


def step_on(base, adapter):
    """Two steps on the text; which tensors moved."""
    start = {n: p.detach().clone() for n, p in adapter.named_parameters()}
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    ids = ids_of(base)
    flat, rows_N = flatten([ids]), torch.arange(len(ids) - 1)
    for _ in range(2):
        optimiser.zero_grad()
        summed_loss(base, flat, rows_N, flat.ids_T[1:]).backward()
        optimiser.step()
    return {n for n, p in adapter.named_parameters() if not torch.equal(p, start[n])}


def test_inside_disabled_the_words_are_there_as_they_began():
    """What a run compares itself with reads the same tokens."""
    base = tiny_base("llama", **NARROW)
    adapter = moved(build(base, "lora", new_tokens=WORDS))
    with adapter.speaking():
        ids = ids_of(base)
        start = read(base, ids)
        with adapter.attached():
            assert not torch.allclose(read(base, ids), start)
            with base.hooks.disabled():
                assert torch.equal(read(base, ids), start)
        assert torch.equal(read(base, ids), start)
    model, _ = widened("llama", **NARROW)
    torch.testing.assert_close(start, own_logits(model, ids), rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize(("family", "changes"), KINDS, ids=str)
def test_peft_reads_the_folder(method, family, changes, tmp_path):
    model = tiny_model(family, **changes)
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), dtype="float32")
    adapter = moved(build(base, method, rank=4, alpha=6.0, tokens=(" the",), new_tokens=WORDS))
    adapter.save(tmp_path / "ours")
    assert adapter.token_ids[1:] == tuple(range(310, 315))
    with adapter.attached():
        ids = ids_of(base)
        want = read(base, ids)
    with METHODS.get(method).load(base, tmp_path / "ours").attached():
        assert ids_of(base) == ids and torch.equal(read(base, ids), want)
    # By hand, and by PEFT's own loader, which finds the base by its name and widens it.
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "ours" / "adapter_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    by_hand = peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32
    ).eval()
    assert tokenizer(TEXT, add_special_tokens=False).input_ids == ids
    for found in (by_hand, theirs):
        got = found(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    # What PEFT writes of it, with the tables that it adds where the base was widened.
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    back = METHODS.get(method).load(base, tmp_path / "theirs")
    assert (back.token_ids, back.head_ids) == (adapter.token_ids, adapter.head_ids)
    assert back.settings.new_tokens == FORMS
    with back.attached():
        torch.testing.assert_close(read(base, ids), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tables", ["list", "both"])
@pytest.mark.parametrize("changes", [{}, UNTIED, NARROW, NARROW | UNTIED], ids=str)
def test_a_folder_that_peft_began(tables, changes, tmp_path):
    tiny_model("llama", **changes).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["metformin"])
    tokenizer.add_tokens(["<tool>"], special_tokens=True)
    if changes.get("vocab_size"):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = [310, 311]
    indices = [5, *new] if tables == "list" else {"embed_tokens": [5, *new], "lm_head": new}
    if tables == "both" and changes.get("tie_word_embeddings", True):
        indices["lm_head"] = [5, *new]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=indices
    )
    model = peft.get_peft_model(model, config).eval()
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=source))
        if not changes.get("tie_word_embeddings", True) and tables == "list":
            # An untied head's new rows are trained by nobody: PEFT leaves them as drawn.
            model.get_output_embeddings().weight[310:312] = 0.0
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    base = load_base(str(tmp_path / "base"), dtype="float32")
    adapter = METHODS.get("lora").load(base, tmp_path / "adapter")
    assert adapter.words.texts == ("metformin", "<tool>")
    with adapter.attached():
        ids = base.tokenizer("<tool> take metformin, <tool>").input_ids
        assert {310, 311} <= set(ids)
        got = read(base, ids)
    want = model(input_ids=torch.tensor([ids])).logits[0]
    kept = 310 if tables == "list" and "tie_word_embeddings" in changes else None
    torch.testing.assert_close(got[:, :kept], want[:, :kept], rtol=0, atol=1e-4)


def test_a_new_process_gives_the_same_logits(tmp_path):
    tiny_model("llama", **NARROW).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    base = load_base(str(tmp_path / "base"), dtype="float32")
    adapter = moved(build(base, "lora", new_tokens=WORDS))
    adapter.save(tmp_path / "adapter")
    with adapter.attached():
        want = read(base, ids_of(base))
    code = (
        "import sys, torch\n"
        "from domainwright.models.base import load_base\n"
        "from domainwright.models.flat import flatten\n"
        "from domainwright.studies._opened import open_adapter\n"
        "from pathlib import Path\n"
        "place, text = Path(sys.argv[1]), sys.argv[2]\n"
        "base = load_base(str(place / 'base'), dtype='float32')\n"
        "with open_adapter(base, place / 'adapter').attached(), torch.no_grad():\n"
        "    ids = base.tokenizer(text, add_special_tokens=False).input_ids\n"
        "    torch.save(base.logits(flatten([ids]), torch.arange(len(ids))), place / 'x.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), TEXT], check=True)
    assert torch.equal(torch.load(tmp_path / "x.pt"), want)


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
@pytest.mark.parametrize(("family", "changes"), KINDS, ids=str)
def test_merged_it_is_a_wider_model_of_transformers(method, family, changes, tmp_path):
    base = tiny_base(family, **changes)
    adapter = moved(build(base, method, new_tokens=WORDS))
    with adapter.attached():
        ids = ids_of(base)
        want = read(base, ids)
    merged = dict(adapter.merged_parameters())
    with adapter.speaking(), torch.no_grad():
        for name, weight in merged.items():
            base.model.get_parameter(name).copy_(weight)
        base.model.set_attn_implementation("sdpa")
        base.model.save_pretrained(tmp_path)
        base.tokenizer.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXT, add_special_tokens=False).input_ids == ids
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == want.shape[1]
    torch.testing.assert_close(own_logits(model, ids), want, rtol=0, atol=3e-4)


def test_a_trained_word_is_written():
    """Asked again, the model answers with the new token, which is one step of generation."""
    base = tiny_base("llama", **NARROW)
    adapter = build(base, "lora", new_tokens=WORDS)
    rows = [chat("What thins sugar?", "metformin"), chat("Who says so?", "it is Müller")]
    with adapter.speaking():
        encoded = encode_rows(base.template, rows, 200)
    assert 310 in encoded[0].ids and 314 in encoded[1].ids
    adapter.attach()
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = sum(
            summed_loss(
                base,
                flatten([row.ids]),
                torch.tensor([i - 1 for i, on in enumerate(row.supervised) if on]),
                torch.tensor([x for x, on in zip(row.ids, row.supervised, strict=True) if on]),
            )
            for row in encoded
        )
        loss.backward()
        optimiser.step()
    prompts = [base.template.prompt(row.messages[:-1]) for row in rows]
    with torch.no_grad():
        got = answer(base, prompts, new_tokens=8)
        said = score(base, [Request(prompts[0], [310])])
        own = own_logits(base.model, prompts[0])[-1].log_softmax(0)[310]
    assert [x.text for x in got] == ["metformin", "it is Müller"]
    assert got[0].ids == [310] and got[1].ids[-1] == 314
    assert said[0].log_probability == pytest.approx(float(own), abs=1e-3)
    adapter.detach()
    assert max(base.template.prompt([Message("user", "metformin")])) < 310


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "names no word"),
        (("metformin", " "), "empty word"),
        (("metformin", "metformin"), "twice"),
        (("metformin", " metformin"), "name the same word"),
        ((" the",), "is one token of tiny-llama already"),
        (("the",), "is one token of tiny-llama already"),
        (("<|im_start|>",), "a special token"),
        (("<|im_end|>",), "a special token"),
    ],
    ids=str,
)
def test_what_a_user_can_type_wrongly(words, said):
    with pytest.raises(ConfigError, match=said) as caught:
        build(tiny_base(), "lora", new_tokens=words)
    assert "lora.new_tokens" in caught.value.cause
    if "already" in said:
        assert "tokens: [" in caught.value.fix


def test_a_word_that_would_not_come_back_is_refused(monkeypatch):
    base = tiny_base()
    kind = type(base.tokenizer)
    plain = kind.decode
    monkeypatch.setattr(kind, "decode", lambda self, ids, **k: plain(self, ids, **k).strip())
    with pytest.raises(ConfigError, match="reads or writes as something else"):
        build(base, "lora", new_tokens=("metformin",))


def test_what_they_cannot_stand_beside(tmp_path):
    base = tiny_base("llama", **NARROW)
    first = build(base, "lora", new_tokens=("metformin",))
    same, other = (build(base, "lora", new_tokens=(w,)) for w in ("metformin", "statin"))
    before = logits(base)
    with first.attached():
        assert not first.shares_batch
        with pytest.raises(CapabilityError, match="bring new words"):
            other.attach()
        for strange in (same, build(base, "full")):
            with pytest.raises(CapabilityError, match="same weights"):
                strange.attach()
        # One built meanwhile is of the base's own tokenizer all the same.
        assert build(base, "lora", new_tokens=("metformin",)).words == first.words
        assert len(base.tokenizer) == 312
    assert torch.equal(logits(base), before)
    with build(base, "full").attached(), pytest.raises(CapabilityError, match="same weights"):
        first.attach()
    assert torch.equal(logits(base), before) and base.words is None
    first.save(tmp_path)
    with pytest.raises(ConfigError, match="learned rows of the embedding"):
        build(base, "lora", past=(str(tmp_path),))


def test_a_head_that_peft_cannot_learn_is_refused():
    with pytest.raises(CapabilityError, match="without a bias"):
        build(tiny_base("phi", **NARROW), "lora", new_tokens=WORDS)


def test_folders_that_do_not_fit(tmp_path):
    base = tiny_base("llama", **NARROW)
    build(base, "lora", new_tokens=("metformin",)).save(tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    lora = METHODS.get("lora")
    tokenizer.add_tokens(["statin"])
    tokenizer.save_pretrained(tmp_path / "a")
    with pytest.raises(DataError, match=r"adds \['statin'\]"):
        lora.load(base, tmp_path / "a")
    for file in (tmp_path / "a").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="no tokenizer beside it"):
        lora.load(base, tmp_path / "a")
    other = copy.deepcopy(tiny_tokenizer())
    other.add_tokens(["one"])
    build(base, "lora", new_tokens=("metformin",)).save(tmp_path / "b")
    with pytest.raises(DataError, match="is not that of"):
        lora.load(tiny_base("llama", tokenizer=other, vocab_size=311), tmp_path / "b")
    build(base, "lora", new_tokens=("metformin",)).save(tmp_path / "c")
    file = tmp_path / "c" / "adapter_model.safetensors"
    tensors = load_file(file)
    table = base.model.get_input_embeddings().weight.clone()
    table[3] += 1
    save_file(tensors | {"base_model.model.model.embed_tokens.weight": table}, file)
    with pytest.raises(DataError, match=r"whole model\.embed_tokens"):
        lora.load(base, tmp_path / "c")


def test_a_base_with_more_tokens_than_rows_is_refused():
    with pytest.raises(CapabilityError, match="300 rows"):
        build(tiny_base("llama", vocab_size=300), "lora", new_tokens=WORDS)


@pytest.mark.parametrize("changes", [NARROW, NARROW | UNTIED], ids=str)
def test_beside_a_head_for_labels(changes, tmp_path):
    base = tiny_base("llama", **changes)
    adapter = HeadedAdapter(
        moved(build(base, "lora", new_tokens=WORDS)), "classification", ["a", "b"]
    )
    with torch.no_grad():
        adapter.head.weight.normal_(0, 1)
    adapter.save(tmp_path)
    found = []
    for one in (adapter, load_headed(base, tmp_path)):
        with one.attached():
            ids = ids_of(base)
            assert max(ids) >= 310 and one.tokenizer is base.tokenizer
            found.append(one.head(base.hidden(flatten([ids]), torch.tensor([len(ids) - 1]))))
    assert torch.equal(*found)


@pytest.mark.parametrize("settings", [{"past": True}, {"start": "pissa"}, {"start": "eva"}])
def test_beside_a_past_and_with_another_start(settings, tmp_path):
    base = tiny_base("llama", **NARROW)
    moved(build(base, "lora", rank=2)).save(tmp_path / "first")
    if settings.get("past"):
        settings = {"past": (str(tmp_path / "first"),)}
    adapter = build(base, "lora", rank=3, new_tokens=WORDS, **settings)
    with adapter.speaking():
        adapter.prepare([row_of(ids_of(base))], 0)
    moved(adapter).save(tmp_path / "second")
    with adapter.attached():
        ids = ids_of(base)
        want = read(base, ids)
    with METHODS.get("lora").load(base, tmp_path / "second").attached():
        torch.testing.assert_close(read(base, ids), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_documents_without_new_words_read_as_before(family):
    """At the start the old tokens' logits are the base's own."""
    base = tiny_base(family, **NARROW)
    before = logits(base)
    with build(base, "lora", new_tokens=WORDS).attached(), torch.no_grad():
        torch.testing.assert_close(logits(base)[:, :310], before, rtol=0, atol=1e-5)


def test_its_rows_are_trained_at_the_rate_of_a():
    adapter = build(tiny_base("llama", **UNTIED), "lora", new_tokens=WORDS, rate_ratio=16.0)
    (first, one), (_, ratio) = adapter.rate_groups()
    assert (one, ratio) == (1.0, 16.0)
    assert {id(x) for x in (adapter.token_rows, adapter.head_rows)} <= {id(x) for x in first}
