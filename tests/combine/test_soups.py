"""Soups: the mean of changes against weights summed by hand and PEFT; which are taken; refusals."""

import json

import peft
import pytest
import torch

from domainwright.combine import COMBINERS
from domainwright.combine._changes import Changes
from domainwright.combine.average import mean
from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError, UnknownName
from domainwright.studies.api import decide, load_run, train_method
from domainwright.studies.combine import _adapter, _changes_of, combine_runs
from domainwright.studies.export import export
from domainwright.studies.score import score_file
from tests.methods.test_lora import peft_logits
from tests.methods.test_method_contract import DOCS, build, logits
from tests.studies.world import read_lines, small_suite, study_file
from tests.tiny import own_logits, tiny_base, tiny_model

WEIGHTS = (0.2, 0.5, 0.3)
LORAS = (
    {"rank": 3, "alpha": 5.0},
    {"rank": 2, "alpha": 4.0, "rslora": True, "start": "pissa"},
    {"rank": 4, "targets": ("q", "down")},
)


def moved(base, method, seed, **settings):
    adapter = build(base, method, **settings)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=source))
    return adapter


def answers(adapter):
    with adapter.attached(), torch.no_grad():
        return logits(adapter.base)


def test_the_mean_of_loras_is_the_mean_of_their_products():
    """Other ranks, scales, starts and layers; the oracle sums into the base's weights."""
    base = tiny_base()
    members = [moved(base, "lora", n, **settings) for n, settings in enumerate(LORAS)]
    soup = _adapter(base, members[0], mean([_changes_of(m) for m in members], WEIGHTS))
    oracle = tiny_base()
    with torch.no_grad():
        for member, weight in zip(members, WEIGHTS, strict=True):
            for layer, change in member.changes():
                place = oracle.model.get_submodule(layer.path)
                place.weight.add_(weight * change.product_OI())
        torch.testing.assert_close(answers(soup), logits(oracle), rtol=0, atol=2e-4)
    assert {len(a) for a in soup.A} == {3 + 2 * 2, 3 + 2 * 2 + 4}


def test_it_is_pefts_cat_and_not_the_mean_of_the_factors(tmp_path):
    base = tiny_base()
    members = [moved(base, "lora", n, rank=3, alpha=5.0) for n in range(2)]
    for n, member in enumerate(members):
        member.save(tmp_path / str(n))
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "0", "a").eval()
    model.load_adapter(tmp_path / "1", "b")
    model.add_weighted_adapter(["a", "b"], [0.25, 0.75], "soup", combination_type="cat")
    model.set_adapter("soup")
    got = answers(_adapter(base, members[0], mean([_changes_of(m) for m in members], [0.25, 0.75])))
    torch.testing.assert_close(got, peft_logits(model), rtol=0, atol=5e-5)
    wrong = moved(base, "lora", 0, rank=3, alpha=5.0)
    with torch.no_grad():
        for p, a, b in zip(*(x.parameters() for x in (wrong, *members)), strict=True):
            p.copy_(0.25 * a + 0.75 * b)
    assert (answers(wrong) - got).abs().max() > 0.1


@pytest.mark.parametrize("method", ["full", "top_layers", "layernorm", "bitfit"])
def test_the_mean_of_whole_weights(method):
    base = tiny_base("gpt2" if method == "bitfit" else "llama")
    members = [moved(base, method, n) for n in range(3)]
    before = [v.detach().clone() for v in members[0].values]
    changes = [_changes_of(m) for m in members]
    model = tiny_model(base.source.name[5:])
    with torch.no_grad():
        for name in members[0].names:
            own = model.get_parameter(name)
            own.copy_(sum(w * c.values[name] for c, w in zip(changes, WEIGHTS, strict=True)))
        want = torch.cat([own_logits(model, ids) for ids in DOCS])
    soup = _adapter(base, members[0], mean(changes, WEIGHTS))
    torch.testing.assert_close(answers(soup), want, rtol=0, atol=2e-4)
    # A combination that is only measured leaves what it was made of as it was.
    again = _adapter(base, members[0], changes[0])
    assert all(torch.equal(a, b) for a, b in zip(again.values, before, strict=True))


def test_a_member_that_counts_nothing_costs_no_rank():
    base = tiny_base()
    members = [_changes_of(moved(base, "lora", n, rank=3)) for n in range(2)]
    found = mean(members, [0.0, 1.0]).low_rank
    for path, (a, b) in found.items():
        assert torch.equal(a, members[1].low_rank[path][0])
        assert torch.equal(b, members[1].low_rank[path][1])


def test_greedy_takes_what_does_not_raise_the_loss():
    """Numbers in the place of models: the loss is the distance of their mean from 10."""
    members = [Changes(values={"w": torch.tensor(x)}) for x in (30.0, 9.0, 11.0, 13.0)]
    asked = []

    def loss_of(changes):
        asked.append(float(changes.values["w"]))
        return abs(asked[-1] - 10)

    found = COMBINERS.get("greedy").join(members, [0.25] * 4, loss_of)
    # 9 and 11 are as good alone, and the first is taken; with 11 it is 10, with 13 it is 11.
    assert found.weights == (0.0, 0.5, 0.5, 0.0) and float(found.changes.values["w"]) == 10
    assert asked[:4] == [30, 9, 11, 13] and asked[4:] == pytest.approx([10, 11, 50 / 3])
    same = COMBINERS.get("greedy").join([members[1], members[1], members[0]], [1 / 3] * 3, loss_of)
    assert same.weights == (0.5, 0.5, 0.0)  # as good is good enough


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Three runs of lora at other rates, one on other rows, and one of ia3."""
    folder = tmp_path_factory.mktemp("runs")
    file = study_file(folder / "study", base, methods={"lora": {"rank": 4}})
    with pytest.MonkeyPatch.context() as patch:
        small_suite(patch)
        for n, rate in enumerate((0.01, 0.02, 0.005)):
            changes = [f"train.learning_rate={rate}"]
            train_method(file, "lora", folder / f"lora-{n}", overrides=changes)
        train_method(file, "lora", folder / "seeded", overrides=["seed=1"])
        train_method(file, "ia3", folder / "ia3")
    return folder


@pytest.mark.parametrize("how", COMBINERS.names())
def test_a_combined_run_is_a_run(how, runs, tmp_path):
    names = [runs / f"lora-{n}" for n in range(3)]
    found = combine_runs(names, tmp_path / "soup", how)
    kept = [m for m in found.members if m.weight]
    assert sum(m.weight for m in found.members) == pytest.approx(1)
    assert found.rank == 4 * len(kept) and (len(kept) == 3 or how == "greedy")
    manifest = read_manifest(tmp_path / "soup/adapter", "adapter")
    assert manifest["hash"] == found.hash and manifest["facts"]["how"] == how
    for n, name in enumerate(names, start=1):
        assert manifest["parents"][f"member {n}"] == read_manifest(name / "adapter")["hash"]
    run = load_run(tmp_path / "soup")
    with torch.no_grad():
        model = load_run(names[0]).base.model
        for name, member in zip(names, found.members, strict=True):
            for layer, change in load_run(name).adapter.changes():
                model.get_submodule(layer.path).weight.add_(member.weight * change.product_OI())
        want = torch.cat([own_logits(model, ids) for ids in DOCS])
    torch.testing.assert_close(answers(run.adapter), want, rtol=0, atol=2e-4)
    assert isinstance(run.chat("What colour is fern?", new_tokens=4), str)
    data = runs / "study/train.jsonl"
    assert score_file(str(tmp_path / "soup"), data, items=3, new_tokens=4)["items"] == 3
    export(tmp_path / "soup", tmp_path / "peft", "peft")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["r"] == found.rank and config["rank_pattern"] == {}
    export(tmp_path / "soup", tmp_path / "merged", "merged")


def test_greedy_judges_by_the_rows_that_the_runs_watched(runs, tmp_path, monkeypatch):
    """A member's loss is the one that its own run noted for the state that it kept."""
    names, losses, steps = [runs / f"lora-{n}" for n in range(3)], [], []
    plain = COMBINERS.get("greedy").join

    def join(members, weights, loss_of):
        losses.extend(loss_of(m) for m in members)
        return plain(members, weights, loss_of)

    monkeypatch.setattr(COMBINERS.get("greedy"), "join", staticmethod(join))
    combine_runs(names, tmp_path / "soup", "greedy", listen=steps.append)
    for name, loss in zip(names, losses, strict=True):
        lines = read_lines(name / "metrics.jsonl")
        noted = min(x["development_loss"] for x in lines if "development_loss" in x)
        assert loss == pytest.approx(noted, rel=1e-5)
    assert len({round(x, 4) for x in losses}) == 3
    assert sum(s.stage == "combinations" for s in steps) == 8


def test_weights_are_shares(runs, tmp_path):
    names = [runs / "lora-0", runs / "lora-1"]
    found = combine_runs(names, tmp_path / "soup", weights=[3, 1])
    assert [m.weight for m in found.members] == [0.75, 0.25]


@pytest.mark.usefixtures("quick")
def test_a_study_and_its_trials_are_members(base, tmp_path):
    file = study_file(tmp_path / "study", base, strategies=["lora"], seeds=2)
    folder = decide(file, tmp_path / "run").folder
    trials = [folder, folder / "trials/lora/seed-1"]
    found = combine_runs(trials, tmp_path / "soup")
    assert found.rank == 32 and load_run(tmp_path / "soup").adapter.method == "lora"
    with pytest.raises(ConfigError, match="are the same adapter"):
        combine_runs([folder, folder / "trials/lora"], tmp_path / "other")


def test_what_has_no_mean_is_refused(runs, base, tmp_path):
    one, two, other = runs / "lora-0", runs / "lora-1", runs / "ia3"
    for names, settings, kind, words in (
        ([one], {}, ConfigError, "There is 1 run"),
        ([one, one], {}, ConfigError, "same adapter"),
        ([one, other], {}, ConfigError, "one of ia3"),
        ([one, tmp_path], {}, DataError, "holds no trained adapter"),
        ([one, two], {"weights": [1]}, ConfigError, "2 runs and 1 weights"),
        ([one, two], {"weights": [1, -1]}, ConfigError, "The weights are 1, -1"),
        ([one, two], {"weights": [0, 0]}, ConfigError, "The weights are 0, 0"),
        ([one, two], {"weights": [1, 1], "how": "greedy"}, ConfigError, "finds its weights"),
        ([one, runs / "seeded"], {"how": "greedy"}, ConfigError, "not made from the same dataset"),
        ([one, two], {"how": "averge"}, UnknownName, "averge"),
    ):
        with pytest.raises(kind, match=words):
            combine_runs(names, tmp_path / "soup", **settings)
    with pytest.raises(ConfigError, match="not empty"):
        combine_runs([one, two], runs)
    for method in ("ia3", "dora", "prefix"):
        with pytest.raises(ConfigError, match=f"Runs of {method} cannot be combined") as caught:
            _changes_of(build(tiny_base(), method))
        assert "lora, full" in caught.value.fix
    assert not (tmp_path / "soup").exists()
    assert combine_runs([one, runs / "seeded"], tmp_path / "soup").rank == 8
