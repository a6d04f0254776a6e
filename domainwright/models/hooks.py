"""Hook points: the places in a block where a method may act, on every architecture.

A method asks for the linear layers by hook point ("q", "k", "v", "o", "gate", "up",
"down", or the fused "qkv", "gate_up") and hangs a `LowRank`, a `StandIn` for the weight or any
function on them; other places (`points.py`) take functions alike. It never touches the base.
Without a hook the module's own forward runs: the untouched base is bit for bit itself.

    out = W x + b  →  hook(x, out)

Dimension key: T tokens (all leading dimensions flattened), I inputs, O outputs, R rank.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError
from domainwright.models.low_rank_rows import LowRankRows
from domainwright.models.lowrank import LowRank, adapted, frozen
from domainwright.models.points import Linear, Site, find_linears, find_sites
from domainwright.models.quantised import product
from domainwright.models.replaced import AsRead, Replaced
from domainwright.models.stand_in import StandIn, agreed
from domainwright.models.token_rows import TokenRows

Rows = TokenRows | LowRankRows
"""What an adapter changes of the embedding."""
Hook = Callable[..., Any]
"""(input (…, I), output (…, O)) -> new output (…, O).

A hook with a method `before(x)` changes what a linear layer reads instead, and one with a method
`instead(x)` gives its whole output where it is the first one there. At an attention
module it is called without arguments and gives more keys and values (K, P, h) each; at a
position module it carries the number `shift` that is added to every position, and `begin` is
called there before the base reads a batch. While `resting`, a hook is passed over."""


class Hooks:
    """What hangs on one base. Several adapters may hang on it at once; their changes add up."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.linears = find_linears(model)
        self.sites = find_sites(model, self.linears)
        self._by_path: dict[str, Linear | Site] = {x.path: x for x in self.linears}
        self._by_path |= {x.path: x for x in self.sites}
        self._on: dict[str, list[tuple[Hook, Any]]] = {}
        self._suspended = False
        self._spans: Mapping[Any, slice] | None = None
        self._replaced = Replaced(model, self._reads)
        self._rows: tuple[Rows, TokenRows | None, Any] | None = None
        """Learned rows of the embedding, those of the head, and whose they are."""
        self._heads: dict[Any, Any] = {}
        """Owner -> its head for labels."""

    def at(self, point: str) -> list[Site]:
        """The places called `point`, in the model's order."""
        return [x for x in self.sites if x.point == point]

    def add(self, path: str, hook: Hook, owner: Any = None) -> None:
        """Hang `hook` on the place at `path`; it is called after those already there.

        Args:
            owner: whose hook it is, for `owning`; an adapter gives itself.
        """
        place = self._by_path[path]
        hooks = self._on.setdefault(path, [])
        hooks.append((hook, owner))
        if len(hooks) > 1:
            return
        # Set on the instance, not the class: removing it uncovers the module's own forward.
        if isinstance(place, Linear):
            place.module.forward = lambda x: self._run(place, x)
        elif place.point == "attention":
            # Its forward stays its own: the attention plug-in asks for the rows.
            place.module.__dict__[ROWS] = lambda: self.on(path)
        elif place.point == "position":
            place.module.forward = lambda *a, **k: self._shifted(place, *a, **k)
        else:
            place.module.forward = lambda *a, **k: self._run_site(place, *a, **k)

    def replace(self, name: str, value: nn.Parameter, owner: Any) -> None:
        """Let the model read `value` for its parameter `name`, until `restore(owner)`."""
        self._replaced.add(name, value, owner)

    def restore(self, owner: Any) -> None:
        self._replaced.remove(owner)
        if self._rows is not None and self._rows[2] is owner:
            (rows, of_head, _), self._rows = self._rows, None
            del rows.module.forward
            rows.forget()
            if of_head is not None:
                of_head.forget()

    @property
    def tied(self) -> bool:
        """Whether the output head's weight is the embedding's."""
        head = _output(self.model)
        own = [x.module._parameters.get("weight") for x in self.at("embedding")]
        return head is not None and any(head._parameters.get("weight") is x for x in own)

    def learn(self, rows: Rows, of_head: TokenRows | None, owner: Any) -> None:
        """Let the model read `rows` in its embedding, and in a tied head, until `restore(owner)`.

        Args:
            of_head: of a head that is not tied, where rows of it are learned too.

        Raises:
            CapabilityError: another adapter replaces the embedding or rows of it.
        """
        if isinstance(rows, TokenRows) and self.tied:
            of_head = rows
        # Covered without a change as well: whoever else wants this weight is told.
        self._replaced.cover(rows.module, "weight", owner, lambda own: own)
        if of_head is not None:
            self._replaced.cover(_output(self.model), "weight", owner, of_head.read)
        self._rows = rows, of_head, owner
        rows.module.forward = lambda ids: self._embedded(rows, owner, ids)

    def _embedded(self, rows: Rows, owner: Any, ids: Tensor) -> Tensor:
        out: Tensor = type(rows.module).forward(rows.module, ids)
        return rows.embedded(ids, out) if self._reads(owner) else out

    @property
    def head_rows(self) -> TokenRows | None:
        """The rows of the head that learn now."""
        if self._rows is None or self._rows[1] is None or not self._reads(self._rows[2]):
            return None
        return self._rows[1] if self._rows[1].learning else None

    def reading(self, as_read: AsRead) -> AbstractContextManager[None]:
        """Inside this block what stands in for a parameter is read as `as_read` says."""
        return self._replaced.reading(as_read)

    def label(self, head: nn.Module | None, owner: Any) -> None:
        """Let `head` (states (…, D) -> logits (…, C)) give the labels; None: no longer."""
        self._heads.pop(owner, None)
        if head is None:
            return
        if self._heads:
            raise CapabilityError(
                "Two adapters bring a head for labels to one base.",
                "detach the first one before the second is attached.",
            )
        self._heads[owner] = head

    @property
    def head(self) -> Any | None:
        """What gives labels now."""
        return None if self._suspended else next(iter(self._heads.values()), None)

    def _reads(self, owner: Any) -> bool:
        """Whether weights of `owner` stand in for the base's now."""
        if self._suspended or (self._spans is not None and owner not in self._spans):
            return False
        if self._spans is not None and len(self._spans) > 1:
            raise CapabilityError(
                f"{type(owner).__name__} replaces weights of the base, so it cannot share a flat "
                "batch with other adapters.",
                "give it a batch of its own.",
            )
        return True

    @property
    def beyond_linears(self) -> bool:
        """Whether anything acts now elsewhere than on the linear layers' outputs."""
        if self._replaced.acts_on():
            return True
        return any(self.on(x.path) for x in self.sites if x.path in self._on)

    @property
    def shared(self) -> bool:
        """Whether the batch has rows of several owners now."""
        return self._spans is not None and len(self._spans) > 1

    @property
    def shift(self) -> int:
        """How many positions all tokens are moved by now, the largest of any owner's."""
        return max(
            (h.shift for s in self.at("position") for h, _ in self.on(s.path)),  # type: ignore[attr-defined]
            default=0,
        )

    def remove(self, hook: Hook) -> None:
        """Take `hook` away wherever it hangs."""
        for path, hooks in list(self._on.items()):
            hooks[:] = [pair for pair in hooks if pair[0] is not hook]
            if not hooks:
                place = self._by_path[path]
                rows = isinstance(place, Site) and place.point == "attention"
                del place.module.__dict__[ROWS if rows else "forward"]
                del self._on[path]

    def on(self, path: str) -> list[tuple[Hook, slice | None]]:
        """What is called now on the linear layer at `path`, and on which rows; None: on all."""
        if self._suspended:
            return []
        hooks = [pair for pair in self._on.get(path, []) if not getattr(pair[0], "resting", False)]
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
        for hook, rows in on:
            if hasattr(hook, "before"):
                x = hook.before(x) if rows is None else _by_rows(x, x, [(_Before(hook), rows)])
        on = [pair for pair in on if not hasattr(pair[0], "before")]
        if not on:
            return plain(linear.module, x)
        if on[0][1] is not None:
            return _by_rows(plain(linear.module, x), x, on)
        stand_ins = [hook for hook, _ in on if isinstance(hook, StandIn)]
        hooks = [hook for hook, _ in on if not isinstance(hook, StandIn)]
        first = hooks[0] if hooks else None
        if isinstance(first, LowRank) and not first.dropping and frozen(linear):
            codes = agreed(stand_ins) if stand_ins else None
            out, hooks = adapted(linear, first, x, codes), hooks[1:]
        elif hasattr(first, "instead") and not stand_ins:
            out, hooks = first.instead(x), hooks[1:]  # type: ignore[union-attr]
        elif stand_ins:
            out = product(x, agreed(stand_ins), linear.module.bias)  # type: ignore[arg-type]
        else:
            out = plain(linear.module, x)
        for hook in hooks:
            out = hook(x, out)
        return out

    def _run_site(self, site: Site, *inputs: Any, **named: Any) -> Any:
        """A norm or a block; a block may return a tuple that begins with its states."""
        result = type(site.module).forward(site.module, *inputs, **named)
        x = inputs[0] if inputs else next(iter(named.values()))
        out = result[0] if isinstance(result, tuple) else result
        on = self.on(site.path)
        if on and on[0][1] is not None:
            out = _by_rows(out, x, on)
        else:
            for hook, _ in on:
                out = hook(x, out)
        return (out, *result[1:]) if isinstance(result, tuple) else out

    def _shifted(self, site: Site, *inputs: Any, **named: Any) -> Any:
        """What reads positions, with positions moved."""

        for hook, _ in self.on(site.path):
            if hasattr(hook, "begin"):
                hook.begin()

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.is_floating_point():
                return value
            for hook, rows in self.on(site.path):
                part = torch.zeros_like(value)
                part[..., rows or slice(None)] = hook.shift  # type: ignore[attr-defined]
                value = value + part
            return value

        return type(site.module).forward(
            site.module, *map(moved, inputs), **{k: moved(v) for k, v in named.items()}
        )


def _output(model: Any) -> Any:
    return getattr(model, "get_output_embeddings", lambda: None)()


ROWS = "extra_rows"
"""Attribute of an attention module under which the plug-in finds more keys and values."""


class _Before:
    """An input's change as a hook of its own, for `_by_rows`."""

    def __init__(self, hook: Any) -> None:
        self.hook = hook

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        changed: Tensor = self.hook.before(x)
        return changed


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
