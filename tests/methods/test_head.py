"""Heads for labels: against transformers' own classes and PEFT's, in both directions."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from torch.nn import functional

from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.core.records import Choice
from domainwright.evaluate.labels import macro_f1
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.tasks import TASKS
from domainwright.infer.labels import label_logits
from domainwright.methods import METHODS, _head
from domainwright.methods._head import HeadedAdapter
from domainwright.models.forms import Prompt, TrainRow, choice_prompt, labelled_rows, tagged_row
from domainwright.train.loop import train
from domainwright.train.loss import batch_of, losses_of_rows, summed_loss
from domainwright.train.together import train_together
from tests.methods.test_method_contract import DOCS, REFUSED, build, logits
from tests.tiny import tiny_base, tiny_model, train_rows
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop

LABELS = ("cold", "mild", "hot")
CLASSES = {
    "classification": (hf.AutoModelForSequenceClassification, "SEQ_CLS"),
    "labelling": (hf.AutoModelForTokenClassification, "TOKEN_CLS"),
}


def headed(base, method, kind="classification", **settings):
    """An adapter away from its start, with a head."""
    adapter = HeadedAdapter(build(base, method, **settings), kind, LABELS)
    source = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    return adapter


def theirs(family, kind):
    """transformers' own model with the tiny base's weights and a head that is not ours."""
    plain = tiny_model(family)
    config = type(plain.config)(**{**plain.config.to_dict(), "num_labels": 3})
    torch.manual_seed(3)
    model = CLASSES[kind][0].from_config(config).eval()
    model.base_model.load_state_dict(plain.base_model.state_dict())
    return model


def their_logits(model, kind):
    found = [model(input_ids=torch.tensor([ids])).logits[0] for ids in DOCS]
    return [x if kind == "labelling" else x.reshape(-1) for x in found]


CONFIGS = {
    # Not "all-linear": of TOKEN_CLS PEFT takes the head for a layer to adapt, and fails.
    "lora": lambda task: peft.LoraConfig(task_type=task, r=4, target_modules=["q_proj", "o_proj"]),
    "ptuning_v2": lambda task: peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=5),
    "ia3": lambda task: peft.IA3Config(task_type=task),
}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_ours_in_peft(family, method, kind, tmp_path):
    base = tiny_base(family)
    settings = {"rows": 5, "dropout": 0.2} if method == "ptuning_v2" else {}
    adapter = headed(base, method, kind, **settings)
    adapter.save(tmp_path)
    with adapter.attached(), torch.no_grad():
        got = label_logits(base, DOCS, every=kind == "labelling")
    model = peft.PeftModel.from_pretrained(theirs(family, kind), tmp_path).eval()
    with torch.no_grad():
        for ours, want in zip(got, their_logits(model, kind), strict=True):
            torch.testing.assert_close(ours, want, rtol=0, atol=2e-4)
    assert max(float(x.abs().max()) for x in got) > 0.1
    again = _head.load(tiny_base(family), tmp_path)
    assert (again.method, again.head.labels, again.head.kind) == (method, LABELS, kind)
    with again.attached():
        for ours, same in zip(
            got, label_logits(again.base, DOCS, every=kind == "labelling"), strict=True
        ):
            assert torch.equal(ours, same)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("kind", CLASSES)
def test_theirs_in_ours(method, kind, tmp_path):
    task = CLASSES[kind][1]
    model = peft.get_peft_model(theirs("llama", kind), CONFIGS[method](task)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
        want = their_logits(model, kind)
    model.save_pretrained(tmp_path)
    assert _head.has_head(tmp_path)
    base = tiny_base("llama")
    adapter = _head.load(base, tmp_path)
    assert adapter.head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    with adapter.attached():
        got = label_logits(base, DOCS, every=kind == "labelling")
    for ours, other in zip(got, want, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=2e-4)


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_takes_a_head(method, tmp_path):
    """It and the adapter get transformers' gradients of the labels' loss, and come back whole."""
    family = "gpt2" if "llama" in REFUSED.get(method, ()) else "llama"
    base = tiny_base(family)
    before = logits(base)
    adapter = headed(base, method)
    rows = [
        TrainRow(str(i), ids, [False] * (len(ids) - 1) + [True], labels=(i % 3,), classes=3)
        for i, ids in enumerate(DOCS)
    ]
    with adapter.attached():
        loss = summed_loss(base, *batch_of(base, rows))
        got = torch.autograd.grad(loss, list(adapter.parameters()))
        states = torch.stack(
            [
                base.model.base_model(input_ids=torch.tensor([ids]), use_cache=False)
                .last_hidden_state[0, -1]
                .float()
                for ids in DOCS
            ]
        )
        table = functional.linear(states, adapter.head.weight)
        want_loss = functional.cross_entropy(table, torch.tensor([0, 1, 2]), reduction="sum")
        want = torch.autograd.grad(want_loss, list(adapter.parameters()))
        assert losses_of_rows(base, rows, 12) == pytest.approx(
            functional.cross_entropy(table, torch.tensor([0, 1, 2]), reduction="none").tolist(),
            rel=1e-3,
        )
        said = label_logits(base, DOCS)
    torch.testing.assert_close(loss, want_loss, rtol=1e-4, atol=1e-4)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 1e-6)
    assert torch.equal(logits(base), before) and base.hooks.head is None
    adapter.save(tmp_path)
    again = _head.load(tiny_base(family), tmp_path)
    with again.attached():
        for a, b in zip(said, label_logits(again.base, DOCS), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert adapter.trainable == adapter.inner.trainable + 3 * 32
    groups = [p for group, _ in adapter.rate_groups() for p in group]
    assert {id(p) for p in groups} == {id(p) for p in adapter.parameters()}
    with pytest.raises(CapabilityError, match="cannot be merged"):
        next(adapter.merged_parameters())


def choices(count=24):
    """Learnable: the label is the word in the question."""
    return [
        Choice(
            id=f"c{n}",
            group=f"g{n}",
            file="f",
            line=n + 1,
            question=f"number {n}: how is {('snow', 'rain', 'sand')[n % 3]}",
            choices=LABELS if n % 2 else LABELS[::-1],
            answer=n % 3 if n % 2 else 2 - n % 3,
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("method", ["lora", "ptuning_v2"])
def test_a_head_is_trained_in_the_one_loop(tmp_path, method):
    rows = choices()
    settings = {"rank": 4} if method == "lora" else {"rows": 4, "dropout": 0.1}

    def job_in(folder):
        base = tiny_base()
        documents = labelled_rows(base.template, rows, LABELS, 64)
        return make_job(
            folder,
            base=base,
            adapter=HeadedAdapter(build(base, method, **settings), "classification", LABELS),
            rows=documents[:18],
            development=documents[18:],
            steps=30,
            rate=3e-2,
            batch=6,
        )

    job, trained = same_after_a_stop(job_in, tmp_path, 11)
    # The base has no head: it guesses.
    assert trained.base_loss == pytest.approx(np.log(3)) and trained.best_loss < 0.5
    # On the items of the task `choices`, whatever their order of the choices.
    task, base = TASKS.get("choices"), job.base
    prompts = [Prompt(text=choice_prompt(row)) for row in rows[18:]]
    plain = task.run(base, rows[18:], prompts, decide_by="accuracy")
    with job.adapter.attached():
        items = task.run(base, rows[18:], prompts, decide_by="accuracy")
        other = task.run(base, [SHORT], prompts[:1], decide_by="accuracy")
    assert [x.id for x in items] == [x.id for x in plain]
    assert np.mean([x.mark.correct for x in items]) == 1 and macro_f1(items) == 1
    assert np.mean([x.loss for x in items]) == pytest.approx(trained.best_loss, rel=1e-4)
    assert {x.loss_tokens for x in items} == {1} and items[0].metrics["accuracy_norm"] == 1
    assert other[0].reply in SHORT.choices  # other choices than the head's: by likelihood


SHORT = Choice(id="s", group="s", file="f", line=1, question="?", choices=("a", "b"), answer=0)


def test_tags_sit_on_the_last_token_of_a_word():
    base = tiny_base()
    row = tagged_row(base.template, "r", ["the", "patient", "takes"], [0, 2, 1], 3)
    ends = [i for i, on in enumerate(row.supervised) if on]
    texts = [
        base.tokenizer.decode(row.ids[a + 1 : b + 1]).strip()
        for a, b in zip([-1, *ends[:-1]], ends, strict=True)
    ]
    assert texts == ["the", "patient", "takes"] and row.targets == 3
    flat, sources, labels, _, classes = batch_of(base, [row, row])
    assert labels.tolist() == [0, 2, 1] * 2 and classes == 3
    assert sources.tolist() == ends * 2 and flat.tokens == len(row.ids)  # read once


def test_the_dropout_of_deep_prompts():
    """Numbers of the table are zero or larger by 1 / (1 - p), in training only."""
    base = tiny_base()
    adapter = build(base, "ptuning_v2", rows=8, dropout=0.25)
    adapter.attach()
    with torch.no_grad():
        assert not base.hooks.dropping and torch.equal(logits(base), logits(base))
    assert base.hooks.dropping and not torch.equal(logits(base), logits(base))
    (made,) = {hook for site in base.hooks.at("position") for hook, _ in base.hooks.on(site.path)}
    kept = made.table_PLKh != 0
    torch.testing.assert_close(made.table_PLKh[kept], adapter.table[kept] / 0.75)
    assert 0.15 < 1 - float(kept.float().mean()) < 0.35
    plain = build(tiny_base(), "prefix", rows=8)
    plain.attach()
    assert not plain.base.hooks.dropping and plain.dropout == 0


def test_candidates_with_heads_step_alone(tmp_path):
    base = tiny_base()
    rows = labelled_rows(base.template, choices(8), LABELS, 64)
    jobs = [
        make_job(
            tmp_path / str(n),
            base=base,
            adapter=HeadedAdapter(build(base, "lora", seed=n), "classification", LABELS),
            rows=rows,
            development=rows,
            steps=3,
            micro=400,
        )
        for n in (1, 2)
    ]
    for trained in train_together(jobs, way="fused"):
        assert trained.best_loss < trained.base_loss


def test_tags_are_learned_in_the_one_loop(tmp_path):
    """Every word keeps its tag, whatever stands before it."""
    base = tiny_base()
    words = ["the", "patient", "takes", "water", "in"]
    orders = [np.roll(words, n).tolist() for n in range(5)] + [words[::-1]]
    rows = [
        tagged_row(base.template, str(n), some, [words.index(w) % 3 for w in some], 3)
        for n, some in enumerate(orders)
    ]
    adapter = HeadedAdapter(build(base, "lora", rank=2), "labelling", LABELS)
    job = make_job(tmp_path, base=base, adapter=adapter, rows=rows, development=rows, rate=3e-2)
    assert train(job).best_loss < 0.3
    with adapter.attached():
        said = label_logits(base, [row.ids for row in rows], every=True)
    for row, logits_NC in zip(rows, said, strict=True):
        marked = torch.tensor(row.supervised)
        assert logits_NC[marked].argmax(1).tolist() == list(row.labels)


def test_macro_f1_by_hand():
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "b"), ("b", "b"), ("c", "c")]
    items = [item(reference=r, reply=p) for r, p in pairs]
    # a: tp 1, fn 1 -> 2/3; b: tp 2, fp 2 -> 4/6; c: tp 1, fn 1 -> 2/3
    assert macro_f1(items) == pytest.approx(np.mean([2 / 3, 4 / 6, 2 / 3]))


def item(**fields):
    return Item(id="", group="", question="", mark=Mark(0, True), **fields)


def test_what_does_not_fit_is_refused(tmp_path):
    base = tiny_base()
    with pytest.raises(ConfigError, match="has a head for labels"):
        label_logits(base, DOCS)
    adapter = headed(base, "lora")
    with adapter.attached():
        with pytest.raises(CapabilityError, match="Two adapters bring a head"):
            headed(base, "lora").attach()
        with base.hooks.disabled():
            assert base.hooks.head is None
        with pytest.raises(ConfigError, match="exceeds the context"):
            label_logits(base, [[5] * 300])
    adapter.save(tmp_path / "a")
    with pytest.raises(DataError, match="modules_to_save"):
        METHODS.get("lora").load(tiny_base(), tmp_path / "a")
    file = tmp_path / "a" / "domainwright.json"
    noted = json.loads(file.read_text())
    noted["head"]["labels"] = ["x", "y"]
    file.write_text(json.dumps(noted))
    with pytest.raises(DataError, match="has the shape"):
        _head.load(tiny_base(), tmp_path / "a")
    build(tiny_base(), "lora").save(tmp_path / "b")
    with pytest.raises(DataError, match="holds no head"):
        _head.load(tiny_base(), tmp_path / "b")
    with pytest.raises(AssertionError, match="other labels"):
        rows = [*labelled_rows(base.template, choices(1), LABELS, 64), *train_rows((5,))]
        batch_of(base, rows)
    with pytest.raises(ConfigError, match=r"dropout is 1\.0"):
        METHODS.get("ptuning_v2").Settings(dropout=1.0)
