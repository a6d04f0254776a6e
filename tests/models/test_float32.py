"""Float32 products: another library where it is faster, never other numbers."""

import pytest
import torch

from domainwright.core import machine
from domainwright.models import float32


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


def test_rounding_is_seen(monkeypatch):
    assert not float32._rounds()
    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: plain(a.bfloat16().float(), b.bfloat16().float())
    )
    assert float32._rounds()
