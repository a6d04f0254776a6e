"""Adapter folders of adapter-hub, in both directions.

Its library needs another transformers, so its logits are fixtures: `make_adapter_hub.py` says how
they were made, and `verified.json` what the library gave for folders of ours.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from domainwright.core.errors import DataError
from domainwright.methods import METHODS
from domainwright.methods._folders import method_of
from domainwright.models.flat import flatten
from tests.fixtures.make_adapter_hub import (
    HERE,
    IDS,
    SIZES,
    VARIANTS,
    base_of,
    method_and_settings,
)

CASES = [(family, variant) for family in SIZES for variant in VARIANTS]
VERIFIED = json.loads((HERE / "verified.json").read_text())


def logits(base):
    with torch.no_grad():
        return base.logits(flatten([IDS]), torch.arange(len(IDS)))


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_their_folder_gives_their_logits(family, variant, tmp_path):
    want = load_file(HERE / family / "logits.safetensors")
    folder, base = HERE / family / variant, base_of(family)
    torch.testing.assert_close(logits(base), want["bare"], rtol=0, atol=1e-4)
    name, settings = method_and_settings(variant)
    assert method_of(folder) == name
    method = METHODS.get(name)
    adapter = method.load(base, folder)
    assert adapter.settings.width(32) == method.Settings(**settings).width(32)
    adapter.attach()
    torch.testing.assert_close(logits(base), want[variant], rtol=0, atol=1e-4)
    assert (want[variant] - want["bare"]).abs().max() > 0.5
    # Written by us and read again, in their layout.
    adapter.save(tmp_path)
    again = base_of(family)
    method.load(again, tmp_path).attach()
    assert torch.equal(logits(again), logits(base))


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_our_folder_has_what_their_library_loaded(family, variant):
    """The maker loaded such folders with the library; tensors may not be named otherwise since."""
    name, settings = method_and_settings(variant)
    method = METHODS.get(name)
    adapter = method.build(base_of(family), method.Settings(**settings), 0)
    assert sorted(adapter.stored()) == VERIFIED["tensors"][f"{family} {variant}"]
    assert VERIFIED["largest_difference"][f"{family} {variant}"] < 1e-4


def altered(tmp_path, variant, **changes):
    """Their folder with other settings."""
    folder = shutil.copytree(HERE / "llama" / variant, tmp_path / "altered")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["config"] |= changes
    file.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("houlsby", {"ln_after": True}),
        ("houlsby", {"scaling": "learned"}),
        ("pfeiffer", {"use_gating": True}),
        ("pfeiffer", {"non_linearity": "leakyrelu"}),
        ("pfeiffer", {"leave_out": [1]}),
        ("pfeiffer", {"reduction_factor": {"0": 4, "default": 2}}),
        ("pfeiffer", {"phm_layer": True}),
        ("parallel", {"mh_adapter": True}),
        ("compacter", {"factorized_phm_rule": True}),
        ("compacter", {"non_linearity": "relu"}),
        ("compacter", {"scaling": 2.0}),
    ],
    ids=str,
)
def test_what_we_do_not_compute_is_refused(variant, changes, tmp_path):
    name, _ = method_and_settings(variant)
    folder = altered(tmp_path, variant, **changes)
    with pytest.raises(DataError, match=next(iter(changes))):
        METHODS.get(name).load(base_of("llama"), folder)


def test_layers_that_their_library_would_not_compute_are_not_in_its_layout(tmp_path):
    """It would load them and give other logits without a word."""
    method = METHODS.get("bottleneck")
    for settings in ({"parallel_input": "normed"}, {"train_layernorm": True}):
        base = base_of("llama")
        adapter = method.build(base, method.Settings(variant="parallel", **settings), 0)
        folder = tmp_path / next(iter(settings))
        adapter.save(folder)
        assert not (folder / "adapter.safetensors").exists()
        assert method.load(base, folder).settings == adapter.settings


@pytest.mark.parametrize("variant", ["pfeiffer", "houlsby"])
def test_a_damaged_file_is_refused(variant, tmp_path):
    folder = altered(tmp_path, variant)
    (file,) = [f for f in folder.iterdir() if f.suffix != ".json"]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="is damaged"):
        METHODS.get("bottleneck").load(base_of("llama"), folder)


def test_no_code_of_a_pickled_file_is_run(tmp_path):
    folder = altered(tmp_path, "pfeiffer")
    torch.save({"x": print}, folder / "pytorch_adapter.bin")
    with pytest.raises(DataError, match="is damaged"):
        METHODS.get("bottleneck").load(base_of("llama"), folder)


def test_a_folder_for_another_depth_is_refused(tmp_path):
    folder = altered(tmp_path, "houlsby")
    file = folder / "adapter.safetensors"
    save_file({k: v for k, v in load_file(file).items() if ".layers.1." not in k}, file)
    with pytest.raises(DataError, match="lacks"):
        METHODS.get("bottleneck").load(base_of("llama"), folder)
