"""How many tokens fit into one forward pass.

    bytes = weights + 16 · trained parameters + tokens · (per-token activations) + loss block

Activations of a frozen transformer block with LoRA on every linear layer, elements per
token: 4d + 2q + 2k + 4F + Σ rank (methods.md §10.5). Attention is counted with its inputs.
"""

from domainwright.core.errors import CapabilityError
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.train.loss import BLOCK

OWN_MIB = 700
"""Interpreter, torch, transformers and work space; measured 620 MiB before the first step."""
LARGEST = 2048
"""More tokens in one pass do not run faster on a CPU; measured in bench/."""


def bytes_per_token(base: Base) -> int:
    """Bytes of activations kept for the backward pass, per token of a flat batch."""
    size = base.dtype.itemsize
    inputs = sum(x.inputs for x in base.hooks.linears)
    outputs = sum(x.outputs for x in base.hooks.linears)
    # Normalisation keeps float32 copies in transformers, hence the factor on inputs.
    return int(size * (1.5 * inputs + outputs) + 4 * inputs)


def micro_tokens(base: Base, adapter: Adapter, memory_gb: float, longest: int) -> int:
    """Tokens per forward pass within `memory_gb`, at least the longest document.

    Raises:
        CapabilityError: not even the longest document fits.
    """
    fixed = (
        base.parameters * base.dtype.itemsize
        + 16 * adapter.trainable
        + 3 * 4 * BLOCK * base.vocabulary
        + OWN_MIB * 2**20
    )
    room = memory_gb * 1e9 - fixed
    tokens = int(room // bytes_per_token(base))
    if tokens < longest:
        needed = (fixed + longest * bytes_per_token(base)) / 1e9
        raise CapabilityError(
            f"Training on {base.source.name} needs about {needed:.1f} GB for the longest document "
            f"({longest} tokens), and the budget is {memory_gb:.1f} GB.",
            "lower train.max_tokens, raise budget.memory_gb, or take a smaller base.",
        )
    return min(tokens, max(LARGEST, longest))
