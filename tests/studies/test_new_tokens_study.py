"""`lora.new_tokens` in whole studies: the base stays itself, and all that reads them knows them."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from domainwright.core.errors import ConfigError
from domainwright.evaluate.records import Item, Mark
from domainwright.models.flat import flatten
from domainwright.studies.api import decide, load_run, plan, train_method
from domainwright.studies.card import model_card
from domainwright.studies.combine import combine_runs
from domainwright.studies.export import export
from domainwright.studies.judge import _surer
from domainwright.train.job import Interrupted
from tests.studies.world import PLANTS, read_lines, save_base, small_suite, study_file, write_lines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")
WORDS = [*PLANTS[:8], "§ 823"]
NEW = {"lora": {"new_tokens": WORDS}}
REPLAY = {"replay": {"share": 0.25, "texts": 4, "new_tokens": 8, "learn": "base"}}
GENERAL = [{"id": f"g{n}", "text": f"The {w} and other trees grow."} for n, w in enumerate(PLANTS)]
ASKED = "What colour is alder?"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    return folder, save_base(folder / "base")


@pytest.fixture(scope="module")
def decided(world):
    """The same study without and with new words; with replay of what the base wrote."""
    folder, base = world
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        small_suite(patch)
        for name, methods in (("plain", {}), ("new", NEW)):
            general = {"retention": ["general.jsonl"]}
            study = study_file(folder / name, base, methods=methods, train=REPLAY, evaluate=general)
            write_lines(folder / name / "general.jsonl", GENERAL)
            found[name] = decide(study, folder / f"run-{name}")
    return found


def items(run, strategy):
    return read_lines(run.folder / "trials" / strategy / "scorecard" / "items.jsonl")


def test_who_has_no_new_words_is_asked_and_answers_as_before(decided):
    """The base is one object for all strategies of a study."""
    before, after = (items(decided[name], "zero_shot") for name in ("plain", "new"))
    kept = ("id", "reply", "mark", "loss", "loss_tokens", "tokens_in", "tokens_out")
    assert [{k: x[k] for k in kept} for x in before] == [{k: x[k] for k in kept} for x in after]
    retained = [
        read_lines(decided[name].folder / "trials/base/retention/texts.jsonl")
        for name in ("plain", "new")
    ]
    assert [x["loss"] for x in retained[0]] == [x["loss"] for x in retained[1]]


def test_the_method_is_asked_and_trained_with_them(decided):
    assert {r.name: r.status for r in decided["new"].strategies} == {
        "zero_shot": "done",
        "lora": "done",
    }
    before, after = (items(decided[name], "lora") for name in ("plain", "new"))
    named = [any(w in x["question"] for w in WORDS) for x in before]
    assert any(named)
    for old, new, on in zip(before, after, named, strict=True):
        assert (new["tokens_in"] < old["tokens_in"]) == on
        assert (new["loss_tokens"] < old["loss_tokens"]) == on
    trained = [
        next(r for r in decided[name].strategies if r.name == "lora").training
        for name in ("plain", "new")
    ]
    forms = 2 * len(WORDS)
    assert trained[1].trainable == trained[0].trainable + 32 * forms
    assert trained[1].tokens < trained[0].tokens and trained[1].settings["new_tokens"] == WORDS


def test_forgetting_is_by_the_tokens_of_the_base(decided):
    """With new words a text has fewer tokens, and the sums over it stay what is compared."""
    kept = decided["new"].folder / "trials"
    base, lora = (read_lines(kept / name / "retention/texts.jsonl") for name in ("base", "lora"))
    fewer = [b["loss_tokens"] < a["loss_tokens"] for a, b in zip(base, lora, strict=True)]
    assert sum(fewer) == 8 < len(fewer)
    change = sum(
        (b["loss"] - a["loss"]) / a["loss_tokens"] for a, b in zip(base, lora, strict=True)
    ) / len(base)
    result = next(r for r in decided["new"].strategies if r.name == "lora")
    assert result.retention.nats_change.mean == pytest.approx(change)


def test_who_is_surer_is_counted_by_the_same_tokens():
    """Half the tokens and a fifth less loss: by its own tokens it would look less sure."""

    def of(loss, tokens):
        return [
            Item(
                id=str(n),
                group=str(n),
                question="",
                reference="",
                reply="",
                mark=Mark(1.0, True),
                loss=loss + 0.01 * n,
                loss_tokens=tokens,
            )
            for n in range(20)
        ]

    gap = _surer(of(8.0, 5), of(10.0, 10), "token_f1")
    assert gap is not None and gap.mean == pytest.approx(0.2)
    assert _surer(of(10.0, 10), of(8.0, 5), "token_f1") is None


def test_the_run_is_opened_asked_and_exported(world, decided, tmp_path):
    run = load_run(decided["new"].folder, "lora")
    plain = run.base.tokenizer(ASKED).input_ids
    with run.adapter.attached(), torch.no_grad():
        ids = run.base.tokenizer(ASKED).input_ids
        want = run.base.logits(flatten([ids]), torch.arange(len(ids)))
    assert max(ids) >= 310 > max(plain) and len(ids) < len(plain)
    # The row that training moved is no longer the mean that it began as.
    slot = run.adapter.token_ids.index(max(ids))
    start = run.adapter.words.rows(run.base.model.get_input_embeddings().weight)[max(ids)]
    assert not torch.allclose(run.adapter.token_rows[slot], start, atol=1e-4)
    assert isinstance(run.chat(ASKED, new_tokens=3), str)
    assert run.base.tokenizer(ASKED).input_ids == plain
    export(decided["new"].folder, tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer(ASKED).input_ids == ids
    got = merged(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, want, rtol=0, atol=3e-4)
    export(decided["new"].folder, tmp_path / "peft", "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(world[1])})
    )
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft", dtype=torch.float32)
    got = model.eval()(input_ids=torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, want, rtol=0, atol=3e-4)


def test_the_card_loads_them(decided):
    card = model_card(decided["new"].verdict, "lora")
    assert "base.resize_token_embeddings(len(tokenizer), mean_resizing=False)" in card
    assert "resize" not in model_card(decided["plain"].verdict, "lora")


@pytest.mark.parametrize(
    "train",
    [
        {"penalties": {"kl": {"weight": 0.3}}},
        {"penalties": {"l2_sp": {"weight": 0.1}}, "average": 0.5},
        {"neftune": 5, "label_smoothing": 0.1, "prompt_weight": 0.1},
        {"replay": {"share": 0.25, "source": "general.jsonl", "learn": "base"}},
        {"replay": {"share": 0.25, "texts": 4, "new_tokens": 8, "learn": "texts"}},
        {"max_forgetting": 0.0001, "learning_rate": 0.02},
    ],
    ids=str,
)
def test_what_a_run_compares_itself_with_reads_them_too(world, train, tmp_path):
    if train.get("replay", {}).get("learn") == "texts":
        train = {"replay": {k: v for k, v in train["replay"].items() if k != "learn"}}
    study = study_file(tmp_path / "study", world[1], methods=NEW, train=train)
    write_lines(tmp_path / "study" / "general.jsonl", GENERAL[:8])
    figures = train_method(study, "lora", tmp_path / "run")
    assert figures.steps == 6 and figures.history[0]["development_loss"] > 0
    assert figures.history[0]["general_loss"] > 0


def test_a_paused_run_goes_on_as_it_would_have(world, tmp_path):
    study = study_file(tmp_path / "study", world[1], methods=NEW)
    whole = train_method(study, "lora", tmp_path / "whole")

    class Stop:
        calls = 0

        def __call__(self):
            self.calls += 1
            return self.calls == 3

    with pytest.raises(Interrupted):
        train_method(study, "lora", tmp_path / "parts", stop=Stop())
    again = train_method(study, "lora", tmp_path / "parts", resume=True)
    losses = [[x["loss"] for x in f.history if "loss" in x] for f in (whole, again)]
    assert losses[0] == losses[1]


def test_a_run_on_a_base_in_four_bits_and_dora(world, tmp_path):
    for number, (method, changes) in enumerate(
        [("qlora", {"quantise": "nf4"}), ("dora", {}), ("lora", {"quantise": "nf4"})]
    ):
        study = study_file(
            tmp_path / f"study-{number}", world[1], methods={method: NEW["lora"]}, **changes
        )
        folder = tmp_path / f"run-{number}"
        train_method(study, method, folder)
        run = load_run(folder)
        with run.adapter.attached(), torch.no_grad():
            ids = run.base.tokenizer(ASKED).input_ids
            want = run.base.logits(flatten([ids]), torch.arange(len(ids)))
        export(folder, tmp_path / f"merged-{number}", "merged")
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / f"merged-{number}", dtype=torch.float32
        ).eval()
        got = model(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


def test_the_rates_are_tested_and_the_study_is_planned(world, tmp_path):
    study = study_file(
        tmp_path / "study", world[1], methods=NEW, strategies=["zero_shot", "lora", "lora+few_shot"]
    )
    assert any(line.name == "lora" for line in plan(study).strategies)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategies": "auto", "train": {"learning_rate": None}}, "losses per token"),
        ({"train": {"distil": {"learn": "logits"}}}, "no teacher knows the tokens"),
    ],
    ids=str,
)
def test_what_they_do_not_go_with_is_refused_before_anything_is_trained(
    world, changes, said, tmp_path
):
    study = study_file(tmp_path / "study", world[1], methods=NEW, **changes)
    with pytest.raises(ConfigError, match=said):
        plan(study)


def test_they_do_not_go_with_a_teachers_probabilities(world, decided, tmp_path):
    study = study_file(
        tmp_path / "one", world[1], methods=NEW, train={"distil": {"learn": "logits"}}
    )
    with pytest.raises(ConfigError, match="of the student or of its teacher alone"):
        train_method(study, "lora", tmp_path / "run")
    teacher = str(decided["new"].folder / "trials" / "lora")
    distil = {"teacher": teacher, "learn": "logits"}
    study = study_file(tmp_path / "two", world[1], train={"distil": distil})
    with pytest.raises(ConfigError, match="of the student or of its teacher alone"):
        train_method(study, "lora", tmp_path / "taught")


def test_runs_with_them_are_not_combined(world, decided, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    study = study_file(tmp_path / "study", world[1], methods=NEW, train={"steps": 2})
    for seed, folder in enumerate(folders):
        train_method(study, "lora", folder, overrides=[f"seed={seed}"])
    with pytest.raises(ConfigError, match=r"lora\.new_tokens. cannot be combined"):
        combine_runs(folders, tmp_path / "both")
