"""Several adapters on one base, each owning its rows: every one is as if it were alone."""

import pytest
import torch

from domainwright.methods.lora import Lora, LoraSettings
from domainwright.models.flat import flatten, tile
from tests.tiny import CONFIGS, documents, tiny_base

TREE = [None, 0, 0, None]
LENGTHS = (7, 3, 4, 9)
CHOSEN = torch.tensor([1, 8, 12, 22])
SETTINGS = (
    LoraSettings(rank=3),
    LoraSettings(rank=2, alpha=5.0, targets=("layers.1",)),
    LoraSettings(rank=4, targets=("layers.1",)),
)


def adapters(base, which=(0, 1, 2)):
    found = []
    for number in which:
        settings = SETTINGS[number]
        targets = settings.targets
        if targets == ("layers.1",):
            paths = tuple(x.path for x in base.hooks.linears if x.block == 1)
            settings = LoraSettings(rank=settings.rank, alpha=settings.alpha, targets=paths)
        adapter = Lora.build(base, settings, seed=number)
        with torch.no_grad():
            for b in adapter.B:
                b.copy_(0.1 * torch.randn(b.shape, generator=torch.Generator().manual_seed(number)))
        found.append(adapter)
    return found


@pytest.mark.parametrize("which", [(0, 1, 2), (1, 2), (2,)], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_each_owner_reads_and_learns_as_if_alone(family, which):
    base = tiny_base(family)
    owners = adapters(base, which)
    flat = flatten(documents(LENGTHS), parents=TREE)
    pull = torch.randn(len(CHOSEN), base.hidden(flat).shape[1])
    want = []
    for owner in owners:
        with owner.attached():
            alone = base.hidden(flat, CHOSEN)
            want.append((alone.detach(), torch.autograd.grad((alone * pull).sum(), [*owner.A])))
    for owner in owners:
        owner.attach()
    together = base.hidden_of_each(owners, flat, CHOSEN)
    assert together.shape[:2] == (len(owners), len(CHOSEN))
    parameters = [p for owner in owners for p in owner.A]
    gradients = iter(torch.autograd.grad((together * pull).sum(), parameters))
    for number, (hidden, wanted) in enumerate(want):
        torch.testing.assert_close(together[number].detach(), hidden, rtol=1e-4, atol=1e-4)
        for b in wanted:
            a = next(gradients)
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-7)


def test_below_the_lowest_adapter_the_batch_is_read_once(monkeypatch):
    base = tiny_base("llama")
    owners = adapters(base, (1, 2))
    for owner in owners:
        owner.attach()
    flat = flatten(documents(LENGTHS))
    plain, read = base.trunk.block, []

    def counted(run, block, factors, entered, rows, *, keep):
        read.append((len(entered), keep))
        return plain(run, block, factors, entered, rows, keep=keep)

    monkeypatch.setattr(base.trunk, "block", counted)
    base.hidden_of_each(owners, flat, CHOSEN)
    assert read == [(flat.tokens, False), (2 * flat.tokens, True)]


def test_rows_of_nobody_are_the_bare_bases():
    base = tiny_base("llama")
    flat = flatten(documents(LENGTHS))
    bare = base.hidden(flat)
    (owner,) = adapters(base, (0,))
    owner.attach()
    middle = slice(flat.bounds[1], flat.bounds[3])
    for trunk in (base.trunk, None):
        base.trunk = trunk
        with base.hooks.owning({owner: middle}):
            got = base.hidden(flat)
        torch.testing.assert_close(got[: middle.start], bare[: middle.start])
        torch.testing.assert_close(got[middle.stop :], bare[middle.stop :])
        assert (got[middle] - bare[middle]).abs().max() > 0.1
        with base.hooks.owning({}):
            torch.testing.assert_close(base.hidden(flat), bare)


def test_a_tiled_batch_holds_the_same_documents_copy_after_copy():
    flat = flatten([[5, 6], [7], [8, 9]], parents=[None, 0, None])
    twice = tile(flat, 2)
    assert twice.bounds == (0, 2, 3, 5, 7, 8, 10) and twice.parents == (
        None,
        0,
        None,
        None,
        3,
        None,
    )
    assert twice.ids_T.tolist() == 2 * flat.ids_T.tolist()
    assert twice.positions_T.tolist() == 2 * flat.positions_T.tolist()
    assert tile(flatten([[1]]), 3).parents == ()
