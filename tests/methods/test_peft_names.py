"""Types of PEFT by their own names: PEFT's layers in our loop, against PEFT's own model."""

import ast
from pathlib import Path

import peft
import pytest
import torch

import domainwright
from domainwright.core.config import from_mapping
from domainwright.core.errors import CapabilityError, ConfigError, DataError, UnknownName
from domainwright.methods import METHODS, _peft_types
from domainwright.methods._folders import method_of
from domainwright.models.flat import flatten
from domainwright.train.recompute import recomputed
from tests.methods.test_lora import peft_logits
from tests.methods.test_method_contract import DOCS, build, gradients, logits, step
from tests.tiny import tiny_base, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
TYPES = {
    "adamss": {},
    "beft": {},
    "boft": {},
    "c3a": {"block_size": 8},
    "deft": {},
    "delora": {},
    "fourierft": {"n_frequency": 50},
    "frod": {},
    "glora": {},
    "gralora": {},
    "hira": {},
    "hra": {},
    "loha": {},
    "lokr": {},
    "miss": {"r": 8},
    "oft": {},
    "osf": {},
    "peanut": {},
    "psoft": {"r": 8},
    "pvera": {},
    "randlora": {},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "supertuning": {},
    "tinylora": {},
    "unilora": {},
    "vblora": {"vector_length": 8, "num_vectors": 12},
    "vera": {},
    "waveft": {"n_frequency": 50},
}
"""With settings that fit a hidden size of 32."""
TRANSPOSED = ("vera", "fourierft")
"""Those on GPT-2, whose weights lie the other way; most others are not made for it."""
CASES = [(n, "llama") for n in TYPES] + [(n, "gpt2") for n in TRANSPOSED]


def still(base):
    """Logits without the noise that some types add in training."""
    with torch.no_grad():
        return logits(base)


@pytest.mark.parametrize(("name", "family"), CASES)
def test_a_life_on_the_base_and_the_files_of_peft(name, family, tmp_path):
    base = tiny_base(family)
    bare = still(base)
    keys = set(base.model.state_dict())
    adapter = build(base, f"peft:{name}", **TYPES[name])
    assert torch.equal(still(base), bare) and set(base.model.state_dict()) == keys
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not isinstance(base.model, peft.PeftModel) and not hasattr(base.model, "peft_config")
    adapter.attach()
    # Three: where a gate follows a zero matrix, the first steps reach one after the other.
    assert step(base, adapter, 3) == {n for n, _ in adapter.named_parameters()}
    want = still(base)
    assert (want - bare).abs().max() > 0.1
    with base.hooks.disabled():
        assert torch.equal(still(base), bare)
    # Packed documents do not change each other.
    with torch.no_grad():
        torch.testing.assert_close(want, peft_logits(base.model), rtol=0, atol=2e-4)
    adapter.detach()
    assert torch.equal(still(base), bare)
    adapter.save(tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path / "ours").eval()
    torch.testing.assert_close(peft_logits(model), want, rtol=0, atol=1e-4)
    model.save_pretrained(tmp_path / "theirs")
    assert method_of(tmp_path / "theirs") == method_of(tmp_path / "ours") == f"peft:{name}"
    for folder in ("ours", "theirs"):
        other = tiny_base(family)
        METHODS.get(f"peft:{name}").load(other, tmp_path / folder).attach()
        torch.testing.assert_close(still(other), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vera", "loha", "oft", "boft", "vblora", "fourierft"])
def test_gradients_are_those_of_peft(name, tmp_path):
    base = tiny_base("llama")
    adapter = build(base, f"peft:{name}", **TYPES[name])
    adapter.attach()
    step(base, adapter, 2)
    adapter.save(tmp_path)
    ours = gradients(base, adapter)
    with recomputed(base):
        for a, b in zip(gradients(base, adapter), ours, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()) + 1e-9)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path, is_trainable=True)
    model.eval()
    rows = peft_logits(model)[:-1]
    ids = torch.tensor([token for ids in DOCS for token in ids])
    loss = torch.nn.functional.cross_entropy(rows, ids[1:])
    learned = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(ours, torch.autograd.grad(loss, learned), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-7)


def test_the_seed_decides_the_start():
    states = [build(tiny_base(), "peft:loha", seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_no_random_stream_moves_and_a_failed_build_leaves_the_base_alone():
    base = tiny_base()
    before, bare = torch.random.get_rng_state(), logits(base)
    build(base, "peft:loha")
    with pytest.raises(ConfigError, match="PEFT refuses"):
        build(base, "peft:fourierft", n_frequency=10**6)
    with pytest.raises(CapabilityError, match="'lm_head'"):
        build(base, "peft:loha", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ConfigError, match="PEFT refuses"):
        build(base, "peft:loha", target_modules=["q_proj", "embed_tokens"])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(logits(base), bare)
    assert not any(p.requires_grad for p in base.model.parameters())


def test_dropout_acts_in_training_alone():
    base = tiny_base()
    adapter = build(base, "peft:vera", vera_dropout=0.5)
    adapter.attach()
    step(base, adapter, 3)
    assert base.hooks.dropping
    assert not torch.equal(logits(base), logits(base))
    assert torch.equal(still(base), still(base))


def test_it_hangs_beside_another_adapter():
    """PEFT's layer gives the output in the base's place only where it is the first one there."""
    base = tiny_base()
    bare = still(base)
    adapters = [build(base, "peft:vera"), build(base, "lora", targets=("q_proj",))]
    for adapter in adapters:
        with adapter.attached():
            step(base, adapter, 3)
    found = []
    for first, second in (adapters, adapters[::-1]):
        with first.attached(), second.attached():
            found.append(still(base))
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)
    assert torch.equal(still(base), bare)


def test_two_of_them_share_a_batch():
    base = tiny_base()
    owners = [build(base, "peft:vera"), build(base, "peft:loha")]
    flat, want = flatten(DOCS), []
    chosen = torch.arange(flat.tokens)
    for owner in owners:
        with owner.attached():
            step(base, owner, 3)
            want.append(base.hidden(flat, chosen).detach())
    for owner in owners:
        owner.attach()
    got = base.hidden_of_each(owners, flat, chosen)
    torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-4)


def test_names_that_are_not_offered_say_what_is():
    with pytest.raises(UnknownName, match="'peft:vera'"):
        METHODS.get("peft:vara")
    with pytest.raises(UnknownName, match="use 'lora'"):
        METHODS.get("peft:lora")
    with pytest.raises(UnknownName, match="no type"):
        METHODS.get("peft:cpt")
    for name, reason in _peft_types.REFUSED.items():
        with pytest.raises(CapabilityError, match=reason[:20]):
            METHODS.get(f"peft:{name}")
    assert "peft:vera" in METHODS and "lora" in METHODS
    assert "other:vera" not in METHODS and "vera" not in METHODS
    assert set(_peft_types.OWN.values()) <= set(METHODS.names())


def test_settings_are_those_of_pefts_config():
    settings = METHODS.get("peft:vera").Settings
    assert from_mapping(settings, {"r": 4}, "methods peft:vera").r == 4
    assert from_mapping(settings, {"target_modules": "all-linear"}, "x").r == peft.VeraConfig().r
    with pytest.raises(ConfigError, match="write 'vera_dropout'"):
        from_mapping(settings, {"vera_dropuot": 0.1}, "methods peft:vera")
    with pytest.raises(ConfigError, match="PEFT refuses"):
        from_mapping(settings, {"layers_pattern": "h"}, "methods peft:vera")


def test_another_base_or_type_is_refused(tmp_path):
    adapter = build(tiny_base(), "peft:vera")
    adapter.save(tmp_path)
    with pytest.raises(DataError, match="was trained on 'tiny-llama'"):
        METHODS.get("peft:vera").load(tiny_base(seed=1), tmp_path)
    with pytest.raises(DataError, match="peft_type = 'VERA'"):
        METHODS.get("peft:loha").load(tiny_base(), tmp_path)
    with pytest.raises(CapabilityError, match="cannot be merged here"):
        adapter.merged_parameters()


def test_peft_is_imported_only_where_a_type_is_asked_for():
    for file in Path(domainwright.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(n.partition(".")[0] == "peft" for n in names), file
