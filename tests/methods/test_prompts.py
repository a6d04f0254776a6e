"""Prefix and prompt tuning against PEFT, their starts, and what a prefix does to attention."""

import peft
import pytest
import torch
from transformers.cache_utils import DynamicCache

from domainwright.core.errors import ConfigError, DataError
from domainwright.methods import METHODS
from domainwright.models.flat import flatten
from tests.methods.test_method_contract import DOCS, logits, step, tuned
from tests.tiny import CONFIGS, WINDOW, documents, tiny_base, tiny_model

METHODS_HERE = [m for m in ("prefix", "prompt") if m in METHODS.names()]
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
