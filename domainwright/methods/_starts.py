"""Where LoRA's factors may begin, other than at random.

    pissa   B A = the r largest singular parts of W, over γ      change counted from there
    olora   B A = the first r parts of W = Q R                   change counted from there
    eva     A = the main directions of the layer's inputs, B = 0
    loftq   γ B A = the r largest singular parts of what quantising W loses

Sources: Meng et al. 2024, arXiv:2404.02948 (PiSSA), algorithm of section 3; Büyükakyüz 2024,
arXiv:2406.01775 (OLoRA); Paischer et al. 2024, arXiv:2410.07170 (EVA), section 3; Li et al.
2023, arXiv:2310.08659 (LoftQ), algorithm 1. The papers of the first two take the parts out of
the base's weights; here W stays, and what is learnt is counted from the start instead, which
is the same function.

Dimension key: O outputs, I inputs, R rank, N tokens.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from domainwright.core.errors import CapabilityError, DataError
from domainwright.core.seeds import derive
from domainwright.models.base import Base
from domainwright.models.flat import Flat, flatten
from domainwright.models.forms import TrainRow
from domainwright.models.four_bit import Codes, quantise
from domainwright.models.points import Linear

Factors = tuple[Tensor, Tensor]
"""(A (R, I), B (O, R)), float32."""
TOKENS = 2048
"""Most tokens that EVA reads; one pass."""
SPARE = 16
"""Directions beyond the wanted ones that a randomised decomposition follows."""
PASSES = 4
"""Power passes of EVA's, which is randomised. On 2,048 tokens through SmolLM2 it takes a ninth of
the exact one's time, and 2 of 210 layers get one rank more or less."""


def decomposed(matrix: Tensor, rank: int, passes: int | None, seed: int) -> tuple[Tensor, ...]:
    """(left, sizes, right) of the largest singular parts, at most `rank` of them.

    Args:
        passes: power passes of a randomised decomposition; None: the exact one.
    """
    if passes is None:
        left, sizes, right = torch.linalg.svd(matrix.float(), full_matrices=False)
        return left[:, :rank], sizes[:rank], right[:rank]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wanted = min(rank + SPARE, *matrix.shape)
        left, sizes, right_T = torch.svd_lowrank(matrix.float(), q=wanted, niter=passes)
    return left[:, :rank], sizes[:rank], right_T.T[:rank]


def top_parts(weight_OI: Tensor, rank: int, passes: int | None, seed: int) -> Factors:
    """(A, B) with B A the best approximation of that rank, its size shared evenly."""
    left, sizes, right = decomposed(weight_OI, rank, passes, seed)
    roots = sizes.sqrt()
    return _padded(roots[:, None] * right, left * roots, rank)


def pissa(weight_OI: Tensor, rank: int, scale: float, passes: int | None, seed: int) -> Factors:
    return top_parts(weight_OI.float() / scale, rank, passes, seed)


def olora(weight_OI: Tensor, rank: int, scale: float, passes: int | None, seed: int) -> Factors:
    orthogonal, triangular = torch.linalg.qr(weight_OI.float())
    return _padded(triangular[:rank], orthogonal[:, :rank], rank)


def _padded(a: Tensor, b: Tensor, rank: int) -> Factors:
    """Zeros where a layer has fewer parts than `rank`."""
    missing = rank - len(a)
    pad = torch.nn.functional.pad
    return pad(a, (0, 0, 0, missing)).contiguous(), pad(b, (0, missing)).contiguous()


COUNTED: dict[str, Callable[[Tensor, int, float, int | None, int], Factors]]
COUNTED = {"pissa": pissa, "olora": olora}
"""Starts from which the change is counted: (W, rank, γ, passes, seed) -> factors."""


def loftq(
    weight_OI: Tensor,
    rank: int,
    scale: float,
    *,
    kind: str,
    double: bool,
    rounds: int,
    passes: int | None,
    seed: int,
) -> tuple[Codes, Factors]:
    """(codes, factors) such that dequantised(codes) + γ B A is near W.

    Args:
        rounds: how often codes are made, each time of what the factors do not hold; from 1.
    """
    rest = weight_OI.float()
    for _ in range(rounds):
        codes = quantise(rest, kind, double=double)
        lost = (weight_OI.float() - codes.dequantised(torch.float32)) / scale
        a, b = top_parts(lost, rank, passes, seed)
        rest = weight_OI.float() - scale * (b @ a)
    return codes, (a, b)


def eva(
    base: Base,
    layers: Sequence[Linear],
    ranks: Sequence[int],
    rows: Sequence[TrainRow],
    growth: float,
    seed: int,
) -> list[Tensor]:
    """A of every layer, the rows orthonormal; as many rows in all as `ranks`, shared out anew.

    The directions of all layers that explain most of the variance of what their layer reads
    get the ranks. Tokens without loss are not counted.

    Args:
        growth: most rank of a layer, over what it has in `ranks`.

    Raises:
        DataError: too few tokens with loss.
        CapabilityError: some layer does not read every token of a batch.
    """
    wanted = [round(growth * rank) for rank in ranks]
    flat, chosen_N = _first_tokens(base, rows)
    if len(chosen_N) <= max(wanted):
        raise DataError(
            f"The training rows have {len(chosen_N)} tokens with loss for the start eva, which "
            f"looks for {max(wanted)} directions.",
            "give more rows, lower lora.rank, or set `start: random`.",
        )
    reader = _Reader(flat.tokens, chosen_N, max(wanted), seed)
    hooks = [reader.on(layer.path) for layer in layers]
    try:
        for layer, hook in zip(layers, hooks, strict=True):
            base.hooks.add(layer.path, hook)
        with torch.no_grad():
            base.hidden(flat)
    finally:
        for hook in hooks:
            base.hooks.remove(hook)
    found = [reader.found[layer.path] for layer in layers]
    shares = [share[:most] for (_, share), most in zip(found, wanted, strict=True)]
    owner = torch.tensor([i for i, share in enumerate(shares) for _ in share])
    best = torch.cat(shares).argsort(descending=True, stable=True)[: sum(ranks)]
    taken = Counter(owner[best.cpu()].tolist())
    return [directions[: taken[i]] for i, (directions, _) in enumerate(found)]


def _first_tokens(base: Base, rows: Sequence[TrainRow]) -> tuple[Flat, Tensor]:
    """(a batch of the first rows, positions of its tokens with loss)."""
    documents: list[list[int]] = []
    counted: list[bool] = []
    for row in rows:
        if documents and len(counted) + len(row.ids) > TOKENS:
            break
        documents.append(row.ids)
        counted += row.supervised
    return flatten(documents, base.device), torch.tensor(counted, device=base.device).nonzero()[
        :, 0
    ]


class _Reader:
    """Hooks that find the main directions of what their layers read."""

    def __init__(self, tokens: int, chosen_N: Tensor, most: int, seed: int) -> None:
        self.tokens, self.chosen_N, self.most, self.seed = tokens, chosen_N, most, seed
        self.last: Tensor | None = None
        self.latest: tuple[Tensor, Tensor]
        self.found: dict[str, tuple[Tensor, Tensor]] = {}
        """(directions (R, I), the share of the variance that each explains), largest first."""

    def on(self, path: str) -> Callable[[Tensor, Tensor], Tensor]:
        """The hook of one layer."""

        def read(x: Tensor, out: Tensor) -> Tensor:
            # Layers that read one tensor, as queries, keys and values do, share the work.
            if x is not self.last:
                self.last, self.latest = x, self._directions(x.flatten(0, -2), path)
            self.found[path] = self.latest
            return out

        return read

    def _directions(self, x_TI: Tensor, path: str) -> tuple[Tensor, Tensor]:
        if len(x_TI) != self.tokens:
            raise CapabilityError(
                f"The layer {path} does not read every token of a batch at once, which the start "
                "eva needs.",
                "set `start: random`, or choose another base.",
            )
        x_NI = x_TI[self.chosen_N].float()
        x_NI = x_NI - x_NI.mean(0)
        seed = derive(self.seed, "eva", path)
        _, sizes, directions = decomposed(x_NI, self.most, PASSES, seed)
        return directions.contiguous(), sizes.square() / x_NI.square().sum()
