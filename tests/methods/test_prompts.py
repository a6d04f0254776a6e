"""Prefix and prompt tuning against PEFT, their starts, and what a prefix does to attention."""

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.cache_utils import DynamicCache

from domainwright.core.errors import ConfigError, DataError
from domainwright.infer.generate import answer
from domainwright.methods import METHODS
from domainwright.methods._prompts import INSTRUCTION
from domainwright.models.flat import flatten
from domainwright.train.recompute import recomputed
from tests.methods.test_method_contract import (
    DOCS,
    answer_without_cache,
    gradients,
    logits,
    step,
    tuned,
)
from tests.tiny import CONFIGS, WINDOW, documents, tiny_base, tiny_model

METHODS_HERE = ("prefix", "prompt")
FAMILIES = [f for f in CONFIGS if f != "mamba"]
WINDOWED = ("mistral", "gemma2", "phi3")
"""With these PEFT's rows pass out of the window; ours never do."""
CASES = [(m, f) for m in METHODS_HERE for f in FAMILIES]


def peft_model(method, family, rows=3):
    if method == "prefix":
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows)
    else:
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=rows)
    wide = {"sliding_window": 128} if family in WINDOWED else {}
    model = peft.get_peft_model(tiny_model(family, **wide), config).eval()
    torch.manual_seed(0)
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return model


def peft_logits(model, rows=0):
    """Eager attention; PEFT gives the positions of the prompt first."""
    model.get_base_model().set_attn_implementation("eager")
    return torch.cat([model(input_ids=torch.tensor([ids])).logits[0, rows:] for ids in DOCS])


def wide_base(family):
    return tiny_base(family, **({"sliding_window": 128} if family in WINDOWED else {}))


def tuning(method, rows=3):
    """PEFT's config of a method whose rows are made from something else."""
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": rows}
    return {
        "mlp": lambda: peft.PromptEncoderConfig(**common, encoder_hidden_size=24),
        "lstm": lambda: peft.PromptEncoderConfig(
            **common, encoder_reparameterization_type="LSTM", encoder_hidden_size=8
        ),
        "multitask": lambda: peft.MultitaskPromptTuningConfig(**common, num_ranks=2),
        "projection": lambda: peft.PrefixTuningConfig(
            **common, prefix_projection=True, encoder_hidden_size=24
        ),
    }[method]()


@pytest.mark.parametrize(("method", "family"), CASES)
def test_both_directions_with_peft(method, family, tmp_path):
    model = peft_model(method, family)
    model.save_pretrained(tmp_path)
    base = wide_base(family)
    bare = logits(base)
    adapter = METHODS.get(method).load(base, tmp_path)
    adapter.attach()
    want = peft_logits(model, 3 if method == "prompt" else 0)
    assert (want - bare).abs().max() > 0.1
    torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
    up = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    (want * up).sum().backward()
    (logits(base) * up).sum().backward()
    (theirs,) = [p.grad for p in model.parameters() if p.requires_grad]
    (ours,) = [p.grad.flatten(1) for p in adapter.parameters()]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    step(base, adapter)
    adapter.save(tmp_path / "again")
    wide = {"sliding_window": 128} if family in WINDOWED else {}
    again = peft.PeftModel.from_pretrained(tiny_model(family, **wide), tmp_path / "again")
    got = peft_logits(again.eval(), 3 if method == "prompt" else 0)
    torch.testing.assert_close(logits(base), got, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "phi", "gpt_neox", "gpt2"])
def test_a_prefix_starts_as_what_the_base_reads(family):
    """The base with the instruction in front gives the same logits, where the text is not moved
    past learned positions of another table."""
    base = tiny_base(family)
    text = "the patient takes the tablets"
    ids = base.tokenizer(text, add_special_tokens=False).input_ids
    flat = flatten([ids + doc for doc in DOCS])
    want = base.logits(flat, torch.arange(flat.tokens))
    want = torch.cat([want[s][len(ids) :] for s in flat.documents()])
    method = METHODS.get("prefix")
    adapter = method.build(base, method.Settings(rows=len(ids), text=text), 0)
    with adapter.attached():
        torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_one_head_of_attention_is_a_mixture(family):
    """He et al. 2022: (1 - λ) of the text's attention and λ of the prefix's, by softmax mass."""
    from domainwright.models import attention

    source = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, 5, 4, generator=source)
    rows = torch.randn(2, 1, 3, 4, generator=source)
    module = torch.nn.Module()
    module.__dict__["extra_rows"] = lambda: [(lambda: (rows[0], rows[1]), None)]
    got, _ = attention.attend(module, query, key, value, scaling=0.7)
    scores = (query @ key.mT * 0.7).masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    extra = query @ rows[0].mT * 0.7
    mass = extra.logsumexp(-1, keepdim=True)
    share = torch.sigmoid(mass - scores.logsumexp(-1, keepdim=True))
    want = (1 - share) * (scores.softmax(-1) @ value) + share * (extra.softmax(-1) @ rows[1])
    torch.testing.assert_close(got, want.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", WINDOWED)
def test_the_rows_stay_in_sight_behind_a_window(family):
    base = tiny_base(family)
    adapter = tuned(base, "prefix")
    flat = flatten(documents((3 * WINDOW + 5,)))
    before = base.logits(flat, torch.tensor([flat.tokens - 1]))
    with torch.no_grad():
        adapter.table.add_(0.5)
    assert (base.logits(flat, torch.tensor([flat.tokens - 1])) - before).abs().max() > 1e-3


def test_a_zero_prefix_takes_attention_away():
    """methods.md §3.3: zeros still take softmax mass, so they are no neutral start."""
    base = tiny_base("llama")
    bare = logits(base)
    adapter = tuned(base, "prefix")
    with torch.no_grad():
        adapter.table.zero_()
    assert (logits(base) - bare).abs().max() > 0.1


def test_two_owners_have_rows_of_their_own():
    base = tiny_base("llama")
    adapters = [tuned(base, "prefix", rows=2 + n, start="random") for n in (0, 1)]
    flat = flatten(DOCS)
    chosen = torch.arange(flat.tokens)
    want = []
    for adapter in adapters:
        adapter.detach()
    for adapter in adapters:
        with adapter.attached():
            want.append(base.hidden(flat, chosen))
    for adapter in adapters:
        adapter.attach()
    got = base.hidden_of_each(adapters, flat, chosen)
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-4)


def test_generation_of_transformers_takes_the_prefix_too():
    base = tiny_base("llama")
    tuned(base, "prefix")
    ids = torch.tensor([DOCS[0]])
    cache = DynamicCache()
    with torch.no_grad():
        base.model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
        got = base.model(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True).logits[0, -1]
        want = base.model(input_ids=ids, use_cache=False).logits[0, -1]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS_HERE)
def test_settings_out_of_range_are_refused(method):
    kind = METHODS.get(method)
    for wrong in ({"rows": 0}, {"start": "zero"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            kind.Settings(**wrong)
    base = tiny_base()
    with pytest.raises(ConfigError, match="more than half of the context"):
        kind.build(base, kind.Settings(rows=200), 0)
    with pytest.raises(ConfigError, match="no token"):
        kind.build(base, kind.Settings(text=""), 0)


def test_the_rows_count_against_the_context():
    base = tiny_base("gpt2")
    with METHODS.get("prefix").build(base, METHODS.get("prefix").Settings(), 0).attached():
        assert base.context == 256 - 20
    assert base.context == 256


def test_a_prefix_for_another_depth_is_refused(tmp_path):
    peft_model("prefix", "llama").save_pretrained(tmp_path)
    with pytest.raises(DataError, match="2 layers, not 3"):
        METHODS.get("prefix").load(tiny_base("llama", num_hidden_layers=3), tmp_path)


def made_by_peft(made, family="llama"):
    """A PEFT model with random numbers in its encoder."""
    model = peft.get_peft_model(tiny_model(family), tuning(made)).eval()
    torch.manual_seed(0)
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return model


def task_logits(model, rows=3):
    task = torch.tensor([0])
    model.get_base_model().set_attn_implementation("eager")
    return torch.cat(
        [model(input_ids=torch.tensor([ids]), task_ids=task).logits[0, rows:] for ids in DOCS]
    )


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "phi"])
@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_ptuning_in_both_directions_with_peft(encoder, family, tmp_path):
    model = made_by_peft(encoder, family)
    base = tiny_base(family)
    model.save_pretrained(tmp_path / "theirs")
    want = peft_logits(model, 3)
    adapter = METHODS.get("ptuning").load(base, tmp_path / "theirs")
    # PEFT keeps the rows alone, so they are what is trained on.
    assert adapter.encoder is None and adapter.trainable == 3 * 32
    with adapter.attached():
        torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
    own = tuned(base, "ptuning", rows=3, encoder=encoder, hidden=24)
    own.save(tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "ours").eval()
    torch.testing.assert_close(logits(base), peft_logits(again, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_the_encoder_is_pefts(encoder):
    """Same weights: the same rows, and the same gradients of every tensor."""
    model, base = made_by_peft(encoder), tiny_base("llama")
    hidden = 24 if encoder == "mlp" else 8
    kind = METHODS.get("ptuning")
    adapter = kind.build(base, kind.Settings(rows=3, encoder=encoder, hidden=hidden), 0)
    theirs = model.prompt_encoder["default"]
    adapter.encoder.load_state_dict(theirs.state_dict())
    adapter.attach()
    want = peft_logits(model, 3)
    torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
    up = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    (want * up).sum().backward()
    (logits(base) * up).sum().backward()
    ours = dict(adapter.encoder.named_parameters())
    for name, parameter in theirs.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(
            ours[name].grad, parameter.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7
        )


@pytest.mark.parametrize(
    ("method", "settings"),
    [("ptuning", {}), ("ptuning", {"encoder": "lstm"}), ("prefix", {"projection": True})],
    ids=str,
)
def test_training_goes_on_with_the_network_beside_the_rows(method, settings, tmp_path):
    base = tiny_base("llama")
    adapter = tuned(base, method, rows=3, **settings)
    adapter.save(tmp_path)
    adapter.detach()
    other = tiny_base("llama")
    again = METHODS.get(method).load(other, tmp_path)
    again.attach()
    assert again.trainable == adapter.trainable > 1000
    with adapter.attached():
        assert torch.equal(logits(other), logits(base))
        step(base, adapter, 3)
        step(other, again, 3)
        assert torch.equal(logits(other), logits(base))
    # Without it the rows are there still, and learn themselves.
    (tmp_path / "encoder.safetensors").unlink()
    bare = METHODS.get(method).load(tiny_base("llama"), tmp_path)
    assert bare.trainable == bare.stored()["prompt_embeddings"].numel()


@pytest.mark.parametrize("method", ["ptuning", "prefix"])
def test_a_network_of_other_rows_is_refused(method, tmp_path):
    settings = {"projection": True} if method == "prefix" else {}
    base = tiny_base("llama")
    tuned(base, method, rows=3, **settings).save(tmp_path)
    network = tmp_path / "encoder.safetensors"
    tensors = load_file(network)
    name = "transform.2.bias" if method == "prefix" else "mlp_head.4.bias"
    save_file({**tensors, name: tensors[name] + 1}, network)
    with pytest.raises(DataError, match="makes other rows"):
        METHODS.get(method).load(base, tmp_path)
    save_file({k: v for k, v in tensors.items() if k != name}, network)
    with pytest.raises(DataError, match=f"lacks '{name}'"):
        METHODS.get(method).load(base, tmp_path)
    network.write_bytes(network.read_bytes()[:-9])
    with pytest.raises(DataError, match="is damaged"):
        METHODS.get(method).load(base, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_made_rows_start_as_large_as_words(family):
    """Gemma multiplies its embeddings; rows of another size would drown the text or be none."""
    base = tiny_base(family)
    ids = base.tokenizer(INSTRUCTION, add_special_tokens=False).input_ids[:20]
    words = base.model.get_input_embeddings()(torch.tensor(ids))
    kind = METHODS.get("ptuning")
    rows = kind.build(base, kind.Settings(), 0).rows().detach()
    ratio = float(rows.square().mean().sqrt() / words.square().mean().sqrt())
    assert ratio == pytest.approx(1, rel=1e-3)


def test_a_projection_is_pefts_network_on_top_of_the_start():
    model, base = made_by_peft("projection"), tiny_base("llama")
    kind = METHODS.get("prefix")
    settings = kind.Settings(rows=3, projection=True, projection_hidden=24)
    adapter = kind.build(base, settings, 0)
    plain = kind.build(base, kind.Settings(rows=3), 0)
    assert torch.equal(adapter.made(), plain.table)
    ((network, rate),) = adapter.rate_groups()
    assert rate == 0.1 and len(network) == 5
    theirs = model.prompt_encoder["default"]
    state = {"start": torch.zeros_like(adapter.network.start), **theirs.state_dict()}
    adapter.network.load_state_dict(state)
    adapter.attach()
    want = peft_logits(model)
    torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
    up = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    (want * up).sum().backward()
    (logits(base) * up).sum().backward()
    ours = dict(adapter.network.named_parameters())
    for name, parameter in theirs.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


def test_a_projected_prefix_is_a_plain_one_for_both(tmp_path):
    base = tiny_base("llama")
    model = made_by_peft("projection")
    model.save_pretrained(tmp_path / "theirs")
    loaded = METHODS.get("prefix").load(base, tmp_path / "theirs")
    with loaded.attached():
        torch.testing.assert_close(logits(base), peft_logits(model), rtol=0, atol=1e-4)
    adapter = tuned(base, "prefix", rows=3, projection=True)
    assert adapter.trainable == 3 * 16 + 16 * 512 + 512 + 512 * 64 + 64
    adapter.save(tmp_path)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    torch.testing.assert_close(peft_logits(model), logits(base), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gated_prefix_starts_as_the_base_and_learns(family):
    base = tiny_base(family)
    bare = logits(base)
    kind = METHODS.get("prefix")
    adapter = kind.build(base, kind.Settings(rows=5, gate=True), 0)
    assert adapter.trainable == 5 * 2 * 2 * adapter.shape[2] * 8 + 2 * 4
    adapter.attach()
    # The fused trunk sums in another order; attention itself is equal bit for bit, below.
    torch.testing.assert_close(logits(base), bare, rtol=0, atol=2e-5)
    assert step(base, adapter, 3) == {"table", "gates"}
    adapted = logits(base)
    assert (adapted - bare).abs().max() > 1e-3
    ids = [torch.tensor([document]) for document in DOCS]
    alone = torch.cat([base.model(input_ids=x, use_cache=False).logits[0] for x in ids])
    torch.testing.assert_close(adapted, alone, rtol=0, atol=2e-4)
    ours = gradients(base, adapter)
    with recomputed(base):
        for a, b in zip(gradients(base, adapter), ours, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()) + 1e-9)
    got = answer(base, DOCS, new_tokens=6)
    assert [a.ids for a in got] == answer_without_cache(base, DOCS, 6)
    adapter.detach()
    assert torch.equal(logits(base), bare)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
def test_a_gate_multiplies_the_share_of_attention(window, softcap):
    """(1 - gλ) A + gλ Ap of every head, packed, with heads that share keys; by hand."""
    from domainwright.models import attention

    source = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 7, 8, generator=source)
    key, value = torch.randn(2, 1, 2, 7, 8, generator=source)
    rows = torch.randn(2, 2, 3, 8, generator=source)
    gate = torch.tensor([0.0, 0.4, 1.0, -0.7])
    module = torch.nn.Module()
    settings = {"scaling": 0.5, "sliding_window": window, "softcap": softcap}
    settings |= {"document_bounds": (0, 4, 7)}
    plain, _ = attention.attend(module, query, key, value, **settings)
    module.__dict__["extra_rows"] = lambda: [(lambda: (rows[0], rows[1], gate), None)]
    got, _ = attention.attend(module, query, key, value, **settings)
    assert torch.equal(got[:, :, 0], plain[:, :, 0])

    def scores(q, keys):
        score = q @ keys.repeat_interleave(2, -3).mT * 0.5
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    wanted = []
    for part in (slice(0, 4), slice(4, 7)):
        q, v = query[0, :, part], value[0, :, part]
        length = q.shape[1]
        seen = torch.ones(length, length).tril().bool()
        if window is not None:
            seen &= ~torch.ones(length, length).tril(-window).bool()
        text = scores(q, key[0, :, part]).masked_fill(~seen, -torch.inf)
        extra = scores(q, rows[0])
        share = torch.sigmoid(extra.logsumexp(-1) - text.logsumexp(-1))[..., None]
        share = share * gate[:, None, None]
        own = text.softmax(-1) @ v.repeat_interleave(2, 0)
        added = extra.softmax(-1) @ rows[1].repeat_interleave(2, 0)
        wanted.append((1 - share) * own + share * added)
    torch.testing.assert_close(got[0], torch.cat(wanted, 1).transpose(0, 1), rtol=1e-5, atol=1e-5)
    # An open gate is a plain prefix.
    module.__dict__["extra_rows"] = lambda: [(lambda: (rows[0], rows[1]), None)]
    without, _ = attention.attend(module, query, key, value, **settings)
    torch.testing.assert_close(got[:, :, 2], without[:, :, 2], rtol=1e-5, atol=1e-5)


def test_a_gated_prefix_sees_trees_and_shares_a_batch():
    base = tiny_base("qwen3")
    settings = {"rows": 3, "gate": True, "start": "random"}
    adapters = [tuned(base, "prefix", **settings), tuned(base, "prefix", **settings)]
    step(base, adapters[1], 4)
    for adapter in adapters:
        adapter.detach()
    flat = flatten(DOCS, parents=[None, 0, 1])
    chosen = torch.arange(flat.tokens)
    want = []
    for adapter in adapters:
        with adapter.attached():
            want.append(base.hidden(flat, chosen).detach())
            whole = flatten([[token for ids in DOCS for token in ids]])
            last = base.hidden(whole, torch.arange(whole.tokens))
            torch.testing.assert_close(want[-1], last, rtol=0, atol=1e-4)
    for adapter in adapters:
        adapter.attach()
    got = base.hidden_of_each(adapters, flat, chosen)
    assert (want[0] - want[1]).abs().max() > 1e-3
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-4)


def test_nobody_takes_a_gated_prefix_for_a_plain_one(tmp_path):
    base = tiny_base("llama")
    adapter = tuned(base, "prefix", gate=True, projection=True)
    adapter.save(tmp_path)
    assert adapter.peft_type is None
    with pytest.raises((KeyError, TypeError, ValueError)):
        peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path)
    other = tiny_base("llama")
    again = METHODS.get("prefix").load(other, tmp_path)
    again.attach()
    assert torch.equal(logits(other), logits(base)) and again.trainable == adapter.trainable


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_one_task_in_both_directions_with_peft(family, tmp_path):
    wide = {"sliding_window": 128} if family in WINDOWED else {}
    model = peft.get_peft_model(tiny_model(family, **wide), tuning("multitask")).eval()
    torch.manual_seed(0)
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter, 0, 0.7)
    model.save_pretrained(tmp_path)
    base = wide_base(family)
    adapter = METHODS.get("multitask_prompt").load(base, tmp_path)
    adapter.attach()
    want = task_logits(model)
    torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)
    up = torch.randn(want.shape, generator=torch.Generator().manual_seed(0))
    (want * up).sum().backward()
    (logits(base) * up).sum().backward()
    theirs = model.prompt_encoder["default"]
    pairs = {
        adapter.table: theirs.embedding.weight,
        adapter.cols: theirs.prefix_task_cols,
        adapter.rows_of_task: theirs.prefix_task_rows,
    }
    for ours, other in pairs.items():
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(
            ours.grad, other.grad.view(ours.shape), rtol=1e-3, atol=1e-4 * scale
        )
    step(base, adapter)
    adapter.save(tmp_path / "again")
    again = peft.PeftModel.from_pretrained(tiny_model(family, **wide), tmp_path / "again").eval()
    torch.testing.assert_close(logits(base), task_logits(again), rtol=0, atol=1e-4)


class TestATaskFromEarlierOnes:
    """PEFT's three ways to begin a target task from a source prompt."""

    @pytest.fixture
    def source(self, tmp_path):
        config = tuning("multitask")
        config.num_tasks = 4
        model = peft.get_peft_model(tiny_model("llama"), config).eval()
        torch.manual_seed(0)
        for parameter in model.prompt_encoder.parameters():
            torch.nn.init.normal_(parameter, 0, 0.7)
        model.save_pretrained(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("start", ["average", "exact"])
    def test_the_target_is_pefts(self, start, source):
        names = {"average": "AVERAGE_SOURCE_TASKS", "exact": "EXACT_SOURCE_TASK"}
        config = peft.MultitaskPromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=3,
            num_ranks=2,
            prompt_tuning_init=names[start],
            prompt_tuning_init_task=2,
            prompt_tuning_init_state_dict_path=str(source / "adapter_model.safetensors"),
        )
        want = task_logits(peft.get_peft_model(tiny_model("llama"), config).eval())
        base = tiny_base("llama")
        kind = METHODS.get("multitask_prompt")
        settings = kind.Settings(source=str(source), start=start, source_task=2)
        with kind.build(base, settings, 0).attached():
            torch.testing.assert_close(logits(base), want, rtol=0, atol=1e-4)

    def test_the_shared_prompt_alone(self, source):
        kind = METHODS.get("multitask_prompt")
        settings = kind.Settings(source=str(source), start="shared")
        adapter = kind.build(tiny_base("llama"), settings, 0)
        shared = load_file(source / "adapter_model.safetensors")["prompt_embeddings"]
        torch.testing.assert_close(adapter.rows().detach(), shared)

    def test_several_tasks_cannot_answer_and_a_missing_one_is_refused(self, source):
        kind, base = METHODS.get("multitask_prompt"), tiny_base("llama")
        with pytest.raises(DataError, match="has 4 tasks"):
            kind.load(base, source)
        settings = kind.Settings(source=str(source), start="exact", source_task=4)
        with pytest.raises(ConfigError, match="has 4 tasks"):
            kind.build(base, settings, 0)


def test_a_prompt_for_tasks_starts_as_the_instruction():
    base = tiny_base("llama")
    rows = {}
    for name in ("prompt", "multitask_prompt"):
        kind = METHODS.get(name)
        rows[name] = kind.build(base, kind.Settings(), 0).rows().detach()
    assert torch.equal(rows["prompt"], rows["multitask_prompt"])


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("ptuning", {"rows": 0}),
        ("ptuning", {"encoder": "gru"}),
        ("ptuning", {"hidden": 0}),
        ("prefix", {"projection_hidden": 0}),
        ("multitask_prompt", {"ranks": 0}),
        ("multitask_prompt", {"start": "mean"}),
        ("multitask_prompt", {"source_task": -1}),
        ("mix_and_match", {"rate_ratio": 0.0}),
        ("mix_and_match", {"rows": 0}),
    ],
    ids=str,
)
def test_wrong_settings_of_the_others_are_refused(method, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        METHODS.get(method).Settings(**wrong)
