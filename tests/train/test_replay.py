"""General rows beside the training rows: how many, which, with what gradient, by whom."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError, DataError
from domainwright.models.forms import TrainRow
from domainwright.train import order
from domainwright.train import replay as replays
from domainwright.train.loop import train
from domainwright.train.order import Order, replayed_in_step
from domainwright.train.regimes import ReplaySettings
from domainwright.train.replay import planned, with_base_lessons, written
from domainwright.train.step import general_rows, take_step
from tests.methods.test_method_contract import tuned
from tests.tiny import own_logits, tiny_base, tiny_tokenizer, train_rows
from tests.train.candidates import without
from tests.train.runs import make_job
from tests.train.stopped import same_after_a_stop
from tests.train.test_shaped import gradient_of

GENERAL = [replace(r, id=f"general-{n}") for n, r in enumerate(train_rows((8, 13, 5, 9), seed=21))]


def replaying(folder, share=0.3, learn="tokens", general=GENERAL, **changes):
    job = make_job(folder, replay=general, **changes)
    settings = ReplaySettings(share=share, learn=learn)
    return replace(job, settings=replace(job.settings, replay=settings))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.9])
def test_after_any_number_of_steps_the_share_is_exact_to_one_half(share):
    read = 0
    for step in range(60):
        read += len(replayed_in_step(GENERAL, 8, share, 3, step))
        # r / (r + own) = share
        assert abs(read - 8 * (step + 1) * share / (1 - share)) <= 0.5
    assert share < 0.05 or read > 20


def test_every_general_row_comes_before_any_comes_again():
    drawn = [r.id for step in range(40) for r in replayed_in_step(GENERAL, 3, 0.2, 3, step)]
    for first in range(0, len(drawn) - 3, 4):
        assert len(set(drawn[first : first + 4])) == 4
    again = [r.id for step in range(40) for r in replayed_in_step(GENERAL, 3, 0.2, 4, step)]
    assert drawn != again and replayed_in_step([], 8, 0.5, 0, 0) == []


def test_the_runs_own_rows_are_those_of_a_run_without(tmp_path, monkeypatch):
    seen = []
    plain = Order.step
    monkeypatch.setattr(Order, "step", lambda own, n: seen.append((own.batch, n)) or plain(own, n))
    got = train(replaying(tmp_path, share=0.3, steps=4))
    own = sum(len(r.ids) for t in range(4) for r in Order(make_job(tmp_path).rows, 3, 5).step(t))
    more = sum(len(r.ids) for t in range(4) for r in replayed_in_step(GENERAL, 3, 0.3, 5, t))
    assert set(seen) == {(3, t) for t in range(4)}
    assert got.tokens == own + more > own
    # 3 · 0.3 / 0.7 a step: 1, 2, 1 and 1.
    assert [len(general_rows(replaying(tmp_path), t)) for t in range(4)] == [1, 2, 1, 1]


def test_a_step_without_a_general_row_is_that_of_a_run_without(tmp_path):
    """3 · 0.05 / 0.95 a step: the first one comes in the fourth step."""
    want = train(make_job(tmp_path / "a", steps=6)).history
    got = train(replaying(tmp_path / "b", share=0.05, steps=6)).history
    for name in ("loss", "gradient_norm", "tokens"):
        assert [x[name] for x in got[1:4]] == [x[name] for x in want[1:4]]
    assert got[4]["tokens"] > want[4]["tokens"]
    assert got[4]["gradient_norm"] != want[4]["gradient_norm"]
    assert ["replay_loss" in x for x in got[1:]] == [False, False, False, True, False, False]
    none = train(replaying(tmp_path / "c", share=0.0, steps=6)).history
    assert without(none) == without(want)


def mean_loss(base, rows):
    total = torch.zeros(())
    for row in rows:
        marked = [i for i, on in enumerate(row.supervised) if on and i]
        mine = own_logits(base.model, row.ids)[[i - 1 for i in marked]]
        labels = torch.tensor([row.ids[i] for i in marked])
        total = total + functional.cross_entropy(mine, labels, reduction="sum")
    return total / sum(r.targets for r in rows)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_both_means_are_weighed_by_documents(family):
    """b / (b + r) · mean of the own rows + r / (b + r) · mean of the general ones."""
    job = replaying("/nowhere", share=0.4, base=tiny_base(family), clip=1e9)
    rows = job.rows[:4]
    general = general_rows(job, 1)
    loss, told, got, tokens = gradient_of(job, step=1, rows=rows)
    assert len(general) == 2 and tokens == sum(len(r.ids) for r in [*rows, *general])
    with job.adapter.attached():
        means = [mean_loss(job.base, x) for x in (rows, general)]
        want = torch.autograd.grad(
            means[0] * 4 / 6 + means[1] * 2 / 6, list(job.adapter.parameters())
        )
    assert loss == pytest.approx(means[0].item(), rel=1e-4)
    assert told["replay_loss"] == pytest.approx(means[1].item(), rel=1e-4)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()) + 1e-7)


@pytest.mark.parametrize("learn", ["tokens", "base"])
def test_general_rows_are_read_in_the_last_pass_where_they_fit(tmp_path, monkeypatch, learn):
    """The gradient is that of passes of their own."""
    base, rows = tiny_base(), train_rows((7, 11, 6, 9))
    general = GENERAL if learn == "tokens" else with_base_lessons(base, GENERAL, tmp_path)[0]
    job = replaying("/nowhere", 0.4, learn, general, base=base, adapter=tuned(base, "lora"))
    own, more = order.tokens_of(rows), order.tokens_of(general_rows(job, 1))
    read, found = [], []
    plain = type(base).hidden
    monkeypatch.setattr(
        type(base), "hidden", lambda *how: read.append(how[1].tokens) or plain(*how)
    )
    for limit in (own + more, own + more - 1, 1):
        read.clear()
        loss, told, gradient, _ = gradient_of(replace(job, micro_tokens=limit), step=1, rows=rows)
        found.append((loss, told["replay_loss"], torch.cat([x.flatten() for x in gradient])))
        assert len(read) == {own + more: 1, own + more - 1: 2, 1: 6}[limit]
    for loss, general_loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert general_loss == pytest.approx(found[0][1], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(gradient, found[0][2], rtol=1e-4, atol=1e-6)


def test_the_bases_own_distribution_is_the_goal_of_learn_base(tmp_path):
    """KL(base ‖ θ), against torch's; zero with a zero gradient where the adapter is the base."""
    base = tiny_base()
    taught, _ = with_base_lessons(base, GENERAL, tmp_path)
    for row in taught:
        assert (row.lesson.weight, row.lesson.temperature) == (1, 1)
    job = replaying("/nowhere", 0.4, "base", taught, base=base)
    told = {}
    parameters = list(job.adapter.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=0.0)
    still = replace(job, learning_rate=0.0)
    with job.adapter.attached():
        take_step(still, optimiser, parameters, 1, job.rows[:4], told)
    assert told["replay_loss"] == pytest.approx(0, abs=1e-6)
    adapter = tuned(base, "lora")
    still = replace(still, adapter=adapter)
    parameters = list(adapter.parameters())
    take_step(still, torch.optim.AdamW(parameters, lr=0.0), parameters, 1, job.rows[:4], told)
    general = general_rows(still, 1)
    total = 0.0
    for row in general:
        mine = own_logits(base.model, row.ids).detach().log_softmax(1)
        with base.hooks.disabled():
            bare = own_logits(base.model, row.ids).detach().log_softmax(1)
        apart = functional.kl_div(mine, bare, log_target=True, reduction="none").sum(1)
        total += sum(float(apart[i - 1]) for i, on in enumerate(row.supervised) if on and i)
    # 64 of 320 tokens are kept and the rest counts as one: never above the whole divergence.
    want = total / sum(r.targets for r in general)
    assert 0.5 * want < told["replay_loss"] <= want + 1e-5


@pytest.mark.parametrize("learn", ["tokens", "base"])
def test_stopping_and_going_on_changes_no_bit(tmp_path, learn):
    base = tiny_base()
    general = GENERAL if learn == "tokens" else with_base_lessons(base, GENERAL, tmp_path)[0]
    same_after_a_stop(partial(replaying, learn=learn, general=general), tmp_path)


def test_replay_holds_what_a_run_would_forget(tmp_path):
    """Half of the documents are those on which forgetting is watched, as if they were like them."""
    watched = {"general": GENERAL, "steps": 10}
    free = train(make_job(tmp_path / "free", **watched))
    for learn in ("tokens", "base"):
        general = GENERAL
        if learn == "base":
            general, _ = with_base_lessons(tiny_base(), GENERAL, tmp_path)
        job = replaying(tmp_path / learn, 0.5, learn, general, steps=10)
        held = train(replace(job, general=GENERAL))
        assert held.history[-1]["general_loss"] < free.history[-1]["general_loss"]
    assert held.history[-1]["general_kl"] < free.history[-1]["general_kl"]


def own_words(base, row: TrainRow) -> list[int]:
    return [t for t, on in zip(row.ids, row.supervised, strict=True) if on]


@pytest.mark.parametrize("template", [True, False])
def test_the_base_writes_texts_and_conversations(tmp_path, template):
    tokenizer = tiny_tokenizer() if template else tiny_tokenizer(None, bos=True)
    base = tiny_base(tokenizer=tokenizer)
    settings = ReplaySettings(texts=12, new_tokens=10)
    rows, digest = written(base, settings, 200, tmp_path)
    (place,) = tmp_path.iterdir()
    manifest = read_manifest(place, "lessons")
    assert manifest["hash"] == digest and manifest["parents"]["base"] == base.sha256
    lines = [json.loads(x) for x in (place / "replay.jsonl").read_text().split("\n")]
    assert len(lines) == len(rows) <= 12
    for row, line in zip(rows, lines, strict=True):
        assert row.ids == line["prompt"] + line["ids"] and own_words(base, row) == line["ids"]
        assert 0 < len(line["ids"]) <= 11 and line["text"] in tokenizer.decode(line["ids"])
    begun = [tokenizer.decode(x["prompt"]) for x in lines]
    if template:
        # Conversations are the second half: question and answer are both the base's words.
        assert begun[0] == "The" and any(x.startswith("<|im_start|>user\n") for x in begun[6:])
        assert all(x.endswith("<|im_start|>assistant\n") for x in begun if "user" in x)
    else:
        assert all("Question" not in x for x in begun)
    # Asked once: found again, for any run of the study; other settings are written anew.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replays, "answer", lambda *a, **k: pytest.fail("written again"))
        assert written(base, settings, 200, tmp_path) == (rows, digest)
    other, _ = written(base, settings, 200, tmp_path, seed=1)
    assert [r.ids for r in other] != [r.ids for r in rows] and len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_not_believed(tmp_path):
    base, settings = tiny_base(), ReplaySettings(texts=4, new_tokens=5)
    rows, digest = written(base, settings, 200, tmp_path)
    (place,) = tmp_path.iterdir()
    (place / "replay.jsonl").write_text("half")
    assert written(base, settings, 200, tmp_path) == (rows, digest)


def test_a_base_that_writes_nothing_is_told(tmp_path, monkeypatch):
    base = tiny_base()
    monkeypatch.setattr(replays, "_draw", lambda *a: [])
    with pytest.raises(DataError, match="wrote no text of 64") as caught:
        written(base, ReplaySettings(), 200, tmp_path)
    assert "source: FILE" in caught.value.fix


def test_a_plan_reckons_with_the_longest_texts():
    rows = planned(ReplaySettings(texts=3, new_tokens=40), 200)
    assert [(len(r.ids), r.targets) for r in rows] == [(40, 39)] * 3
    assert len(planned(ReplaySettings(texts=3, new_tokens=40), 20)[0].ids) == 20


@pytest.mark.parametrize(
    "wrong", [{"share": 1.0}, {"share": -0.1}, {"texts": 0}, {"new_tokens": 1}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"train\.replay\."):
        ReplaySettings(**wrong)
