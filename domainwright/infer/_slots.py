"""Keys and values of the rows that are being answered, side by side in fixed buffers.

    column   0 ............................. length ...... columns
    row 0    . . . . [ prompt and answer so far ]
    row 1    . . [ prompt and answer so far     ]
    row 2    . . . . . . . . . [ a new prompt   ]

Every row ends at the same column, so a step writes one column of all rows in place, and a
sliding window counts back from the end. A finished row's place is taken by a new prompt,
which also ends there. At the end of the buffers everything moves to the left.

Dimension key: B rows, K key/value heads, S columns, T tokens of a flat batch, h head size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    """One layer's buffers (B, K, S, h), written in place and not concatenated anew."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.first = self.length = 0
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        end = self.length + 1
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        return self.keys[:, :, self.first : end], self.values[:, :, self.first : end]

    def get_seq_length(self) -> int:
        return self.length - self.first


class Slots:
    """The cache of all layers.

    Args:
        like: keys and values (K, T, h) of every layer, for shapes and types.
        longest: tokens of the longest prompt that will come.
        room: longest answer.
    """

    def __init__(
        self, like: list[tuple[Tensor, Tensor]], rows: int, longest: int, room: int
    ) -> None:
        def buffer(side_KTh: Tensor) -> Tensor:
            heads, _, size = side_KTh.shape
            return side_KTh.new_zeros(rows, heads, columns(longest, room), size)

        self.layers = [_Layer(buffer(k), buffer(v)) for k, v in like]
        self.cache = Cache(layers=[*self.layers])
        self.longest, self.end = longest, columns(longest, room)
        self.length = longest
        """The column that is written next."""
        # Column where each row begins. An idle row sees its last column only.
        self.begins_B = torch.full((rows,), longest, device=like[0][0].device)

    def fill(self, row: int, read: list[tuple[Tensor, Tensor]], rows: list[int]) -> None:
        """Put a prompt, whose keys and values lie at `rows` of a flat batch, into a row."""
        begin = self.length - len(rows)
        rows_S = torch.tensor(rows, device=self.begins_B.device)
        for layer, (keys_KTh, values_KTh) in zip(self.layers, read, strict=True):
            layer.keys[row, :, begin : self.length] = keys_KTh[:, rows_S]
            layer.values[row, :, begin : self.length] = values_KTh[:, rows_S]
        self.begins_B[row] = begin

    def free(self, row: int) -> None:
        self.begins_B[row] = self.length

    def keep(self, rows: list[int]) -> None:
        """Only these rows go on."""
        keep = torch.tensor(rows, device=self.begins_B.device)
        self.begins_B = self.begins_B[keep]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[keep], layer.values[keep]

    def open(self) -> tuple[Tensor, Tensor]:
        """Positions (B, 1) of the tokens to be read next, and what they see (B, 1, 1, S)."""
        first = int(self.begins_B.min())
        if self.length == self.end:
            first -= self._move(min(first, self.length - self.longest))
        for layer in self.layers:
            layer.first, layer.length = first, self.length
        column_S = torch.arange(first, self.length + 1, device=self.begins_B.device)
        seen_BS = column_S >= self.begins_B[:, None]
        return (self.length - self.begins_B)[:, None], seen_BS[:, None, None]

    def close(self) -> None:
        """The column has been written in every layer."""
        self.length += 1

    def _move(self, by: int) -> int:
        for layer in self.layers:
            for side in (layer.keys, layer.values):
                side[:, :, : self.length - by] = side[:, :, by : self.length].clone()
        self.length -= by
        self.begins_B -= by
        return by


def columns(longest: int, room: int) -> int:
    """Columns of the buffers. One room is needed; the second makes moving rare."""
    return longest + 2 * room
