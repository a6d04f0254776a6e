"""What a checkpoint must bring back, whatever a parameter looks like in memory."""

import pytest
import torch
from torch import nn

from domainwright.train import checkpoint
from domainwright.train.loss import batch_of, summed_loss


def stepped(parameter, gradients, tensors=None):
    optimiser = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    if tensors:
        checkpoint.restore_optimiser(optimiser, tensors)
    for gradient in gradients:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimiser.step()
    return optimiser


def test_the_state_of_a_parameter_with_strides_of_its_own_comes_back():
    """A file holds no strides: read back as they were written, moments met other weights."""
    start = torch.arange(12.0).view(3, 4)
    gradients = torch.randn(4, 4, 3).unbind()
    whole = nn.Parameter(start.T.clone())
    assert not whole.is_contiguous()
    stepped(whole, gradients)

    first = nn.Parameter(start.T.clone())
    written = checkpoint.optimiser_tensors(stepped(first, gradients[:2]))
    written = {k: v.contiguous() for k, v in written.items()}
    second = nn.Parameter(torch.empty_like(first).copy_(first.detach()))
    stepped(second, gradients[2:], written)
    assert torch.equal(second, whole)


def test_a_pause_leaves_the_run_as_if_there_had_been_none(tmp_path):
    from dataclasses import replace

    from domainwright.train.loop import advance, train
    from tests.train.runs import make_job

    straight = make_job(tmp_path / "straight")
    train(straight)
    paused = make_job(tmp_path / "paused")
    losses = [advance(paused, step).losses for step in (1, 3, 3)]
    assert losses[1] == losses[2] != losses[0]
    assert [row for row, _, _ in losses[0]] == [row.id for row in paused.development]
    with paused.adapter.attached(), torch.no_grad():
        for row, loss, targets in losses[2]:
            (own,) = (r for r in paused.development if r.id == row)
            want = float(summed_loss(paused.base, *batch_of(paused.base, [own])))
            assert loss == pytest.approx(want, rel=1e-5) and targets == own.targets
    again = replace(make_job(tmp_path / "paused"), settings=straight.settings)
    train(again, resume=True)
    for a, b in zip(straight.adapter.parameters(), again.adapter.parameters(), strict=True):
        assert torch.equal(a, b)
