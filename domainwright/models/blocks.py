"""The stacks of a fused trunk's blocks, and what hangs on them now.

Dimension key: D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from domainwright.models.head_norms import HeadNorms
from domainwright.models.hooks import Hooks
from domainwright.models.lowrank import Factors, LowRank, Stack
from domainwright.models.stand_in import StandIn, agreed

Changes = list[list[Factors]]
"""What hangs on the four stacks of a block: one entry for each owner of rows."""


@dataclass(frozen=True, slots=True)
class Block:
    first_norm_D: Tensor
    second_norm_D: Tensor
    attention: Stack
    """Queries, keys and values."""
    output: Stack
    gate_up: Stack
    down: Stack
    window: int | None
    head_norms: HeadNorms | None

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return self.attention, self.output, self.gate_up, self.down


@dataclass(frozen=True, slots=True)
class Present:
    """What one reading of a trunk computes with."""

    blocks: Sequence[Block]
    """The trunk's own, or such that hold codes in their place."""
    changes: list[Changes]


def present(blocks: Sequence[Block], hooks: Hooks) -> Present | None:
    """The low-rank changes and stand-ins on every stack; None: something else hangs there."""
    if hooks.beyond_linears:
        return None
    found, changes = [], []
    for block in blocks:
        stacks = []
        on: Changes = []
        for stack in block.stacks:
            read = _on_stack(stack, hooks)
            if read is None:
                return None
            stacks.append(read[0])
            on.append(read[1])
        attention, output, gate_up, down = stacks
        found.append(replace(block, attention=attention, output=output, gate_up=gate_up, down=down))
        changes.append(on)
    return Present(found, changes)


def _on_stack(stack: Stack, hooks: Hooks) -> tuple[Stack, list[Factors]] | None:
    """(the stack as it is now, each owner's changes)."""
    count = len(stack.linears)
    owners: dict[tuple[int, int] | None, list[LowRank | None]] = {}
    stand_ins: list[list[StandIn]] = [[] for _ in stack.linears]
    for place, linear in enumerate(stack.linears):
        for hook, rows in hooks.on(linear.path):
            if isinstance(hook, StandIn) and rows is None:
                stand_ins[place].append(hook)
                continue
            span = None if rows is None else (rows.start, rows.stop)
            members = owners.setdefault(span, [None] * count)
            if not isinstance(hook, LowRank) or hook.dropping or members[place]:
                return None
            members[place] = hook
    if any(stand_ins):
        if not all(stand_ins):
            return None
        stack = replace(stack, held=tuple(agreed(x) for x in stand_ins))
    changes = [Factors(stack, who, span and slice(*span)) for span, who in owners.items()]
    return stack, changes
