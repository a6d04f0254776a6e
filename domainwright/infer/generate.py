"""Greedy answers for many prompts at once, and the likelihood of their references.

Prompts are read as one flat batch, without padding; their keys and values are then set
side by side, right-aligned, and all rows take one step at a time. A finished row leaves
the batch as soon as half of the batch is finished.

Dimension key: B rows, K key/value heads, S longest prompt, T tokens, h head size.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.infer.likelihood import Likelihood, Request, log_probabilities, score
from domainwright.models.base import Base
from domainwright.models.flat import flatten

BATCH_ROWS = 32
BATCH_TOKENS = 16_384
"""Prompt tokens and room for answers in one batch: bounds the cache's memory."""


@dataclass(frozen=True, slots=True)
class Answer:
    ids: list[int]
    """Without the token that ended it."""
    text: str
    ended: bool
    """False: stopped by the length limit."""
    prompt_tokens: int
    seconds: float
    """This answer's share of its batch's time: what one more question costs."""
    reference: Likelihood | None = None
    """How likely the model finds the reference after the same prompt, if one was given."""


class _Slots(DynamicLayer):
    """Keys and values in one buffer that is written in place, not concatenated anew."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        new = key_states.shape[2]
        self.keys[:, :, self.length : self.length + new] = key_states
        self.values[:, :, self.length : self.length + new] = value_states
        self.length += new
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length


@torch.no_grad()
def answer(
    base: Base,
    prompts: Sequence[list[int]],
    *,
    new_tokens: int,
    references: Sequence[list[int]] | None = None,
    stop_texts: Sequence[str] = (),
    listen: Listener = quiet,
    stage: str = "answer",
) -> list[Answer]:
    """The greedy answer to every prompt, in the order given.

    Args:
        new_tokens: longest answer in tokens.
        references: continuations to score too; the prompts are read once for both.
        stop_texts: an answer also ends before the first of these.

    Raises:
        ConfigError: a prompt and its answer do not fit into the base's context.
    """
    rooms = [max(new_tokens, len(r)) for r in references or [[] for _ in prompts]]
    room = max(rooms, default=0)
    over = [len(p) for p, r in zip(prompts, rooms, strict=True) if len(p) + r > base.context]
    if over:
        raise ConfigError(
            f"A prompt of {max(over)} tokens and an answer of up to {room} exceed the context of "
            f"{base.context} tokens of {base.source.name}.",
            "lower the context budget or the number of new tokens.",
        )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: list[Answer | None] = [None] * len(prompts)
    done = 0
    while order:
        rows: list[int] = []
        while (
            order
            and len(rows) < BATCH_ROWS
            and (not rows or (len(rows) + 1) * (len(prompts[rows[0]]) + room) <= BATCH_TOKENS)
        ):
            rows.append(order.pop())
        begun = time.perf_counter()
        wanted = [references[i] for i in rows] if references else None
        run = _Batch(base, [prompts[i] for i in rows], wanted, new_tokens, stop_texts)
        run.run()
        each = (time.perf_counter() - begun - run.reference_seconds) / len(rows)
        for place, i in enumerate(rows):
            ids = run.written[place]
            text = base.tokenizer.decode(ids, skip_special_tokens=True)
            for stop in stop_texts:
                text = text.split(stop)[0]
            answers[i] = Answer(
                ids,
                text.strip(),
                run.ended[place],
                len(prompts[i]),
                each,
                run.likelihoods[place] if wanted else None,
            )
        done += len(rows)
        listen(Step(stage, done, len(prompts)))
    return [a for a in answers if a is not None]


class _Batch:
    """Rows that are answered together."""

    def __init__(
        self,
        base: Base,
        prompts: list[list[int]],
        references: list[list[int]] | None,
        new_tokens: int,
        stop_texts: Sequence[str],
    ) -> None:
        self.base, self.prompts, self.new_tokens = base, prompts, new_tokens
        self.references = references
        self.stops, self.stop_texts = base.template.stops, stop_texts
        self.written: list[list[int]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.likelihoods: list[Likelihood] = []
        self.reference_seconds = 0.0
        """Time spent on the references, which answering would not need."""

    def run(self) -> None:
        if self.base.feeding == "packed" and self.base.plain_head:
            self._run_packed()
        else:
            self._run_library()

    def _take(self, row: int, token: int) -> None:
        """Note the next token of a row, or that the row is finished."""
        if token in self.stops:
            self.ended[row] = True
            return
        self.written[row].append(token)
        if self.stop_texts:
            text = self.base.tokenizer.decode(self.written[row])
            self.ended[row] = any(stop in text for stop in self.stop_texts)

    def _run_packed(self) -> None:
        base, device = self.base, self.base.device
        lengths = [len(p) for p in self.prompts]
        longest = max(lengths)
        slots, last_BD = self._read_prompts()
        cache = Cache(layers=[*slots])
        length_B = torch.tensor(lengths, device=device)
        column = torch.arange(longest + self.new_tokens, device=device)
        # Right-aligned: a row's own columns begin where its padding ends.
        seen_BS = column[None] >= (longest - length_B)[:, None]
        active = list(range(len(lengths)))
        token_B = base.project(last_BD).argmax(-1)
        for step in range(self.new_tokens):
            for place, row in enumerate(active):
                if not self.ended[row]:
                    self._take(row, int(token_B[place]))
            live = [place for place, row in enumerate(active) if not self.ended[row]]
            if not live or step == self.new_tokens - 1:
                return
            if 2 * len(live) <= len(active):
                keep = torch.tensor(live, device=device)
                for layer in slots:
                    layer.batch_select_indices(keep)
                token_B, seen_BS, length_B = token_B[keep], seen_BS[keep], length_B[keep]
                active = [active[place] for place in live]
            mask = seen_BS[:, None, None, : longest + step + 1]
            out = base.model.base_model(
                input_ids=token_B[:, None],
                position_ids=(length_B + step)[:, None],
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            )
            token_B = base.project(out.last_hidden_state[:, -1]).argmax(-1)

    def _read_prompts(self) -> tuple[list[_Slots], Tensor]:
        """Every prompt's keys and values, right-aligned, layer by layer; its last hidden state.

        A reference stands behind its prompt in the same document: attention is causal, so the
        prompt does not notice, and its keys and values are simply left out afterwards.
        """
        begun = time.perf_counter()
        behind = self.references or [[] for _ in self.prompts]
        # The last token of a reference is only predicted, never read.
        flat = flatten(
            [p + r[:-1] for p, r in zip(self.prompts, behind, strict=True)], self.base.device
        )
        read = Cache(layer_class_to_replicate=DynamicLayer)
        out = self.base.model.base_model(
            input_ids=flat.ids_T[None],
            position_ids=flat.positions_T[None],
            document_bounds=flat.bounds,
            past_key_values=read,
            use_cache=True,
        )
        hidden_TD = out.last_hidden_state[0]
        documents = [
            slice(d.start, d.start + len(p))
            for d, p in zip(flat.documents(), self.prompts, strict=True)
        ]
        if self.references:
            prompt_tokens = sum(map(len, self.prompts))
            spent = time.perf_counter() - begun
            self.reference_seconds = spent * (1 - prompt_tokens / flat.tokens)
            begun = time.perf_counter()
            self._score_references(hidden_TD, [d.stop - 1 for d in documents], self.references)
            self.reference_seconds += time.perf_counter() - begun
        longest = max(map(len, self.prompts))
        slots: list[_Slots] = []
        for layer in read.layers:
            sides = []
            for source in (layer.keys[0], layer.values[0]):  # type: ignore[union-attr, index]
                side = source.new_zeros(
                    len(documents), source.shape[0], longest + self.new_tokens, source.shape[-1]
                )
                for row, d in enumerate(documents):
                    side[row, :, longest - (d.stop - d.start) : longest] = source[:, d]
                sides.append(side)
            layer.keys = layer.values = None  # type: ignore[union-attr]  # free it at once
            slots.append(_Slots(sides[0], sides[1], longest))
        ends = torch.tensor([d.stop - 1 for d in documents], device=self.base.device)
        return slots, hidden_TD[ends]

    def _score_references(
        self, hidden_TD: Tensor, ends: list[int], references: list[list[int]]
    ) -> None:
        """A reference's first token is predicted at the end of its prompt."""
        rows = [e + k for e, r in zip(ends, references, strict=True) for k in range(len(r))]
        labels_N = torch.tensor([t for r in references for t in r], device=self.base.device)
        logs_N, hits_N = log_probabilities(self.base, hidden_TD[rows], labels_N)
        counts = [len(r) for r in references]
        self.likelihoods = [
            Likelihood(float(a.sum()), bool(b.all()), n)
            for a, b, n in zip(
                logs_N.double().split(counts), hits_N.split(counts), counts, strict=True
            )
        ]

    def _run_library(self) -> None:
        """transformers' own generate, for architectures that our cache does not fit."""
        tokenizer = self.base.tokenizer
        if self.references:
            begun = time.perf_counter()
            pairs = zip(self.prompts, self.references, strict=True)
            self.likelihoods = score(self.base, [Request(p, r) for p, r in pairs])
            self.reference_seconds = time.perf_counter() - begun
        for row, prompt in enumerate(self.prompts):
            ids = torch.tensor([prompt], device=self.base.device)
            out = self.base.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.new_tokens,
                do_sample=False,
                eos_token_id=sorted(self.stops),
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
            for token in out[0, len(prompt) :].tolist():
                self._take(row, token)
                if self.ended[row]:
                    break
