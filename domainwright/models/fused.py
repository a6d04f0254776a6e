"""The whole trunk of a Llama-like model as one operation, with its gradient written out.

A faster execution of one pattern: frozen linear layers, or 4-bit codes of them, with at most
one `LowRank` on each. Queries, keys and values are one product, and so are gate and up;
normalised states and the SwiGLU product are computed again in the backward pass instead of
kept, and codes are unpacked again; no row after the last layer's attention is computed that
nobody asked for; nothing is differentiated below the lowest adapter. Any other hook,
architecture or cache takes transformers' own forward.

    kept per token and layer:  2D + Q + 2K + Q + 2F  numbers, and Q + K more where heads have norms

Dimension key: T tokens, N rows asked for, D hidden size, F feed-forward size, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from domainwright.models import kernels
from domainwright.models.attended import Attended, Parts, attend_rows
from domainwright.models.blocks import Block, Changes, Present, present
from domainwright.models.flat import Flat, flatten, tile
from domainwright.models.head_norms import Normed, head_norms_of
from domainwright.models.hooks import Hooks
from domainwright.models.lowrank import stacked
from domainwright.models.quantised import Quantised
from domainwright.models.segments import Segments

FAMILIES = {
    "LlamaModel": lambda attention: None,
    "MistralModel": lambda attention: attention.config.sliding_window,
    "Qwen2Model": lambda attention: attention.sliding_window,
    "Qwen3Model": lambda attention: attention.sliding_window,
}
"""Backbones of transformers whose block is: norm, attention, sum, norm, SwiGLU, sum; and where
each keeps its window. The probe's documents are too short to notice a window."""


@dataclass(slots=True)
class _Kept:
    """What the backward pass of one block needs."""

    entered_TD: Tensor
    middle_ND: Tensor
    inverses: tuple[Tensor, Tensor]
    qkv_TQ: Tensor
    """After the rotation."""
    normed: Normed | None
    attended: Attended
    gate_up_NG: Tensor
    lows: list[list[Tensor]]


@dataclass(slots=True)
class _Pass:
    """One reading of a flat batch."""

    seen: Segments
    flat: Flat
    cosine_Th: Tensor
    sine_Th: Tensor
    rows_N: Tensor | None
    """Rows asked for; None: all."""
    blocks: Sequence[Block]
    factors: list[Changes]
    kept: list["_Kept | Tensor"] = field(default_factory=list)
    lower: "_Pass | None" = None
    """The same with one copy, below the lowest adapter."""
    copies: int = 1
    entering: bool = False
    """Whether the gradient of what enters the first block is asked for."""
    last_ND: Tensor | None = None
    last_inverse: Tensor | None = None


class Trunk:
    """A recognised backbone, with its weights stacked in place."""

    def __init__(self, backbone: Any, hooks: Hooks) -> None:
        config = backbone.config
        self.backbone, self.hooks = backbone, hooks
        self.checkpointing = False
        """Keep only what enters each block, and compute the block again in the backward pass."""
        self.heads = int(config.num_attention_heads)
        self.key_heads = int(config.num_key_value_heads)
        self.eps = float(config.rms_norm_eps)
        self.norm_D = backbone.norm.weight
        by_block: dict[int, dict[str, Any]] = {}
        for linear in hooks.linears:
            by_block.setdefault(linear.block, {})[linear.point] = linear
        window = FAMILIES[type(backbone).__name__]
        self.blocks = [
            Block(
                layer.input_layernorm.weight,
                layer.post_attention_layernorm.weight,
                attention=stacked([by_block[i][point] for point in ("q", "k", "v")]),
                output=stacked([by_block[i]["o"]]),
                gate_up=stacked([by_block[i][point] for point in ("gate", "up")]),
                down=stacked([by_block[i]["down"]]),
                window=window(layer.self_attn),
                head_norms=head_norms_of(layer.self_attn, (self.heads, self.key_heads), self.eps),
            )
            for i, layer in enumerate(backbone.layers)
        ]
        self.size = self.blocks[0].output.linears[0].inputs // self.heads
        self.scale = float(backbone.layers[0].self_attn.scaling)

    def present(self) -> Present | None:
        """What a reading computes with now; None: this execution does not know all of it."""
        return present(self.blocks, self.hooks)

    def hidden(self, flat: Flat, rows_N: Tensor | None, copies: int = 1) -> Tensor | None:
        """Final hidden states (T or N, D); None where this execution does not apply.

        Args:
            copies: read the batch so many times over, copy after copy, and one time only below
                the lowest adapter.
        """
        now = self.present()
        if now is None or any(p.requires_grad for p in self.backbone.parameters()):
            return None
        entered = self.backbone.embed_tokens(flat.ids_T)
        run = self.begin(flat, rows_N, now, copies)
        run.entering = torch.is_grad_enabled() and entered.requires_grad
        assert copies == 1 or not run.entering, "learned rows of the embedding share no batch"
        trained = [p for changes in now.changes for on in changes for f in on for p in f.parameters]
        if run.entering or (torch.is_grad_enabled() and any(p.requires_grad for p in trained)):
            out: Tensor = _Read.apply(self, run, entered, *trained)
            return out
        return self._forward(run, entered, keep=False)

    def begin(self, flat: Flat, rows_N: Tensor | None, now: Present, copies: int = 1) -> _Pass:
        """What all blocks of one reading share."""
        if copies > 1:
            lower = self.begin(flat, None, now)
            if rows_N is not None:
                steps = flat.tokens * torch.arange(copies, device=rows_N.device)
                rows_N = (rows_N[None] + steps[:, None]).flatten()
            run = self.begin(tile(flat, copies), rows_N, now)
            run.lower, run.copies = lower, copies
            return run
        cosine, sine = self.angles(flat.positions_T)
        seen = Segments(flat.bounds, flat.parents)
        return _Pass(seen, flat, cosine, sine, rows_N, now.blocks, now.changes)

    def angles(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine (T, h) of the rotary angles, float32."""
        # A float32 stand-in: the angles are then made, and kept, in float32.
        stand_in = torch.empty(1, device=positions_T.device)
        cosine, sine = self.backbone.rotary_emb(stand_in, positions_T[None])
        return cosine[0].contiguous(), sine[0].contiguous()

    def _forward(self, run: _Pass, entered: Tensor, *, keep: bool) -> Tensor:
        lowest = self.lowest(run)
        for number, block in enumerate(run.blocks):
            last = number == len(run.blocks) - 1
            needed = keep and number >= lowest
            if run.copies > 1 and (number == lowest or last):
                entered = entered.repeat(run.copies if len(entered) < run.flat.tokens else 1, 1)
            before = entered
            entered, kept = self.block(
                run if number >= lowest or last else run.lower or run,
                block,
                run.factors[number],
                entered,
                run.rows_N if last else None,
                keep=needed,
            )
            if needed:
                run.kept.append(before if self.checkpointing else kept)
        out, inverse = kernels.rms_norm(entered, self.norm_D, self.eps)
        if keep:
            run.last_ND, run.last_inverse = entered, inverse
        return out

    def lowest(self, run: _Pass) -> int:
        """First block that is differentiated."""
        if run.entering:
            return 0
        return next((i for i, on in enumerate(run.factors) if any(on)), len(self.blocks))

    def block(
        self,
        run: _Pass,
        block: Block,
        factors: Changes,
        entered_TD: Tensor,
        rows_N: Tensor | None,
        *,
        keep: bool,
    ) -> tuple[Tensor, _Kept]:
        above = _among(factors, rows_N)
        normal, first = kernels.rms_norm(entered_TD, block.first_norm_D, self.eps)
        qkv, low_qkv = block.attention.forward(factors[0], normal)
        normed = block.head_norms.forward(qkv) if block.head_norms else None
        turned = self.heads + self.key_heads
        kernels.rotate(qkv, turned, run.cosine_Th, run.sine_Th, 1.0)
        attended = attend_rows(self.parts(qkv), run.flat, run.seen, self.scale, block.window, keep)
        out, past = attended.out.flatten(1), entered_TD
        if rows_N is not None:
            out, past = out[rows_N], past[rows_N]
        middle, low_out = block.output.forward(above[1], out, past)
        normal, second = kernels.rms_norm(middle, block.second_norm_D, self.eps)
        gate_up, low_gate = block.gate_up.forward(above[2], normal)
        leaving, low_down = block.down.forward(above[3], kernels.swiglu(gate_up), middle)
        lows = [low_qkv, low_out, low_gate, low_down]
        roots = first, second
        return leaving, _Kept(entered_TD, middle, roots, qkv, normed, attended, gate_up, lows)

    def parts(self, qkv_TQ: Tensor) -> Parts:
        """Views (T, heads, h) of queries, keys and values."""
        heads = qkv_TQ.unflatten(1, (-1, self.size))
        return (
            heads[:, : self.heads],
            heads[:, self.heads : self.heads + self.key_heads],
            heads[:, self.heads + self.key_heads :],
        )

    def _backward(self, run: _Pass, pull_ND: Tensor) -> tuple[dict[nn.Parameter, Tensor], Tensor]:
        """(gradients of what is trained, of what entered the lowest block)."""
        if run.last_ND is None or run.last_inverse is None:
            raise RuntimeError("the gradient of a fused trunk can be taken once only")
        grad = torch.zeros_like(run.last_ND)
        kernels.rms_norm_backward(
            run.last_ND, self.norm_D, run.last_inverse, pull_ND.contiguous(), grad
        )
        run.last_ND = None
        found: dict[nn.Parameter, Tensor] = {}
        lowest = self.lowest(run)
        for number in range(len(self.blocks) - 1, lowest - 1, -1):
            rows_N = run.rows_N if number == len(self.blocks) - 1 else None
            # Taken off the list: each block's memory is free as soon as its gradient is made.
            kept = run.kept.pop()
            if isinstance(kept, Tensor):
                _, kept = self.block(
                    run, run.blocks[number], run.factors[number], kept, rows_N, keep=True
                )
            last = number == lowest and not run.entering
            grad = self._block_backward(run, number, kept, grad, rows_N, found, last)
        return found, grad

    def _block_backward(
        self,
        run: _Pass,
        number: int,
        kept: _Kept,
        grad_ND: Tensor,
        rows_N: Tensor | None,
        found: dict[nn.Parameter, Tensor],
        last: bool,
    ) -> Tensor:
        block, factors = run.blocks[number], run.factors[number]
        above = _among(factors, rows_N)
        pull, low = block.down.backward_input(above[3], grad_ND)
        gate_up = kept.gate_up_NG
        kernels.swiglu_backward(gate_up, pull)  # pull now holds the product itself
        block.down.backward_factors(above[3], pull, kept.lows[3], low, grad_ND, found)
        del pull
        pull, low = block.gate_up.backward_input(above[2], gate_up)
        if above[2]:
            normal, _ = kernels.rms_norm(kept.middle_ND, block.second_norm_D, self.eps)
            block.gate_up.backward_factors(above[2], normal, kept.lows[2], low, gate_up, found)
        kernels.rms_norm_backward(
            kept.middle_ND, block.second_norm_D, kept.inverses[1], pull, grad_ND
        )
        pull, low = block.output.backward_input(above[1], grad_ND)
        out = kept.attended.out.flatten(1)
        block.output.backward_factors(
            above[1], out if rows_N is None else out[rows_N], kept.lows[1], low, grad_ND, found
        )
        if rows_N is not None:
            pull = torch.zeros_like(out).index_copy_(0, rows_N, pull)
            grad_ND = torch.zeros_like(kept.entered_TD).index_copy_(0, rows_N, grad_ND)
        grad_qkv = torch.empty_like(kept.qkv_TQ)
        kept.attended.backward(
            self.parts(kept.qkv_TQ), pull.unflatten(1, (-1, self.size)), self.parts(grad_qkv)
        )
        turned = self.heads + self.key_heads
        kernels.rotate(grad_qkv, turned, run.cosine_Th, run.sine_Th, -1.0)
        if block.head_norms and kept.normed:
            block.head_norms.backward(kept.normed, grad_qkv)
        pull, low = block.attention.backward_input(factors[0], grad_qkv, needed=not last)
        if factors[0]:
            normal, _ = kernels.rms_norm(kept.entered_TD, block.first_norm_D, self.eps)
            block.attention.backward_factors(factors[0], normal, kept.lows[0], low, grad_qkv, found)
        if not last:
            kernels.rms_norm_backward(
                kept.entered_TD, block.first_norm_D, kept.inverses[0], pull, grad_ND
            )
        return grad_ND


def _among(factors: Changes, rows_N: Tensor | None) -> Changes:
    """The same changes where only the chosen rows are left; each owner's are neighbours."""
    if rows_N is None or all(own.rows == slice(None) for on in factors for own in on):
        return factors
    chosen = rows_N.tolist()
    return [
        [
            own.on_rows(
                slice(
                    sum(row < own.rows.start for row in chosen),
                    sum(row < own.rows.stop for row in chosen),
                )
            )
            for own in on
        ]
        for on in factors
    ]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, trunk: Trunk, run: _Pass, entered: Tensor, *trained: nn.Parameter
    ) -> Tensor:
        ctx.trunk, ctx.run, ctx.trained = trunk, run, trained
        return trunk._forward(run, entered, keep=True)

    @staticmethod
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        found, grad = ctx.trunk._backward(ctx.run, pull)
        return None, None, grad if ctx.run.entering else None, *(found.get(p) for p in ctx.trained)


def recognise(model: Any, hooks: Hooks) -> Trunk | None:
    """The trunk of a model of a known family whose blocks give what ours give, or None."""
    backbone = model.base_model
    if type(backbone).__name__ not in FAMILIES or backbone.config.hidden_act not in SILU:
        return None
    kinds = {type(x.module) for x in hooks.linears}
    if kinds not in ({nn.Linear}, {Quantised}):
        return None
    trunk = Trunk(backbone, hooks)
    return trunk if _proven(trunk) else None


SILU = ("silu", "swish")


@torch.no_grad()
def _proven(trunk: Trunk) -> bool:
    """Whether every block equals transformers' own on random rows.

    Block by block and not on logits: a deep bfloat16 model turns two orders of rounding into
    logits that differ by more than a wrong block would.
    """
    weight = trunk.norm_D
    flat = flatten([list(range(9)), list(range(5))], weight.device)
    source = torch.Generator().manual_seed(0)
    rows = torch.randn(flat.tokens, len(weight), generator=source).to(weight)
    nothing: list[Changes] = [[[], [], [], []] for _ in trunk.blocks]
    run = trunk.begin(flat, None, Present(trunk.blocks, nothing))
    angles = trunk.backbone.rotary_emb(rows[None], flat.positions_T[None])
    for layer, block in zip(trunk.backbone.layers, trunk.blocks, strict=True):
        want = layer(rows[None], position_embeddings=angles, document_bounds=flat.bounds)
        got, _ = trunk.block(run, block, [[], [], [], []], rows, None, keep=False)
        change = (want[0] - rows).float()
        limit = 1e-4 if rows.dtype == torch.float32 else 0.05
        if not (got - want[0]).float().norm() <= limit * change.norm():
            return False
    return True
