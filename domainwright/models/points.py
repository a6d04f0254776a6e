"""Where a method may act: the named places of every architecture, mapped once.

    q k v o gate up down (qkv, gate_up)   linear layers of a block
    norm        every normalisation, also the last one
    block       the output of a block, after its last residual sum
    attention   the module that attends; extra key and value rows go there
    position    what turns positions into numbers: rotary angles, or a table
    embedding   the table that tokens are looked up in; its rows may be learned (`token_rows`)

A place that an architecture does not have is refused with the reason; nothing is guessed.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from domainwright.core.errors import CapabilityError
from domainwright.models.quantised import Quantised

POINTS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "out_proj": "o",
    "dense": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "fc1": "up",
    "fc2": "down",
    "attn.c_attn": "qkv",
    "attn.c_proj": "o",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
    "query_key_value": "qkv",
    "qkv_proj": "qkv",
    "gate_up_proj": "gate_up",
    "dense_h_to_4h": "up",
    "dense_4h_to_h": "down",
}
"""Module name in transformers -> hook point. A linear layer of a block that is not listed
keeps its own name as its hook point, so "every linear layer" holds on any architecture."""

BYPASSED = {"dt_proj"}
"""Layers whose weight a selective scan (Mamba, Jamba) reads without calling them: a hook there
would never run."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of a block."""

    path: str
    """Module path in the model, as PEFT writes it: "model.layers.0.self_attn.q_proj"."""
    block: int
    point: str
    module: nn.Module
    inputs: int
    outputs: int
    transposed: bool
    """True for GPT-2's Conv1D, whose weight is stored (I, O)."""

    @property
    def weight_OI(self) -> Tensor:
        """Of a quantised layer: what it computes with, made anew at every reading."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight.T if self.transposed else weight


def find_linears(model: nn.Module) -> list[Linear]:
    """Every linear layer inside the model's blocks, in forward order; the head is not one.

    Raises:
        CapabilityError: the model has no list of blocks.
    """
    blocks_path, blocks = _blocks(model)
    found = []
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            tail = name.rsplit(".", 1)[-1]
            if not isinstance(module, (nn.Linear, Conv1D, Quantised)) or tail in BYPASSED:
                continue
            if isinstance(module, Quantised):
                transposed, (outputs, inputs) = module.transposed, module.shape
            else:
                weight, transposed = module.weight, isinstance(module, Conv1D)
                inputs, outputs = weight.shape if transposed else reversed(weight.shape)
            point = POINTS.get(".".join(name.split(".")[-2:])) or POINTS.get(tail) or tail
            found.append(
                Linear(
                    f"{blocks_path}.{index}.{name}",
                    index,
                    point,
                    module,
                    int(inputs),
                    int(outputs),
                    transposed,
                )
            )
    return found


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    # The outermost list with the most parameters: a mixture of experts has inner lists.
    lists = [(n, m) for n, m in lists if not any(n.startswith(o + ".") for o, _ in lists)]
    if not lists:
        raise CapabilityError(
            f"{type(model).__name__} has no list of blocks, so no hook point can be found.",
            "choose a decoder-only transformer as the base.",
        )
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


@dataclass(frozen=True, slots=True)
class Site:
    """A place that is no linear layer."""

    path: str
    block: int | None
    """None outside the blocks: the last norm, the table of positions."""
    point: str
    module: nn.Module


def find_sites(model: nn.Module, linears: list[Linear]) -> list[Site]:
    """Norms, blocks, attention, whatever reads positions, the embedding, in the model's order."""
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    blocks_path, blocks = _blocks(model)
    attending = {x.path.rpartition(".")[0] for x in linears if x.point in ("q", "qkv")}
    found = []
    for path, module in model.named_modules():
        inside = path.startswith(blocks_path + ".")
        block = int(path[len(blocks_path) + 1 :].partition(".")[0]) if inside else None
        tail = path.rpartition(".")[2]
        if "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            found.append(Site(path, block, "norm", module))
        elif inside and any(module is one for one in blocks):
            found.append(Site(path, block, "block", module))
        elif path in attending:
            found.append(Site(path, block, "attention", module))
        elif not inside and tail in POSITIONS:
            found.append(Site(path, block, "position", module))
        elif module is embedding:
            found.append(Site(path, None, "embedding", module))
    return found


POSITIONS = ("rotary_emb", "wpe")
"""Modules outside the blocks that are called with the tokens' positions."""
ENTERS_FEED_FORWARD = (
    "pre_feedforward_layernorm",
    "post_attention_layernorm",
    "ln_2",
    "input_layernorm",
)
"""Norm in front of the feed-forward part, the first of these that a block has. Phi has one norm
for both parts."""
LEAVES = {"attention": "post_attention_layernorm", "feed_forward": "post_feedforward_layernorm"}
"""Blocks with a norm behind each part (Gemma 2): what is added to the stream leaves there."""


def summed(linears: list[Linear], sites: list[Site], block: int, part: str) -> str:
    """Path of what gives the part's output as it is added to the residual stream.

    Args:
        part: "attention" or "feed_forward".

    Raises:
        CapabilityError: the block has no such part, or several.
    """
    norms = {s.path.rpartition(".")[2]: s.path for s in sites if s.point == "norm"}
    if LEAVES["feed_forward"] in norms:
        own = [s.path for s in sites if s.block == block and s.path.endswith(LEAVES[part])]
    else:
        point = "o" if part == "attention" else "down"
        # Mamba's mixer ends with an "o" too, but nothing attends in it.
        whole = any(s.point == "attention" and s.block == block for s in sites)
        own = [x.path for x in linears if x.block == block and x.point == point and whole]
    if len(own) != 1:
        found = "none" if not own else "several (a mixture of experts)"
        raise CapabilityError(
            f"Block {block} of this base has no single {part.replace('_', '-')} output that is "
            f"added to the residual stream: there are {found}.",
            "choose lora, or bottleneck with `variant: pfeiffer`, which acts on whole blocks.",
        )
    return own[0]


def enters_feed_forward(sites: list[Site], block: int) -> str:
    """Path of the norm whose input is the residual stream and whose output the feed-forward reads.

    Raises:
        CapabilityError: there is none.
    """
    norms = {
        s.path.rpartition(".")[2]: s.path for s in sites if s.point == "norm" and s.block == block
    }
    for name in ENTERS_FEED_FORWARD:
        if name in norms:
            return norms[name]
    raise CapabilityError(
        f"Block {block} of this base has no norm in front of a feed-forward part.",
        "choose bottleneck with `variant: pfeiffer`, or lora.",
    )
