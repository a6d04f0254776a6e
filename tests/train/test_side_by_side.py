"""Multitask prompts: every task read after its own prompt, beside PEFT with the rows' task ids."""

from dataclasses import replace

import peft
import pytest
import torch

from domainwright.core.errors import DataError
from domainwright.methods import METHODS
from domainwright.train.loop import train
from domainwright.train.passes import Packing
from domainwright.train.step import add_gradients, mean_loss
from domainwright.train.tasks import TaskSettings, balance_of
from tests.tiny import tiny_base, tiny_model, train_rows
from tests.train.runs import make_job

LENGTHS = (7, 16, 6, 9, 12)
MPT = METHODS.get("multitask_prompt")


def as_built(base):
    adapter = MPT.build(base, MPT.Settings(rows=3, ranks=2), 0)
    adapter.learn_tasks("ab")
    return adapter


def side_by_side(base):
    adapter = as_built(base)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=draw))
    return adapter


def two_tasks():
    return [replace(row, task="ab"[n % 2]) for n, row in enumerate(train_rows(LENGTHS))]


def job_of(base, adapter, rows, **changes):
    return make_job("/nowhere", base=base, adapter=adapter, rows=rows, clip=1e9, **changes)


def theirs(adapter, folder):
    """PEFT's model of the saved adapter, (summed loss, supervised tokens) of every row."""
    adapter.save(folder)
    model = peft.PeftModel.from_pretrained(tiny_model("llama"), folder)
    model.prompt_encoder.requires_grad_(True)
    model.get_base_model().set_attn_implementation("eager")

    def loss(row):
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids, task_ids=torch.tensor(["ab".index(row.task)])).logits[0, 3:]
        asked = [n for n in range(1, len(row.ids)) if row.supervised[n]]
        before, wanted = [n - 1 for n in asked], [row.ids[n] for n in asked]
        return torch.nn.functional.cross_entropy(
            logits[before], torch.tensor(wanted), reduction="sum"
        )

    return model, loss


def test_loss_and_gradient_are_pefts(tmp_path):
    base, rows = tiny_base("llama"), two_tasks()
    adapter = side_by_side(base)
    model, loss_of = theirs(adapter, tmp_path)
    assert model.peft_config["default"].num_tasks == 2
    total = sum(loss_of(row) for row in rows) / sum(row.targets for row in rows)
    total.backward()
    parameters = list(adapter.parameters())
    job = job_of(base, adapter, rows, development=rows)
    with adapter.attached():
        mine = add_gradients(job, torch.optim.SGD(parameters, 0.0), 0, Packing(base, rows))
        assert mean_loss(job, rows) == pytest.approx(total.item(), rel=1e-5)
    assert mine == pytest.approx(total.item(), rel=1e-5)
    other = model.prompt_encoder["default"]
    pairs = {
        adapter.table: other.embedding.weight,
        adapter.cols: other.prefix_task_cols,
        adapter.rows_of_task: other.prefix_task_rows,
    }
    for own, its in pairs.items():
        scale = float(its.grad.abs().max())
        torch.testing.assert_close(own.grad, its.grad, rtol=1e-3, atol=1e-4 * scale)


def test_balanced_tasks_are_read_apart_too(tmp_path):
    base, rows = tiny_base("llama"), two_tasks()
    adapter = side_by_side(base)
    model, loss_of = theirs(adapter, tmp_path)
    total = 0.0
    for task in "ab":
        own = [row for row in rows if row.task == task]
        mean = sum(loss_of(row) for row in own) / sum(row.targets for row in own)
        total = total + len(own) / len(rows) * mean
    total.backward()
    balance = balance_of(TaskSettings(weighting="documents"), rows, 0)
    job = job_of(base, adapter, rows, balance=balance)
    with adapter.attached():
        optimiser = torch.optim.SGD(adapter.parameters(), 0.0)
        add_gradients(job, optimiser, 0, Packing(base, rows))
    its = model.prompt_encoder["default"].embedding.weight.grad
    torch.testing.assert_close(
        adapter.table.grad, its, rtol=1e-3, atol=1e-4 * float(its.abs().max())
    )


def test_one_tasks_rows_move_its_share_and_what_is_shared(tmp_path):
    base = tiny_base("llama")
    adapter = as_built(base)
    start = {k: v.clone() for k, v in adapter.state_dict().items()}
    rows = [replace(row, task="b") for row in two_tasks()]
    train(replace(job_of(base, adapter, rows, development=rows[:2], steps=4), folder=tmp_path))
    now = adapter.state_dict()
    for name in ("cols", "rows_of_task"):
        assert torch.equal(now[name][0], start[name][0])
        assert not torch.equal(now[name][1], start[name][1])
    assert not torch.equal(now["table"], start["table"])


def test_a_task_goes_on_alone_from_its_own_prompt(tmp_path):
    base = tiny_base("llama")
    adapter = side_by_side(base)
    adapter.save(tmp_path)
    with adapter.reading("b"):
        want = adapter.rows()
    settings = MPT.Settings(rows=3, ranks=2)
    alone = MPT.of_task(base, settings, tmp_path, "b", 0)
    assert torch.equal(alone.rows(), want) and len(alone.cols) == 1
    each = []
    for task in "ab":
        with adapter.reading(task):
            each.append(adapter.rows())
    # Rows of no task that it knows are read after the mean of the prompts.
    with adapter.reading("elsewhere"):
        torch.testing.assert_close(adapter.rows(), (each[0] + each[1]) / 2)
    with pytest.raises(DataError, match="has 2 tasks"):
        MPT.load(base, tmp_path)
