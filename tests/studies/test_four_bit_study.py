"""4-bit bases and data-driven starts, from the study file to an exported model."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from domainwright.core.errors import ConfigError
from domainwright.methods.qlora import MERGES
from domainwright.models.base import load_base
from domainwright.models.flat import flatten
from domainwright.studies.api import decide, load_run, train_method
from domainwright.studies.export import export
from domainwright.train.job import Interrupted
from tests.studies.world import study_file
from tests.tiny import documents

DOCS = documents((9, 14))


def logits(base):
    flat = flatten(DOCS)
    with torch.no_grad():
        return base.logits(flat, torch.arange(flat.tokens))


def measured(folder, strategy=None):
    run = load_run(folder, strategy)
    with run.adapter.attached():
        return run, logits(run.base)


def watched(training):
    found = [line.get("development_loss") for line in training.history]
    return [loss for loss in found if loss is not None]


def exported(run, output, merge=None):
    export(run, output, "merged", merge)
    plain = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    assert not any("packed" in name for name, _ in plain.named_buffers())
    return logits(load_base(str(output), dtype="float32"))


def test_a_study_on_a_shared_base_measures_qlora(base, quick, tmp_path):
    study = study_file(tmp_path, base, strategies=["zero_shot", "qlora"])
    decided = decide(study, tmp_path / "run")
    done = {r.name: r.status for r in decided.verdict.strategies}
    assert done == {"zero_shot": "done", "qlora": "done"}
    run, want = measured(tmp_path / "run", "qlora")
    assert run.base.quantised is None and run.adapter.settings.quantise == "nf4"
    apart = {m: (exported(tmp_path / "run", tmp_path / m, m) - want).norm() for m in MERGES}
    assert apart["dequant16"] < 1e-4 * want.norm()
    assert min(apart["original16"], apart["requant4"]) > 10 * apart["dequant16"]


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_study_on_a_quantised_base(method, base, quick, tmp_path):
    study = study_file(tmp_path, base, quantise="nf4", methods={method: {"targets": ["q", "up"]}})
    training = train_method(study, method, tmp_path / "run")
    losses = watched(training)
    assert losses[-1] < losses[0]
    run, want = measured(tmp_path / "run")
    assert run.base.quantised == ("nf4", True)
    # Every linear layer is written as it computed, also those without a change.
    got = exported(tmp_path / "run", tmp_path / "merged")
    torch.testing.assert_close(got, want, rtol=0, atol=2e-4)
    if method == "qlora":
        plain = exported(tmp_path / "run", tmp_path / "original", "original16")
        assert (plain - want).norm() > 10 * (got - want).norm()
    else:
        with pytest.raises(ConfigError, match="one of qlora's"):
            export(tmp_path / "run", tmp_path / "x", "merged", "original16")
    for to, merge in (("peft", "dequant16"), ("merged", "int8")):
        with pytest.raises(ConfigError, match="use --to merged with one of: dequant16"):
            export(tmp_path / "run", tmp_path / "y", to, merge)


@pytest.mark.parametrize("start", ["eva", "pissa"])
def test_a_run_with_such_a_start_goes_on_where_it_stopped(start, base, quick, tmp_path):
    """EVA's ranks are found again, and PiSSA's origin lies in the checkpoint."""
    settings = {"lora": {"start": start, "rank": 4}}
    study = study_file(tmp_path, base, methods=settings)
    whole = train_method(study, "lora", tmp_path / "whole")
    seen = []

    def stop():
        seen.append(1)
        return len(seen) > 3

    with pytest.raises(Interrupted):
        train_method(study, "lora", tmp_path / "parts", stop=stop)
    parts = train_method(study, "lora", tmp_path / "parts", resume=True)
    assert watched(parts) == watched(whole)
    (_, want), (run, got) = (measured(tmp_path / name) for name in ("whole", "parts"))
    assert torch.equal(got, want)
    ranks = [len(a) for a in run.adapter.A]
    assert sum(ranks) == 4 * 14 and (len(set(ranks)) > 1) == (start == "eva")
