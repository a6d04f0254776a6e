"""Plain text: how well the model predicts it, in bits per byte.

    bits per byte = -Σ log p / (bytes · ln 2)

Every token is predicted once, the first from the begin- or end-of-sequence token. Long texts
go in windows: each predicts its tokens from the one before, and the last, shorter one reads
back as far as a window goes.
Source: lm_eval 0.4.13, `get_rolling_token_windows` with context 1.
"""

import math
import time
from collections.abc import Sequence

from domainwright.core.progress import Listener, quiet
from domainwright.core.records import Text
from domainwright.evaluate.records import Item, Mark
from domainwright.evaluate.tasks import TASKS
from domainwright.infer.likelihood import Request, score
from domainwright.models.base import Base
from domainwright.models.forms import Prompt

WINDOW = 2048
"""Longest window in tokens: keeps the figure equal for bases with longer contexts."""


def windows(base: Base, text: str) -> list[Request]:
    """The text as scoring requests that predict each of its tokens once."""
    tokenizer = base.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    size = min(WINDOW, base.context)
    before = [start, *ids]
    found = []
    for first in range(0, len(ids), size):
        end = min(first + size, len(ids))
        found.append(Request(before[max(0, end - size) : first + 1], ids[first:end]))
    return found


@TASKS.register
class Texts:
    """Passages to be predicted. The score is minus the bits per byte: higher is better."""

    version = 1
    scores = ("negative_bits_per_byte",)

    @staticmethod
    def run(
        base: Base,
        rows: Sequence[Text],
        prompts: Sequence[Prompt] = (),
        *,
        decide_by: str = "negative_bits_per_byte",
        new_tokens: int = 0,
        listen: Listener = quiet,
        stage: str = "texts",
    ) -> list[Item]:
        requests = [windows(base, row.text) for row in rows]
        begun = time.perf_counter()
        scored = iter(
            score(base, [r for part in requests for r in part], listen=listen, stage=stage)
        )
        seconds = (time.perf_counter() - begun) / max(1, len(rows))
        items = []
        for row, part in zip(rows, requests, strict=True):
            mine = [next(scored) for _ in part]
            nats, tokens = -sum(x.log_probability for x in mine), sum(x.tokens for x in mine)
            bits = nats / math.log(2) / max(1, len(row.text.encode()))
            items.append(
                Item(
                    id=row.id,
                    group=row.group,
                    question=row.text[:200],
                    reference="",
                    reply="",
                    mark=Mark(-bits, True),
                    metrics={"negative_bits_per_byte": -bits},
                    loss=nats,
                    loss_tokens=tokens,
                    tokens_in=tokens,
                    seconds=seconds,
                )
            )
        return items
