"""A low-rank change of all rows of the embedding; a head that is tied to it stays as it is.

    x = E[ids] + γ · (A[:, ids]ᵀ Bᵀ)

The change has the module's own scale where it has one, and the padding token learns nothing in A.

Source: peft 0.21.2, tuners/lora/layer.py, Embedding.
Dimension key: V tokens, D hidden size, R rank.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from domainwright.models.token_rows import scaled_as


class LowRankRows:
    """A (R, V) and B (D, R), float32 whatever the base's dtype, on the embedding of one model."""

    def __init__(
        self, embedding: nn.Module, a_RV: nn.Parameter, b_DR: nn.Parameter, scale: float
    ) -> None:
        self.module, self.a_RV, self.b_DR, self.scale = embedding, a_RV, b_DR, scale

    def embedded(self, ids: Tensor, out: Tensor) -> Tensor:
        """What the embedding gives, (…, D), with the change."""
        padding: Any = getattr(self.module, "padding_idx", None)
        low = functional.embedding(ids, self.a_RV.T, padding_idx=padding)
        change = self.scale * (low @ self.b_DR.T)
        return out + scaled_as(self.module, change).to(out.dtype)

    def forget(self) -> None:
        """Nothing is kept."""
