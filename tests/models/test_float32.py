"""Float32 products: another library where it is faster, never other numbers."""

import pytest
import torch

from domainwright.core import machine
from domainwright.models import attention, float32
from domainwright.models import base as base_module
from domainwright.models.flat import flatten
from tests.tiny import documents, tiny_base


@pytest.fixture
def switch():
    """PyTorch's switch as it is without us, put back afterwards."""
    switch, before = torch.backends.mkldnn.matmul, torch.backends.mkldnn.matmul.fp32_precision
    switch.fp32_precision = "none"
    yield switch
    switch.fp32_precision = before


def asked():
    """The answer of a process that has not asked yet."""
    return float32.take_onednn.__wrapped__()


def test_no_product_is_rounded_more_than_float32_rounds(switch):
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(96, 200, generator=draw), torch.randn(200, 130, generator=draw)
    want = a.double() @ b.double()
    plain = (a @ b - want).norm() / want.norm()
    taken = asked()
    assert taken == (switch.fp32_precision == "bf16")
    for found in (a @ b, torch.nn.functional.linear(a, b.T), torch.addmm(torch.zeros(130), a, b)):
        assert (found - want).norm() / want.norm() < 3 * plain < 2e-6


def test_a_processor_that_rounds_keeps_its_own(switch, monkeypatch):
    monkeypatch.setattr(machine, "is_amd", lambda: True)
    monkeypatch.setattr(float32, "_rounds", lambda: True)
    assert not asked() and switch.fp32_precision == "none"


def test_others_processors_keep_their_own(switch, monkeypatch):
    monkeypatch.setattr(machine, "is_amd", lambda: False)
    monkeypatch.setattr(float32, "_rounds", lambda: False)
    assert not asked() and switch.fp32_precision == "none"


def test_a_switch_that_somebody_moved_stays(switch, monkeypatch):
    monkeypatch.setattr(machine, "is_amd", lambda: True)
    switch.fp32_precision = "ieee"
    assert not asked() and switch.fp32_precision == "ieee"


def test_rounding_is_seen(monkeypatch):
    assert not float32._rounds()
    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: plain(a.bfloat16().float(), b.bfloat16().float())
    )
    assert float32._rounds()


@pytest.mark.parametrize("tracked", [False, True])
def test_attention_goes_the_fastest_way_for_its_size(switch, monkeypatch, tracked):
    """Few scores by MKL; many by oneDNN, written down at once where no gradient keeps them."""
    seen = []
    plain, at_once = torch.nn.functional.scaled_dot_product_attention, attention._eager

    def watched(query, key, value, **how):
        seen.append((query.shape[2], switch.fp32_precision))
        return plain(query, key, value, **how)

    def written(query, *rest):
        seen.append((query.shape[2], "at once"))
        return at_once(query, *rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(attention, "_eager", written)
    monkeypatch.setattr(machine, "is_amd", lambda: True)
    monkeypatch.setattr(float32, "_rounds", lambda: False)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, n, 909, 16, generator=draw) for n in (4, 2, 2))
    call = None, query, key, value
    bounds = (0, 500, 700, 800, 900, 909)
    with torch.set_grad_enabled(tracked):
        before, _ = attention.attend(*call, document_bounds=bounds)
        assert {way for _, way in seen} == {"none"}
        seen.clear()
        assert float32.take_onednn()
        # 500² scores are many for one head; 4 x 200² and 4 x 100² for all; 4 x 9² are few.
        after, _ = attention.attend(*call, document_bounds=bounds)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    few = [(200, "none"), (100, "none"), (100, "none"), (9, "none")]
    once = [(200, "at once"), (100, "at once"), (100, "at once"), (9, "none")]
    assert seen == [(500, "bf16"), *(few if tracked else once)]
    assert switch.fp32_precision == "bf16"


@torch.no_grad()
def test_all_scores_of_a_batch_count(monkeypatch):
    monkeypatch.setattr(float32, "_is_taken", lambda: True)
    query, key = torch.zeros(1, 4, 300, 8), torch.zeros(1, 2, 300, 8)
    assert float32.at_once(query, key)
    assert not float32.at_once(query.expand(3, -1, -1, -1), key.expand(3, -1, -1, -1))
    assert not float32.at_once(query.bfloat16(), key.bfloat16())
    # One token a row has its own way, in which no key is repeated.
    assert not float32.at_once(query[:, :, :1].expand(400, -1, -1, -1), key)


def test_only_a_large_base_takes_it_and_reads_on_the_grid(monkeypatch):
    asked = []
    monkeypatch.setattr(base_module, "take_onednn", lambda: not asked.append(1))
    small = tiny_base()
    assert not asked and not small.compiled and small.grid == 1
    assert not tiny_base(dtype=torch.bfloat16).compiled and not asked
    monkeypatch.setattr(base_module, "LEAST", 0)
    large = tiny_base()
    assert asked and large.compiled and large.grid == base_module.GRID
    flat = flatten(documents((9, 4, 14)))
    chosen_N = torch.tensor([3, 8, 26])
    torch.testing.assert_close(
        large.logits(flat, chosen_N), small.logits(flat, chosen_N), rtol=0, atol=2e-5
    )
