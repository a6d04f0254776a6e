"""Random projection: short vectors with nearly the inner products of long ones.

    y = x R / √K,   R a table (P, K) of signs, each +1 or -1 with probability ½
    E <y, y'> = <x, x'>,   Var <y, y'> ≤ (|x|² |x'|² + <x, x'>²) / K

R follows from the seed and is never held whole: it is made anew, a block of its rows at a time.

Source: Achlioptas 2003, "Database-friendly random projections", with signs alone.

Dimension key: N vectors, P numbers of each, K numbers after the projection.
"""

import math

import numpy as np
import torch
from torch import Tensor

from domainwright.core.seeds import generator

_BLOCK_SIGNS = 1 << 20
"""Signs held at once, float32: 4 MiB, which a processor's cache holds."""


def projected(x_NP: Tensor, size: int, seed: int) -> Tensor:
    """y (N, K), float32 on the device of x; x itself where it has at most `size` numbers.

    Equal seeds and sizes give equal projections: vectors may be projected in several calls.
    """
    width = x_NP.shape[1]
    if width <= size:
        return x_NP.float()
    ones_NK = torch.zeros(len(x_NP), size, device=x_NP.device)
    step = max(1, _BLOCK_SIGNS // size)
    for number, start in enumerate(range(0, width, step)):
        part_NB = x_NP[:, start : start + step].float()
        count = part_NB.shape[1] * size
        drawn = generator(seed, "projection", number).bytes(-(-count // 8))
        bits = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8), count=count)
        ones_NK.addmm_(part_NB, torch.from_numpy(bits).to(x_NP.device).view(-1, size).float())
    # A sign is twice its bit, less one.
    y_NK: Tensor = (2 * ones_NK - x_NP.float().sum(1, keepdim=True)) / math.sqrt(size)
    return y_NK
