"""bitsandbytes' operations get our codes as they want them.

They are called through their implementation for CPUs here: what a layer hands over is the same on
a GPU, whose kernels no test has run.
"""

import logging

import pytest
import torch

from domainwright.models import gpu_four_bit
from domainwright.models.four_bit import quantise
from domainwright.models.quantised import product

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
pytest.importorskip("bitsandbytes")


@pytest.fixture
def called(monkeypatch):
    """Names of the operations that were used, a CPU being taken for a GPU."""
    names = []
    for name in ("dequantised", "product"):
        own = getattr(gpu_four_bit, name)
        monkeypatch.setattr(
            gpu_four_bit, name, lambda *a, _own=own, _name=name: names.append(_name) or _own(*a)
        )
    monkeypatch.setattr(gpu_four_bit, "DEVICES", ("cpu",))
    return names


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_and_product_are_ours(called, kind, double, dtype):
    draw = torch.Generator().manual_seed(3)
    codes = quantise(torch.randn(48, 128, generator=draw), kind, double=double)
    plain = torch.empty(48, 128, dtype=dtype)
    codes._plain(plain.view(-1))
    assert torch.equal(codes.dequantised(dtype), plain) and called == ["dequantised"]
    x = torch.randn(2, 5, 128, generator=draw).to(dtype).requires_grad_()
    bias = torch.randn(48, generator=draw).to(dtype).requires_grad_()
    out = product(x, codes, bias)
    assert called[1:] == ["product"]
    out.square().sum().backward()
    x2, bias2 = x.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    wanted = torch.nn.functional.linear(x2, plain, bias2)
    wanted.square().sum().backward()
    # bfloat16 keeps 8 bits, and the two add 128 products in different orders.
    limit = 1e-5 if dtype == torch.float32 else 2e-2
    for mine, other in ((out, wanted), (x.grad, x2.grad), (bias.grad, bias2.grad)):
        assert (mine - other).norm() < limit * other.norm()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(6, 96), (16, 32), (5, 7)])
def test_rows_that_are_no_whole_blocks_are_unpacked(called, kind, shape):
    draw = torch.Generator().manual_seed(3)
    codes = quantise(torch.randn(*shape, generator=draw), kind)
    plain = torch.empty(shape)
    codes._plain(plain.view(-1))
    assert torch.equal(codes.dequantised(torch.float32), plain)
    x = torch.randn(3, shape[1], generator=draw)
    torch.testing.assert_close(product(x, codes, None), x @ plain.T)
    assert "product" not in called and "dequantised" in called


def test_without_the_package_pytorch_unpacks(called, monkeypatch):
    monkeypatch.setattr(gpu_four_bit, "find_spec", lambda name: None)
    gpu_four_bit._operations.cache_clear()
    codes = quantise(torch.linspace(-1, 1, 256).view(2, 128), "nf4")
    product(torch.ones(1, 128), codes, None)
    gpu_four_bit._operations.cache_clear()
    assert called == []
