"""Weights as 4-bit codes: NF4 and FP4, with their scales quantised again.

    absmax_j = max |w| over block j of 64 weights, row by row        code = nearest(w / absmax_j)
    doubly:    absmax_j ≈ map[a_j] · absmax₂ + mean(absmax)           blocks of 256, a_j 8 bits

    bytes per weight   1/2 + 4/64 = 0.5625, doubly 1/2 + 1/64 + 4/(64 · 256) = 0.516

Sources: Dettmers et al. 2023, arXiv:2305.14314, sections 3 and appendix E (NF4, double
quantisation); Dettmers et al. 2022, arXiv:2110.02861 (the dynamic map). Every byte equals
that of bitsandbytes 0.50.2 on a CPU.

Dimension key: O outputs, I inputs, N weights of a layer (O · I), J blocks.
"""

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from domainwright.models import gpu_four_bit, native
from domainwright.models.kernels import address

KINDS = ("nf4", "fp4")
BLOCK = 64
"""Weights that share a scale."""
NESTED = 256
"""Scales that share a scale of their own."""
CHUNK = 2**12 * BLOCK
"""Weights handled at once: temporaries of 1 MB, however large the layer, and a cache holds them."""
STEPS = 65_536
"""Entries of the table by which a scale finds its 8-bit code; bitsandbytes has the same one."""


@functools.cache
def code_book(kind: str) -> Tensor:
    """The 16 values (float32, largest 1) by their codes.

    NF4 takes quantiles of the normal distribution, the same number of them on either side of
    an exact zero; FP4 is a sign, two bits of exponent and one of mantissa.

    >>> code_book("nf4")[[0, 7, 15]].tolist()
    [-1.0, 0.0, 1.0]
    """
    if kind == "fp4":
        values = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0])
        return torch.cat([values, 0.0 - values]) / 12.0
    edge, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(p) for p in torch.linspace(edge, 0.5, 9)[:-1].tolist()]
    below = [-quantile(p) for p in torch.linspace(edge, 0.5, 8)[:-1].tolist()]
    values = torch.tensor([*above, 0.0, *below]).sort().values
    return values / values.max()


@functools.cache
def dynamic_map() -> Tensor:
    """The 256 signed values of the 8-bit map: seven decades, the largest the finest divided."""
    found = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        means = 10.0 ** (exponent - 6) * ((edges[:-1] + edges[1:]) / 2)
        found += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(found))


@functools.cache
def dynamic_map_on(device: torch.device) -> Tensor:
    """The same on a device."""
    return dynamic_map().to(device)


@functools.cache
def _nearest_of_map() -> Tensor:
    """Code of the map's value nearest to each of STEPS numbers from -1 to 1."""
    numbers = torch.arange(STEPS) / ((STEPS - 1) / 2) - 1
    return _nearest(numbers, dynamic_map())


def _nearest(x: Tensor, sorted_values: Tensor) -> Tensor:
    """Index of the nearest value (uint8); of two equally near ones, the smaller value's."""
    index = torch.zeros_like(x, dtype=torch.uint8)
    # One comparison after the other is twice as fast as torch.bucketize.
    for middle in ((sorted_values[:-1] + sorted_values[1:]) / 2).tolist():
        index += x > middle
    return index


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """One weight (O, I) as codes."""

    kind: str
    shape: tuple[int, int]
    packed: Tensor
    """uint8, (N / 2,) rounded up: two codes a byte, the first in the high half."""
    absmax_J: Tensor
    """Scale of every block: float32, or the uint8 codes of it."""
    nested: Tensor | None = None
    """Scale of every NESTED scales (float32), where they are codes."""
    offset: Tensor | None = None
    """Their mean (float32, no dimension)."""

    @property
    def nbytes(self) -> int:
        held = (self.packed, self.absmax_J, self.nested, self.offset)
        return sum(x.nbytes for x in held if x is not None)

    def scales_J(self) -> Tensor:
        """float32."""
        if self.nested is None or self.offset is None:
            return self.absmax_J
        values = dynamic_map_on(self.absmax_J.device)[self.absmax_J.int()]
        return values * self.nested.repeat_interleave(NESTED)[: len(values)] + self.offset

    def dequantised(self, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        """The weight (O, I).

        Args:
            out: a contiguous tensor (O, I) of that dtype to write into.
        """
        if gpu_four_bit.usable(self.packed.device):
            made = gpu_four_bit.dequantised(self, self.scales_J(), BLOCK, dtype)
            return made if out is None else out.copy_(made)
        if out is None:
            out = torch.empty(self.shape, dtype=dtype, device=self.packed.device)
        kernels = native.library() if out.device.type == "cpu" and dtype in _WIDTHS else None
        if kernels is None:
            self._plain(out.view(-1))
            return out
        kernels.dw_dequantise(
            ctypes.c_long(out.numel()),
            *self.arguments(),
            ctypes.c_long(_WIDTHS[dtype]),
            address(out),
        )
        return out

    def arguments(self) -> tuple[Any, ...]:
        """The codes as the native kernels take them."""
        return (
            address(code_book(self.kind)),
            address(self.packed),
            address(self.absmax_J),
            address(self.nested),
            address(dynamic_map()),
            ctypes.c_float(0.0 if self.offset is None else float(self.offset)),
        )

    def _plain(self, out_N: Tensor) -> None:
        """The same in PyTorch, on any device; the oracle of the kernel."""
        device, scales_J = out_N.device, self.scales_J()
        values = code_book(self.kind).to(device)
        byte = torch.arange(256, device=device)
        # Both values of a byte as one number of 8 bytes: one copy each, ten times as fast.
        pairs = torch.stack([values[byte >> 4], values[byte & 15]], dim=1).view(torch.float64)
        for part in _parts(out_N.numel()):
            half = self.packed[part.start // 2 : (part.stop + 1) // 2]
            numbers = pairs.index_select(0, half.int()).view(torch.float32).view(-1)
            scales = scales_J[part.start // BLOCK : -(-part.stop // BLOCK), None]
            whole = (part.stop - part.start) // BLOCK  # the last block may be short
            blocks = numbers[: whole * BLOCK].view(whole, BLOCK)
            blocks *= scales[:whole]
            numbers[whole * BLOCK :] *= scales[-1]
            out_N[part] = numbers[: part.stop - part.start]


_WIDTHS = {torch.bfloat16: 2, torch.float32: 4}
"""Bytes per number of what the kernel can write."""


def _parts(total: int) -> Iterator[slice]:
    for begin in range(0, total, CHUNK):
        yield slice(begin, min(begin + CHUNK, total))


def quantise(weight_OI: Tensor, kind: str, *, double: bool = True) -> Codes:
    """Codes of a weight, read row by row.

    Args:
        kind: "nf4" or "fp4".
        double: quantise the blocks' scales as well.
    """
    flat_N = weight_OI.detach().reshape(-1)
    values = code_book(kind).to(flat_N.device)
    ordered, order = values.sort(stable=True)
    packed = flat_N.new_empty(-(-len(flat_N) // 2), dtype=torch.uint8)
    absmax_J = flat_N.new_empty(-(-len(flat_N) // BLOCK), dtype=torch.float32)
    for part in _parts(len(flat_N)):
        scaled, absmax = _scaled(flat_N[part].float())
        absmax_J[part.start // BLOCK : -(-part.stop // BLOCK)] = absmax
        if len(scaled) % 2:
            scaled = torch.cat([scaled, scaled.new_zeros(1)])
        codes = _nearest(scaled, ordered)
        if kind != "nf4":  # NF4's codes are in the order of their values
            codes = order.to(torch.uint8)[codes.int()]
        packed[part.start // 2 : (part.stop + 1) // 2] = codes[::2] << 4 | codes[1::2]
    shape = (int(weight_OI.shape[0]), int(weight_OI.shape[1]))
    if not double:
        return Codes(kind, shape, packed, absmax_J)
    offset = absmax_J.mean()
    return Codes(kind, shape, packed, *_quantised_scales(absmax_J - offset), offset)


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x over the absmax of its block, in [-1, 1]; absmax of every block, the last maybe short)."""
    whole = len(x) // BLOCK * BLOCK
    blocks = x[:whole].view(-1, BLOCK)
    absmax = blocks.abs().amax(1) if whole else x.new_empty(0)
    # A factor for whole blocks and a quotient for a short one: so does bitsandbytes, and the
    # two differ in the last bit.
    scaled = (blocks * (1.0 / absmax.clamp(min=TINY))[:, None]).view(-1)
    if whole < len(x):
        last = x[whole:].abs().max().clamp(min=TINY)
        absmax, scaled = torch.cat([absmax, last[None]]), torch.cat([scaled, x[whole:] / last])
    return scaled.clamp_(-1, 1), absmax


TINY = 1e-38
"""A block of zeros is divided by it."""


def _quantised_scales(x_J: Tensor) -> tuple[Tensor, Tensor]:
    """(uint8 codes in the dynamic map, absmax of every NESTED of them)."""
    padded = torch.nn.functional.pad(x_J, (0, -len(x_J) % NESTED)).view(-1, NESTED)
    absmax = padded.abs().amax(1)
    scaled = (padded * (1.0 / absmax)[:, None]).clamp(-1, 1)
    # NaN where all are zero: code 0 then, times a scale of 0.
    place = torch.where(absmax[:, None] > 0, (scaled + 1) * ((STEPS - 1) / 2) + 0.5, 0.0)
    codes = _nearest_of_map().to(x_J.device)[place.int()]
    return codes.view(-1)[: len(x_J)].contiguous(), absmax
