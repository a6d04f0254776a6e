"""Learned rows of the embedding, and of a head that is tied to it.

    E'[i] = the learned row of i for the chosen tokens i, else E[i]
    x = E'[ids]        logits = h E'ᵀ + b where the head's weight is the embedding's

What enters the blocks is looked up in both and put together, so its gradient is (n, D) and never
(V, D). Whoever reads the tied head's weight finds a copy with the rows in it, made once while they
hang on the base and brought up to date where they changed.

Dimension key: n learned rows, D hidden size, V vocabulary, N predicting positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class TokenRows:
    """The rows of the tokens `ids` in the embedding of one model."""

    def __init__(self, embedding: nn.Module, ids: Sequence[int], values_nD: nn.Parameter) -> None:
        self.values_nD, self.module = values_nD, embedding
        device = values_nD.device
        self.ids_n = torch.tensor(ids, dtype=torch.long, device=device)
        own_VD = embedding._parameters["weight"]
        assert own_VD is not None
        self._slots_V = torch.full((len(own_VD),), -1, dtype=torch.long, device=device)
        self._slots_V[self.ids_n] = torch.arange(len(ids), device=device)
        # The module's own rule: the padding token learns nothing where it is read.
        padding: Any = getattr(embedding, "padding_idx", None)
        self._padding = None if padding not in ids else list(ids).index(padding)
        self._table: tuple[Any, Tensor] | None = None

    def embedded(self, ids: Tensor, out: Tensor) -> Tensor:
        """What the embedding gives, (…, D), with the learned rows in their places."""
        slots = self._slots_V[ids]
        rows = functional.embedding(
            slots.clamp_min(0), self.values_nD.to(out.dtype), padding_idx=self._padding
        )
        return torch.where((slots >= 0)[..., None], scaled_as(self.module, rows), out)

    def read(self, own_VD: Tensor) -> Tensor:
        """A tied head's weight; it carries the rows' gradient where that is asked for."""
        table_VD = self._current(own_VD)
        if self.learning:
            found: Tensor = _Patched.apply(self.values_nD, table_VD, self.ids_n)
            return found
        return table_VD

    @property
    def learning(self) -> bool:
        return torch.is_grad_enabled() and self.values_nD.requires_grad

    @torch.no_grad()
    def _current(self, own_VD: Tensor) -> Tensor:
        # Compared with what it holds, not by a counter of changes: nobody has to tell.
        key = own_VD.data_ptr(), own_VD._version, own_VD.dtype, own_VD.device
        rows_nD = self.values_nD.detach().to(own_VD.dtype)
        if self._table is None or self._table[0] != key:
            self._table = key, own_VD.detach().index_copy(0, self.ids_n, rows_nD)
        elif not torch.equal(self._table[1][self.ids_n], rows_nD):
            self._table[1].index_copy_(0, self.ids_n, rows_nD)
        return self._table[1]

    def forget(self) -> None:
        """Give the copy of the head back."""
        self._table = None

    def pulled(self, pull_NV: Tensor, hidden_ND: Tensor) -> Tensor:
        """Gradient (n, D), float32, of a tied head's learned rows from that of the logits."""
        return pull_NV[:, self.ids_n].float().T @ hidden_ND.float()


def scaled_as(embedding: nn.Module, rows: Tensor) -> Tensor:
    """Rows times what the module multiplies what it looks up with, as Gemma 3's does."""
    scale = getattr(embedding, "embed_scale", None)
    if scale is None:
        return rows
    return rows * (scale.to(rows.dtype) if isinstance(scale, Tensor) else scale)


class _Patched(torch.autograd.Function):
    """The table itself; its gradient goes to the learned rows alone."""

    @staticmethod
    def forward(ctx: Any, values_nD: Tensor, table_VD: Tensor, ids_n: Tensor) -> Tensor:
        ctx.ids_n, ctx.dtype = ids_n, values_nD.dtype
        # Another tensor over the same memory: the kept one must not join a graph.
        return table_VD.detach()

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> tuple[Tensor | None, ...]:
        return pulls[0].index_select(0, ctx.ids_n).to(ctx.dtype), None, None
