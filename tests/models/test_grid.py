"""Rows that fill a matrix product change nothing, and leave few numbers of rows to compile for."""

import pytest
import torch

from domainwright.methods.lora import Lora, LoraSettings
from domainwright.models.base import GRID, Base
from domainwright.models.flat import flatten
from domainwright.train.loss import summed_loss, summed_losses
from tests.tiny import CONFIGS, documents, tiny_base

LENGTHS, PARENTS = (9, 5, 3, 14), [None, 0, 0, None]


def test_only_where_products_are_compiled():
    assert tiny_base("llama", torch.bfloat16).grid == GRID
    assert tiny_base("llama").grid == 1
    assert tiny_base("mamba", torch.bfloat16).grid == 1


def read(base, adapters):
    flat = flatten(documents(LENGTHS), parents=PARENTS)
    targets = torch.tensor([3, 11, 15, flat.tokens - 1])
    labels = flat.ids_T[targets]
    if len(adapters) == 1:
        loss = summed_loss(base, flat, targets - 1, labels)
    else:
        loss = summed_losses(base, adapters, flat, targets - 1, labels).sum()
    trained = [p for adapter in adapters for p in adapter.parameters()]
    logits = base.logits(flat, targets).detach()
    return loss.detach(), torch.autograd.grad(loss, trained), logits


@pytest.mark.parametrize("owners", [1, 2])
@pytest.mark.parametrize("trunk", [True, False])
@pytest.mark.parametrize("family", [f for f in CONFIGS if tiny_base(f).feeding != "single"])
def test_losses_gradients_and_logits_are_the_same(family, trunk, owners, monkeypatch):
    base = tiny_base(family)
    if not trunk:
        base.trunk = None
    if owners > 1 and not base.plain_head:
        pytest.skip("candidates of such a base step one after the other")
    adapters = [Lora.build(base, LoraSettings(rank=3), seed=i) for i in range(owners)]
    for adapter in adapters:
        with torch.no_grad():
            for b in adapter.B:
                b.copy_(torch.linspace(-0.1, 0.1, b.numel()).view(b.shape))
        adapter.attach()
    want = read(base, adapters)
    monkeypatch.setattr(Base, "grid", 16)
    got = read(base, adapters)
    for a, b in zip((got[0], *got[1], got[2]), (want[0], *want[1], want[2]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_every_product_has_rows_on_the_grid():
    base = tiny_base("llama", torch.bfloat16)
    base.trunk = None
    seen = set()
    for linear in base.hooks.linears:
        base.hooks.add(linear.path, lambda x, out: seen.add(x.shape[-2]) or out)
    for last in (3, 4, 21, 40):
        flat = flatten(documents((*LENGTHS, last)))
        base.logits(flat, torch.tensor([2, 7, flat.tokens - 1]))
    assert seen == {64, 96, 128}
