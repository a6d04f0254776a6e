"""What a teacher says about the supervised tokens of a document.

Of every distribution its K likeliest tokens are kept, and of all others their sum. Logarithms,
because a tail of 1e-9 matters as soon as the student gives it none.

Dimension key: N supervised tokens, K kept tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """The teacher's distributions at `temperature`, and how much they count."""

    ids_NK: Tensor
    """int32; the likeliest first."""
    logs_NK: Tensor
    """Log-probabilities, float32."""
    rest_N: Tensor
    """Log of the probability of all tokens that are not kept; -inf where all are."""
    weight: float
    """Share of the loss. In (0, 1]."""
    temperature: float

    def __len__(self) -> int:
        return len(self.rest_N)

    @classmethod
    def blank(cls, tokens: int, kept: int, weight: float, temperature: float) -> "Lesson":
        """One of the right size that says nothing and takes no memory, for a plan."""
        return cls(
            torch.zeros(1, 1, dtype=torch.int32).expand(tokens, kept),
            torch.zeros(1, 1).expand(tokens, kept),
            torch.zeros(1).expand(tokens),
            weight,
            temperature,
        )

    def at(self, rows: slice | Tensor) -> "Lesson":
        """Of some of the tokens."""
        return replace(
            self,
            ids_NK=self.ids_NK[rows],
            logs_NK=self.logs_NK[rows],
            rest_N=self.rest_N[rows],
        )

    def sized(self, tokens: int) -> "Lesson":
        """A blank one like it for so many tokens, for a probe."""
        return Lesson.blank(tokens, self.ids_NK.shape[1], self.weight, self.temperature)

    def repeated(self, times: int) -> "Lesson":
        return replace(
            self,
            ids_NK=self.ids_NK.repeat(times, 1),
            logs_NK=self.logs_NK.repeat(times, 1),
            rest_N=self.rest_N.repeat(times),
        )


def joined(lessons: Sequence[Lesson], device: torch.device) -> Lesson:
    """The lessons of several documents, one after the other; all of one teacher."""
    return replace(
        lessons[0],
        ids_NK=torch.cat([x.ids_NK for x in lessons]).to(device),
        logs_NK=torch.cat([x.logs_NK for x in lessons]).to(device),
        rest_N=torch.cat([x.rest_N for x in lessons]).to(device),
    )
