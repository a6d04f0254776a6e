"""What may be loaded as a base, and what is refused before anything runs."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.models import resolve as resolving
from domainwright.models.base import load_base
from domainwright.models.resolve import Source, resolve, weights_hash
from tests.tiny import own_logits, tiny_folder, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "base")


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def make_pickle_only(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


def test_a_saved_folder_is_loaded(folder):
    base = load_base(str(folder), dtype="float32")
    want = own_logits(tiny_model("llama"), [5, 6, 7])
    torch.testing.assert_close(own_logits(base.model, [5, 6, 7]), want, rtol=0, atol=1e-5)
    assert base.source.origin == "folder" and base.sha256 == weights_hash(folder)
    assert base.feeding == "packed" and base.dtype == torch.float32
    assert load_base(str(folder), dtype="bfloat16").dtype == torch.bfloat16


def test_safetensors_are_loaded_where_pickles_would_be_allowed(folder):
    base = load_base(str(folder), dtype="float32", allow_pickle=True)
    assert base.parameters > 0


def test_pickled_weights_are_refused(folder):
    make_pickle_only(folder, tiny_model("llama").state_dict())
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, which can run code") as caught:
        load_base(str(folder))
    assert "allow_pickle: true" in caught.value.fix


def test_pickled_tensors_load_when_allowed(folder):
    model = tiny_model("llama")
    make_pickle_only(folder, model.state_dict())
    base = load_base(str(folder), dtype="float32", allow_pickle=True)
    torch.testing.assert_close(own_logits(base.model, [5, 6]), own_logits(model, [5, 6]))


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_code_in_a_pickle_never_runs(folder, tmp_path, allow_pickle):
    canary = tmp_path / "canary"
    make_pickle_only(folder, {"model.norm.weight": Canary(canary)})
    with pytest.raises(DataError):
        load_base(str(folder), allow_pickle=allow_pickle)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary))).close()
    assert canary.exists()  # the canary does sing


def test_a_decoy_of_safetensors_does_not_open_the_pickle(folder):
    """Some other .safetensors file beside pickled weights: they are not read for all that."""
    state = tiny_model("llama").state_dict()
    make_pickle_only(folder, state)
    save_file({"x": torch.zeros(1)}, folder / "decoy.safetensors")
    with pytest.raises(DataError, match="cannot load"):
        load_base(str(folder))


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_refused(folder, tmp_path, place):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")
    config = json.loads((folder / place).read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", None],
    }
    (folder / place).write_text(json.dumps(config))
    if place == "config.json":
        with pytest.raises(DataError, match="wants to run its own code"):
            load_base(str(folder))
    else:
        load_base(str(folder), dtype="float32")  # the tokenizer needs no code of its own
    assert not canary.exists()


def test_a_folder_without_config_or_weights_is_refused(folder):
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config[:40])
    with pytest.raises(DataError, match="not valid JSON"):
        load_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"holds no config\.json"):
        load_base(str(folder))
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no \.safetensors weights \(none\)"):
        load_base(str(folder))


@pytest.mark.parametrize("change", ["missing", "other shape"])
def test_weights_that_do_not_fit_the_configuration_are_refused(folder, change):
    """transformers fills such tensors with random numbers and only warns."""
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensor = tensors.pop(name)
    if change == "other shape":
        tensors[name] = tensor[:-1].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        load_base(str(folder))


def test_damaged_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot load"):
        load_base(str(folder))


def test_an_encoder_is_no_base(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(DataError, match="cannot load"):
        load_base(str(folder))


@pytest.mark.parametrize("name", ["no-such-base", "a/b/c"])
def test_an_unknown_name_lists_what_is_known(name):
    with pytest.raises(ConfigError, match="no local folder, no alias and no hub id") as caught:
        resolve(name)
    assert "smollm2-135m" in caught.value.fix


def test_a_hub_id_out_of_reach_says_what_to_do(monkeypatch):
    asked = []

    def none(hub_id, revision, *, local_only):
        asked.append((hub_id, revision, local_only))

    monkeypatch.setattr(resolving, "_from_hub", none)
    with pytest.raises(CapabilityError, match="no model hub could be reached"):
        resolve("owner/name", revision="r1", offline=False)
    assert asked == [("owner/name", "r1", True), ("owner/name", "r1", False)]
    asked.clear()
    with pytest.raises(CapabilityError):
        resolve("owner/name")  # HF_HUB_OFFLINE is set in the tests
    assert asked == [("owner/name", None, True)]


def test_an_alias_prefers_the_hub_and_falls_back_to_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(resolving, "smollm2_folder", lambda: tmp_path / "embedded")
    monkeypatch.setattr(resolving, "_from_hub", lambda *a, **k: None)
    assert resolve("smollm2-135m", offline=True) == Source(
        "smollm2-135m", tmp_path / "embedded", "embedded"
    )
    monkeypatch.setattr(resolving, "_from_hub", lambda *a, **k: tmp_path / "hub")
    assert resolve("smollm2-135m") == Source("smollm2-135m", tmp_path / "hub", "hub")


def test_the_hash_sees_one_flipped_bit_and_the_configuration(folder):
    first = weights_hash(folder)
    config = json.loads((folder / "config.json").read_text())
    same = {**config, "dtype": "bfloat16", "transformers_version": "9", "use_cache": False}
    (folder / "config.json").write_text(json.dumps(same, indent=7))
    assert weights_hash(folder) == first
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert weights_hash(folder) != first
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert weights_hash(folder) != first
