"""Hook points: the places in a block where a method may act, on every architecture.

A method asks for the linear layers by hook point ("q", "k", "v", "o", "gate", "up",
"down", or the fused "qkv", "gate_up") and hangs a `LowRank` or any function on them. It
never touches the base. Without a hook the layer's own forward runs: the untouched base is
bit for bit itself.

    out = W x + b  →  hook(x, out)

Dimension key: T tokens (all leading dimensions flattened), I inputs, O outputs, R rank.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from domainwright.core.errors import CapabilityError

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

Hook = Callable[[Tensor, Tensor], Tensor]
"""(input (…, I), output (…, O)) -> new output (…, O)."""


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
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight.T if self.transposed else weight


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """out + scale · x Aᵀ Bᵀ: the pattern that has a faster execution than a plain hook."""

    A_RI: nn.Parameter
    B_OR: nn.Parameter
    scale: float
    dropout: float = 0.0

    @property
    def dropping(self) -> bool:
        """Whether inputs are dropped now: only the plain execution does that."""
        return bool(self.dropout) and torch.is_grad_enabled()

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """The plain execution; the oracle of the fused one."""
        if self.dropping:
            x = nn.functional.dropout(x, self.dropout)
        change = x.to(self.A_RI.dtype) @ self.A_RI.T @ self.B_OR.T
        return out + (self.scale * change).to(out.dtype)


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
            if not isinstance(module, (nn.Linear, Conv1D)) or tail in BYPASSED:
                continue
            weight = module.weight
            transposed = isinstance(module, Conv1D)
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


class Hooks:
    """What hangs on one base. Several adapters may hang on it at once; their changes add up."""

    def __init__(self, model: nn.Module) -> None:
        self.linears = find_linears(model)
        self._by_path = {linear.path: linear for linear in self.linears}
        self._on: dict[str, list[tuple[Hook, Any]]] = {}
        self._suspended = False
        self._spans: Mapping[Any, slice] | None = None

    def add(self, path: str, hook: Hook, owner: Any = None) -> None:
        """Hang `hook` on the linear layer at `path`; it is called after those already there.

        Args:
            owner: whose hook it is, for `owning`; an adapter gives itself.
        """
        linear = self._by_path[path]
        hooks = self._on.setdefault(path, [])
        hooks.append((hook, owner))
        if len(hooks) == 1:
            # Set on the instance, not the class: removing it uncovers the layer's own forward.
            linear.module.forward = lambda x: self._run(linear, x)

    def remove(self, hook: Hook) -> None:
        """Take `hook` away wherever it hangs."""
        for path, hooks in list(self._on.items()):
            hooks[:] = [pair for pair in hooks if pair[0] is not hook]
            if not hooks:
                del self._by_path[path].module.forward
                del self._on[path]

    def on(self, path: str) -> list[tuple[Hook, slice | None]]:
        """What is called now on the linear layer at `path`, and on which rows; None: on all."""
        if self._suspended:
            return []
        hooks = self._on.get(path, [])
        if self._spans is None:
            return [(hook, None) for hook, _ in hooks]
        return [(hook, self._spans[owner]) for hook, owner in hooks if owner in self._spans]

    @property
    def dropping(self) -> bool:
        """Whether any hook adds noise now."""
        return any(getattr(hook, "dropping", False) for on in self._on.values() for hook, _ in on)

    @contextmanager
    def owning(self, spans: Mapping[Any, slice]) -> Iterator[None]:
        """Inside this block each owner's hooks act on its rows of the flat batch alone.

        Rows of nobody are the bare base's. The backward pass belongs into the block too: where
        blocks are recomputed, hooks are called there again.
        """
        before, self._spans = self._spans, spans
        try:
            yield
        finally:
            self._spans = before

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The bare base inside this block: no hook is called."""
        before, self._suspended = self._suspended, True
        try:
            yield
        finally:
            self._suspended = before

    def _run(self, linear: Linear, x: Tensor) -> Tensor:
        plain = type(linear.module).forward
        on = self.on(linear.path)
        if not on:
            return plain(linear.module, x)
        if on[0][1] is not None:
            return _by_rows(plain(linear.module, x), x, on)
        first = on[0][0]
        if isinstance(first, LowRank) and not first.dropping:
            out: Tensor = _FusedLowRank.apply(
                x,
                linear.module.weight,
                linear.module.bias,
                first.A_RI,
                first.B_OR,
                first.scale,
                linear.transposed,
            )
            on = on[1:]
        else:
            out = plain(linear.module, x)
        for hook, _ in on:
            out = hook(x, out)
        return out


def _by_rows(out: Tensor, x: Tensor, on: list[tuple[Hook, slice | None]]) -> Tensor:
    """Every hook on its own rows (the last dimension but one), put together again."""
    spans = sorted({(rows.start, rows.stop) for _, rows in on if rows is not None})
    parts, done = [], 0
    for start, stop in spans:
        parts.append(out[..., done:start, :])
        part = out[..., start:stop, :]
        for hook, rows in on:
            if rows is not None and rows.start == start:
                part = hook(x[..., start:stop, :], part)
        parts.append(part)
        done = stop
    return torch.cat([*parts, out[..., done:, :]], dim=-2)


class _FusedLowRank(torch.autograd.Function):
    """W x + b + scale · B A x and its gradients in one node.

    Saves x and A x only. The factors are cast to the base's dtype for the products (the
    masters stay float32), and both parts of the input gradient are summed by the product
    that makes the second, so no T x I temporary is added in a pass of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A_RI: Tensor,
        B_OR: Tensor,
        scale: float,
        transposed: bool,
    ) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        weight_OI = weight.T if transposed else weight
        A, B = A_RI.to(x.dtype), (B_OR * scale).to(x.dtype)
        low_TR = x_TI @ A.T
        out_TO = nn.functional.linear(x_TI, weight_OI, bias)
        out_TO.addmm_(low_TR, B.T)
        ctx.save_for_backward(x_TI, low_TR, weight_OI, A, B)
        ctx.scale, ctx.shape = scale, x.shape
        return out_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, low_TR, weight_OI, A, B = ctx.saved_tensors
        grad_TO = grad.reshape(-1, grad.shape[-1])
        low_grad_TR = grad_TO @ B
        grad_A = (low_grad_TR.T @ x_TI).float() if ctx.needs_input_grad[3] else None
        grad_B = (grad_TO.T @ low_TR).float() * ctx.scale if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_TO @ weight_OI).addmm_(low_grad_TR, A).view(ctx.shape)
        return grad_x, None, None, grad_A, grad_B, None, None
