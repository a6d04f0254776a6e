"""lm-eval's own run, with its own model class on the same weights, is the oracle."""

import logging
import math
import os
import random

import numpy as np
import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing

from domainwright.core.errors import CapabilityError, ConfigError, DataError, UnknownName
from domainwright.core.progress import quiet
from domainwright.evaluate import lm_eval_tasks
from domainwright.evaluate._lm_eval_engine import Engine
from domainwright.evaluate._lm_eval_results import alone
from domainwright.evaluate.lm_eval_tasks import load_tasks
from domainwright.methods import METHODS
from tests.lm_eval_here import NAMES, TASKS, data_cache, lm_eval_here  # noqa: F401
from tests.tiny import BEGIN, END, tiny_base, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("lm_eval_here")
CLOSE = 1e-3
"""Nats by which a request may differ from lm-eval's own."""


def peer(model=None, tokenizer=None):
    """lm-eval's own class on the weights of `tiny_base()`, one request at a time."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=model or tiny_model("llama"),
        tokenizer=tokenizer or tiny_tokenizer(),
        batch_size=1,
        device="cpu",
    )


def wanted(model, names, folder=TASKS, **how):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        return simple_evaluate(
            model=model, tasks=names, task_manager=manager, bootstrap_iters=2, **how
        )
    finally:
        del os.environ["DISABLE_MULTIPROC"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Not 0: that would leave out the errors of means too."""
    monkeypatch.setattr(lm_eval_tasks, "RESAMPLES", 2)


def requests(*arguments):
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, own, 0) for own in arguments]


def assert_equal_to_lm_eval(asked, oracle):
    """Every figure, error, reply and mark."""
    compared = 0
    for result in asked.results:
        theirs = oracle["results"][result.name]
        for metric in result.metrics:
            name, _, kind = metric.name.partition(",")
            value = theirs[f"{name},{kind or 'none'}"]
            error = theirs[f"{name}_stderr,{kind or 'none'}"]
            if name in ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"):
                assert metric.value == pytest.approx(value, rel=1e-4)
            else:
                assert metric.value == value, metric.name
                assert metric.error == (None if error == "N/A" else error)
            assert metric.higher_is_better is oracle["higher_is_better"][result.name][name]
            compared += 1
        samples = oracle["samples"].get(result.name, [])
        first = [s for s in samples if s["filter"] == samples[0]["filter"]]
        assert [x.id for x in result.items] == [f"{result.name}#{s['doc_id']}" for s in first]
        for item, sample in zip(result.items, first, strict=True):
            if isinstance(sample["filtered_resps"][0], str):
                assert item.reply == sample["filtered_resps"][0]
            assert sample["arguments"][0][0].endswith(item.question)
            for name in sample["metrics"]:
                key = name if sample["filter"] == "none" else f"{name},{sample['filter']}"
                if isinstance(sample[name], (int, float)) and name != "perplexity":
                    assert item.metrics[key] == sample[name]
                    compared += 1
    assert compared > 50


def test_every_kind_of_task_gives_lm_evals_own_figures():
    asked = load_tasks(NAMES, include=TASKS).ask(tiny_base())
    oracle = wanted(peer(), NAMES)
    assert_equal_to_lm_eval(asked, oracle)
    by = {r.name: {m.name: m.value for m in r.metrics} for r in asked.results}
    # The tasks can tell: each has answers that are right and some that are wrong.
    assert 0 < by["dw_choice"]["acc"] < 1 and 0 < by["dw_last_word"]["acc"] < 1
    assert 0 < by["dw_written"]["exact_match,whole"] < 1
    assert by["dw_written"]["exact_match,whole"] != by["dw_written"]["exact_match,first-letters"]
    assert by["dw_text"]["bits_per_byte"] > 1
    assert {r.name: (r.shots, r.version, len(r.items)) for r in asked.results} == {
        "dw_choice": (2, "1.5", 24),
        "dw_last_word": (0, "1.0", 12),
        "dw_text": (0, "2.0", 6),
        "dw_written": (0, "1.0", 10),
    }
    assert asked.notes == ()


def test_an_adapter_answers_where_one_hangs_on_the_base(tmp_path):
    peft = pytest.importorskip("peft")
    base, lora = tiny_base(), METHODS.get("lora")
    adapter = lora.build(base, lora.Settings(), 0)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(7))
    adapter.save(tmp_path)
    tasks = load_tasks(NAMES, include=TASKS, limit=8)
    plain = tasks.ask(base)
    with adapter.attached():
        asked = tasks.ask(base)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), tmp_path).eval()
    assert_equal_to_lm_eval(asked, wanted(peer(model), NAMES, limit=8))
    moved = [r.metrics[0].value for r in asked.results]
    assert moved[0] != plain.results[0].metrics[0].value and moved[1:3] != [
        r.metrics[0].value for r in plain.results[1:3]
    ]


def test_shots_limit_and_groups_are_lm_evals():
    asked = load_tasks(["dw_both"], include=TASKS, shots=1, limit=7).ask(tiny_base())
    oracle = wanted(peer(), ["dw_both"], num_fewshot=1, limit=7)
    names = [r.name for r in asked.results]
    assert names == ["dw_choice", "dw_last_word", "dw_both"]
    assert [len(r.items) for r in asked.results] == [7, 7, 0]
    for result in asked.results:
        for metric in result.metrics:
            if metric.name != "perplexity":
                assert metric.value == oracle["results"][result.name][f"{metric.name},none"]
    prompts = [s["arguments"][0][0] for s in oracle["samples"]["dw_choice"]]
    assert [x.question for x in asked.results[0].items] == prompts
    assert {p.count("Question:") for p in prompts} == {2}
    assert asked.results[0].shots == 1
    assert asked.notes == ("dw_last_word is asked without examples: its own file says so",)


LONG = "the patient takes the tablets with water in the morning " * 20
PAIRS = [
    ("", "the blood"),
    ("", END),
    ("", END + "the blood"),
    ("the patient ", "takes"),
    ("the patient   ", "takes"),
    ("the patient", " takes the tablets"),
    ("the pati", "ent takes"),
    ("診断", " Łódź\n"),
    (END + "the patient", " takes"),
    (BEGIN + "the patient", " takes"),
    (LONG, " and the evening"),
    (LONG[:700], LONG[700:1100]),
]


def adding_tokenizer():
    """One that puts the begin token in front of every text, as Llama's does."""
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("begins", [False, True, "added"])
def test_each_request_has_lm_evals_likelihood(begins):
    def tokenizer():
        return adding_tokenizer() if begins == "added" else tiny_tokenizer(bos=begins)

    base = tiny_base(tokenizer=tokenizer())
    pairs = [p for p in PAIRS if not (begins and p == ("", BEGIN)) and p != ("", END)]
    if begins:
        pairs.append(("", BEGIN + "the blood"))
    ours = Engine(base, quiet, "").loglikelihood(requests(*pairs))
    other = peer(tokenizer=tokenizer())
    theirs = other.loglikelihood(requests(*pairs), disable_tqdm=True)
    for pair, (a, greedy), (b, wants) in zip(pairs, ours, theirs, strict=True):
        assert abs(a - b) < CLOSE and greedy == wants, pair
    texts = [("",), ("a",), (LONG,), ("診断 " * 200,), (END + "the blood",)]
    ours = Engine(base, quiet, "").loglikelihood_rolling(requests(*texts))
    theirs = other.loglikelihood_rolling(requests(*texts), disable_tqdm=True)
    for text, a, b in zip(texts, ours, theirs, strict=True):
        assert abs(a - b) < CLOSE * (1 + len(text[0]) / 100), text
    assert (ours[0] == 0.0) == (begins != "added") and ours[1] < 0


def test_a_text_that_is_nothing_but_the_first_token_has_no_likelihood():
    """lm-eval ends with an AssertionError there."""
    with pytest.raises(DataError, match="empty"):
        Engine(tiny_base(), quiet, "").loglikelihood(requests(("", END)))


def test_each_answer_is_lm_evals():
    asked = [
        ("the patient takes", {"until": ["hi"], "max_gen_toks": 20}),
        ("the patient takes ", {"until": "\n", "max_new_tokens": 9, "do_sample": False}),
        ("What is warfarin used for?", {"until": [], "max_gen_toks": 30, "temperature": 0.0}),
        ("Question: which", {"until": ["hi"], "max_gen_toks": 20}),
        (LONG, {"until": [], "max_gen_toks": 25, "top_p": 0.9, "do_sample": False}),
        ("the second one", {"until": ["no such", ""], "max_gen_toks": 1}),
    ]
    ours = Engine(tiny_base(), quiet, "").generate_until(requests(*asked))
    # An empty stop is no stop for us; lm-eval's model stops at once there, after one token as here.
    theirs = peer().generate_until(requests(*asked), disable_tqdm=True)
    assert ours == theirs
    assert sum(len(x) > 0 for x in ours) >= 5 and "hi" not in ours[0] + ours[3]
    assert asked[0][1] == {"until": ["hi"], "max_gen_toks": 20}, "the task's settings stay its own"


def test_an_answer_ends_where_transformers_ends_it_not_at_the_chats_end_of_turn():
    """A base whose end-of-sequence is not what closes a turn: lm-eval goes on, and so do we."""
    base = tiny_base()
    first = Engine(base, quiet, "").generate_until(
        requests(("the patient", {"until": [], "max_gen_toks": 6}))
    )
    ids = base.tokenizer(first[0]).input_ids
    base.model.generation_config.eos_token_id = [1, ids[0]]
    ended = Engine(base, quiet, "").generate_until(
        requests(("the patient", {"until": [], "max_gen_toks": 6}))
    )
    assert ended[0] != first[0]


def test_drawn_answers_differ_and_repeat():
    settings = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    twice = requests(*[("the patient takes", settings)] * 4)
    engine = Engine(tiny_base(), quiet, "")
    replies = engine.generate_until(twice)
    assert len(set(replies)) > 1 and engine.generate_until(twice) == replies


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_beams": 4}, "num_beams: 4"),
        ({"do_sample": True, "temperature": 0.7, "top_k": 5}, "top_k"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
    ],
)
def test_ways_to_write_that_the_engine_does_not_know_are_refused(settings, named):
    wanted = {"until": [], "max_gen_toks": 4, **settings}
    with pytest.raises(CapabilityError, match=named):
        Engine(tiny_base(), quiet, "").generate_until(requests(("the patient", wanted)))


def test_an_answer_longer_than_the_context_is_refused():
    wanted = {"until": [], "max_gen_toks": 256}
    with pytest.raises(ConfigError, match="256 tokens"):
        Engine(tiny_base(), quiet, "").generate_until(requests(("the patient", wanted)))


def test_chat_templates_are_used_when_asked_for():
    tasks = load_tasks(["dw_choice"], include=TASKS, limit=2)
    plain, chat = tasks.ask(tiny_base(), errors=False), tasks.ask(tiny_base(), chat=True)
    question = chat.results[0].items[0].question
    assert question.count("<|im_start|>user") == 3 and question.endswith("assistant\n")
    assert "<|im_start|>" not in plain.results[0].items[0].question
    without = tiny_base(tokenizer=tiny_tokenizer(None))
    with pytest.raises(ConfigError, match="no chat template"):
        tasks.ask(without, chat=True)


def test_asking_again_asks_the_same_and_marks_pair_up():
    tasks = load_tasks(NAMES, include=TASKS)
    first, again = tasks.ask(tiny_base(), errors=False), tasks.ask(tiny_base(), errors=False)
    assert first == again
    other = tasks.ask(tiny_base(seed=1), errors=False)
    for a, b in zip(first.results, other.results, strict=True):
        assert [(x.id, x.question) for x in a.items] == [(x.id, x.question) for x in b.items]
    assert [r.deciding for r in first.results] == [
        "acc_norm",
        "acc",
        "bits_per_byte",
        "exact_match,first-letters",
    ]
    # Higher is better in every mark; the metric keeps lm-eval's own direction.
    item = first.results[2].items[0]
    assert item.mark.correct == -item.metrics["bits_per_byte"] < 0
    assert all(m.error is None for r in first.results for m in r.metrics)


def test_items_say_what_was_answered():
    result = load_tasks(["dw_choice"], include=TASKS).ask(tiny_base(), errors=False).results[0]
    for item in result.items:
        assert (item.reply == item.reference) >= bool(item.metrics["acc"])
        assert item.mark == (item.metrics["acc_norm"], True)
    assert any(x.metrics["acc"] for x in result.items)


def test_the_hash_is_of_what_is_asked():
    def hash_of(**how):
        return load_tasks(["dw_choice"], include=TASKS, **how).hash()

    tasks = load_tasks(["dw_choice"], include=TASKS)
    assert tasks.hash() == tasks.hash() == hash_of()
    assert len({hash_of(), hash_of(shots=1), hash_of(limit=3)}) == 3
    assert len(tasks.requests()["dw_choice"]) > 2 * 2 * 24


def test_lm_eval_is_silent_and_leaves_no_trace(capfd):
    import datasets
    import huggingface_hub

    huggingface_hub.constants.HF_HUB_OFFLINE, before = False, True
    datasets.config.HF_HUB_OFFLINE = False
    random.seed(3)
    np.random.seed(3)
    states = random.getstate(), np.random.get_state()[1].tolist()
    variables, handlers = dict(os.environ), list(logging.getLogger("lm_eval").handlers)
    seen = []
    try:
        tasks = load_tasks(["dw_choice", "dw_written"], include=TASKS, listen=seen.append)
        tasks.ask(tiny_base(), errors=False, listen=lambda x: seen.append(x) or print(x))
        flags = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = before
        datasets.config.HF_HUB_OFFLINE = before
    assert flags == (False, False)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert dict(os.environ) == variables
    assert logging.getLogger("lm_eval").handlers == handlers
    out, err = capfd.readouterr()
    assert err == "" and out.splitlines() == [str(s) for s in seen if s.stage == "tasks"]
    assert {s.stage for s in seen} == {"read tasks", "tasks"} and seen[-1].done == seen[-1].total


def written(folder, **changes):
    task = yaml.safe_load((TASKS / "dw_choice.yaml").read_text()) | changes
    (folder / "own.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_warnings_of_lm_eval_are_told(tmp_path):
    # Not the first document: of that one lm-eval looks up the answer when it loads the task.
    wrong = "{{answer + 7 if question == 'thins morning tablets and?' else answer}}"
    written(tmp_path, task="own", doc_to_target=wrong)
    asked = load_tasks(["own"], include=tmp_path, limit=3).ask(tiny_base(), errors=False)
    assert len(asked.notes) == 1 and "Label index" in asked.notes[0]


def test_what_a_tasks_own_code_draws_is_what_lm_eval_draws(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import random\n\n\ndef asked(doc):\n    return f'{random.random()} {doc[\"question\"]}'\n"
    )
    file = written(tmp_path, task="own") / "own.yaml"
    kept = yaml.safe_load(file.read_text())
    kept.pop("doc_to_text")
    file.write_text(yaml.safe_dump(kept) + "doc_to_text: !function mine.asked\n")
    asked = load_tasks(["own"], include=tmp_path, shots=0, limit=5).ask(tiny_base(), errors=False)
    oracle = wanted(peer(), ["own"], folder=tmp_path, num_fewshot=0, limit=5)
    prompts = [s["arguments"][0][0] for s in oracle["samples"]["own"]]
    assert [x.question for x in asked.results[0].items] == prompts and len(set(prompts)) == 5


def test_a_task_without_examples_in_its_file_shows_none(tmp_path):
    written(tmp_path, task="own", num_fewshot=None)
    (question,) = load_tasks(["own"], include=tmp_path, limit=1).ask(tiny_base()).results[0].items
    assert question.question.count("Question:") == 1


def test_a_task_is_found_by_the_path_of_its_file(tmp_path):
    written(tmp_path, task="own")
    assert load_tasks([str(tmp_path / "own.yaml")]).names == ["own"]


def test_data_that_is_elsewhere_is_refused_without_asking_the_network(tmp_path, monkeypatch):
    # Where nobody said that there is none. A connection would fail the test.
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)
    written(tmp_path, task="own", dataset_path="some/data", dataset_kwargs=None)
    with pytest.raises(CapabilityError, match="'own' is not on this machine") as caught:
        load_tasks(["own"], include=tmp_path)
    assert "load_dataset" in caught.value.fix and caught.value.exit_code == 4
    assert "OfflineModeIsEnabled" in caught.value.cause, "it did not even try"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dataset_kwargs": {"data_files": {"test": "no.jsonl"}}}, DataError, "no.jsonl"),
        ({"doc_to_text": "{{nothing.at.all}}"}, DataError, "cannot load the task 'own'"),
        ({"test_split": "nowhere"}, DataError, "nowhere"),
        ({"unsafe_code": True}, ConfigError, "runs code that the model writes"),
        ({"output_type": "nonsense"}, DataError, "nonsense"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(tmp_path, changes, error, words):
    written(tmp_path, task="own", **changes)
    with pytest.raises(error, match=words):
        load_tasks(["own"], include=tmp_path)


def test_what_is_wrong_with_the_asking_is_said(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no folder"):
        load_tasks(["dw_choice"], include=tmp_path / "none")
    # lm-eval's own index takes ten seconds to read; the folder's stands for it here.
    index = lm_eval_tasks._index
    monkeypatch.setattr(lm_eval_tasks, "_index", lambda include, _: index(str(TASKS), False))
    with pytest.raises(UnknownName, match="'dw_choise'") as caught:
        load_tasks(["dw_choise"])
    assert caught.value.fix == "use 'dw_choice'."
    monkeypatch.setattr(lm_eval_tasks, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match="not installed") as caught:
        load_tasks(["dw_choice"])
    assert "domainwright[lm-eval]" in caught.value.fix


def test_a_metric_of_one_item():
    assert alone("acc", np.float64(1)) == 1.0 and alone("perplexity", -2.0) == math.exp(2)
    assert alone("word_perplexity", (-6.0, 3)) == math.exp(2)
    assert alone("bits_per_byte", (-6.0, 3)) == pytest.approx(2 / math.log(2))
    assert alone("mcc", (1, 0)) is None and alone("perplexity", -1e9) == math.exp(700)
