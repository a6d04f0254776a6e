"""A LoRA with a past, gone on with: what was learned beside the past moves, the past does not.

The artifact of such a run is one LoRA of all ranks, the past's first:

    A = [A_past; A_own]        B = [B_past, B_own]

Opened as it is, all of it would be trained. Here the own part of it takes the place of a fresh
adapter's that was built with the same past.
"""

from pathlib import Path

import torch

from domainwright.core.errors import DataError
from domainwright.methods.lora import LoraAdapter

RTOL, ATOL = 1e-5, 1e-7
"""The past was multiplied by a ratio of two scales on its way into the artifact."""


@torch.no_grad()
def go_on(fresh: LoraAdapter, opened: LoraAdapter, folder: Path) -> None:
    """Put into `fresh`, built with its past, what `opened` learned beside that past.

    Raises:
        DataError: `opened` holds another past, or has other ranks.
    """
    changes = {
        layer.path: (a, b) for layer, a, b in zip(opened.layers, opened.A, opened.B, strict=True)
    }
    for i, (layer, a_RI, b_OR) in enumerate(zip(fresh.layers, fresh.A, fresh.B, strict=True)):
        still = fresh.frozen(i)
        assert still is not None, "built without a past"
        past, whole = len(still[0]), len(still[0]) + len(a_RI)
        if layer.path not in changes or len(changes[layer.path][0]) != whole:
            _refuse(folder, layer.path)
        all_a, all_b = changes[layer.path]
        held = (all_a[:past], all_b[:, :past])
        if not all(
            torch.allclose(x, y, rtol=RTOL, atol=ATOL) for x, y in zip(held, still, strict=True)
        ):
            _refuse(folder, layer.path)
        a_RI.copy_(all_a[past:])
        b_OR.copy_(all_b[:, past:])
    rest, learned = dict(fresh.named_parameters()), dict(opened.named_parameters())
    for name, value in rest.items():
        if not name.startswith(("A.", "B.")):
            value.copy_(learned[name])


def _refuse(folder: Path, path: str) -> None:
    raise DataError(
        f"{folder} was not trained beside what lora.past names: its layer {path} has another past.",
        "restore those folders as they were, or train anew.",
    )
