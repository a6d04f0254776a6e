"""Answers for many prompts at once, greedy or drawn, and the likelihood of their references.

Prompts are read in one flat batch as a prefix tree: the instructions and examples that
they begin with alike are computed once. Their keys and values then take a row each in a
cache of fixed size, and all rows go one step at a time; a finished row's place is taken by
the next prompt.

Dimension key: B rows, K key/value heads, N prompts, T tokens, h head size.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from domainwright.core.errors import ConfigError
from domainwright.core.progress import Listener, Step, quiet
from domainwright.infer._sampling import Sampling
from domainwright.infer._slots import Slots, columns
from domainwright.infer.likelihood import Likelihood, Request, likelihoods, projected, score
from domainwright.models.base import Base
from domainwright.models.flat import flatten
from domainwright.models.kernels import largest
from domainwright.models.tree import Tree, grow, shared

BATCH_ROWS = 192
"""Every step reads all weights once: 200 short questions, 72 rows at a time, take 13.4 s, 100 at a
time 12.1 and all at once 10.7 (medians of 4 on 2 cores)."""
BATCH_TOKENS = 24_576
"""Columns of all rows together: bounds the memory of the cache in which answers grow."""
READ_TOKENS = 4096
"""Prompt tokens read at once and held until they have a row; shared ones count once."""


@dataclass(frozen=True, slots=True)
class Answer:
    ids: list[int]
    """Without the token that ended it."""
    text: str
    ended: bool
    """False: stopped by the length limit."""
    prompt_tokens: int
    seconds: float
    """This answer's share of the time of all: what one more question costs."""
    reference: Likelihood | None = None
    """How likely the model finds the reference after the same prompt, if one was given."""
    stop: int | None = None
    """The token that ended it; None: a text did, or the limit."""


@torch.no_grad()
def answer(
    base: Base,
    prompts: Sequence[list[int]],
    *,
    new_tokens: int,
    references: Sequence[list[int]] | None = None,
    stop_texts: Sequence[str] = (),
    stops: Collection[int] | None = None,
    sampling: Sampling | None = None,
    listen: Listener = quiet,
    stage: str = "answer",
    told: Callable[[int, Answer], None] | None = None,
) -> list[Answer]:
    """The greedy answer to every prompt, in the order given, or one that is drawn.

    Args:
        new_tokens: longest answer in tokens.
        references: continuations to score too; the prompts are read once for both.
        stop_texts: an answer also ends before the first of these.
        stops: tokens that end an answer; None: those of the base's template.
        sampling: draw the tokens; None: take the likeliest.
        told: is given every answer, with its prompt's number, once it is whole: short ones first,
            without what it cost, and where the base's own cache is not ours without its reference.

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
    if not prompts:
        return []
    run = _Run(base, prompts, references, new_tokens, stop_texts, sampling, listen, stage)
    run.stops = base.template.stops if stops is None else set(stops)
    run.told = told
    begun = time.perf_counter()
    if base.feeding == "packed" and base.plain_head:
        for group in _groups(prompts, new_tokens):
            run.packed(group)
    elif sampling is None:
        run.library()
    else:
        run.unpacked()
    each = (time.perf_counter() - begun - run.reference_seconds) / len(prompts)
    return [run.answer(i, each) for i in range(len(prompts))]


def _groups(prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    """Prompts that share one cache: a few long ones do not take the rows of many short ones."""
    groups: list[list[int]] = []
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        rows = _rows(len(prompts[groups[-1][0]]), new_tokens) if groups else 0
        if not groups or (rows < BATCH_ROWS and _rows(len(prompts[i]), new_tokens) >= 2 * rows):
            groups.append([])
        groups[-1].append(i)
    return groups


def _rows(longest: int, new_tokens: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_TOKENS // columns(longest, new_tokens)))


@dataclass(slots=True)
class _Read:
    """Prompts whose keys and values are known and who wait for a row."""

    waiting: list[int]
    """Longest last."""
    tokens: dict[int, int]
    """The first token of each answer."""
    rows: dict[int, list[int]]
    """Where each prompt lies in the flat batch."""
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (K, T, h)."""


class _Run:
    """One call of `answer`."""

    def __init__(
        self,
        base: Base,
        prompts: Sequence[list[int]],
        references: Sequence[list[int]] | None,
        new_tokens: int,
        stop_texts: Sequence[str],
        sampling: Sampling | None,
        listen: Listener,
        stage: str,
    ) -> None:
        self.base, self.prompts, self.references = base, prompts, references
        self.sampling = sampling
        self.new_tokens, self.stop_texts = new_tokens, stop_texts
        self.stops: set[int] = set()
        self.listen, self.stage, self.done = listen, stage, 0
        self.written: list[list[int]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.stopped: list[int | None] = [None] * len(prompts)
        self.likelihoods: list[Likelihood | None] = [None] * len(prompts)
        self.reference_seconds = 0.0
        """Time spent on the references, which answering would not need."""
        self.told: Callable[[int, Answer], None] | None = None
        self._whole: list[int] = []
        """Prompts whose answers nobody was told of yet."""

    def answer(self, i: int, seconds: float) -> Answer:
        ids = self.written[i]
        return Answer(
            ids,
            self.text(ids),
            self.ended[i],
            len(self.prompts[i]),
            seconds,
            self.likelihoods[i],
            self.stopped[i],
        )

    def _tell(self) -> None:
        """How far it is, and the answers that are whole now."""
        if self.told is not None:
            for i in self._whole:
                self.told(i, self.answer(i, 0.0))
        self._whole = []
        self.listen(Step(self.stage, self.done, len(self.prompts)))

    def text(self, ids: list[int]) -> str:
        text: str = self.base.tokenizer.decode(ids, skip_special_tokens=True)
        for stop in self.stop_texts:
            text = text.split(stop)[0]
        return text.strip()

    def _take(self, i: int, token: int) -> bool:
        """Note the next token of an answer. True: it goes on."""
        if token in self.stops:
            self.ended[i], self.stopped[i] = True, token
        else:
            self.written[i].append(token)
            if self.stop_texts:
                text = self.base.tokenizer.decode(self.written[i])
                self.ended[i] = any(stop in text for stop in self.stop_texts)
        on = not self.ended[i] and len(self.written[i]) < self.new_tokens
        if not on:
            self.done += 1
            self._whole.append(i)
        return on

    def packed(self, group: list[int]) -> None:
        """Answer a group of prompts, the longest first in the list, in one cache."""
        longest = len(self.prompts[group[0]])
        # Neighbours in this order share the most.
        unread = sorted(group, key=lambda i: self.prompts[i], reverse=True)
        read = self._read(unread)
        most = min(_rows(longest, self.new_tokens), len(group))
        # As many in the last round as in the others: as fast, in less memory.
        rows = math.ceil(len(group) / math.ceil(len(group) / most))
        slots = Slots(read.layers, rows, longest, self.new_tokens)
        owners: list[int | None] = [None] * rows
        while True:
            for row in range(len(owners)):
                # More than once where answers end with their first token.
                while owners[row] is None and (read.waiting or unread):
                    if not read.waiting:
                        # Free it before as much again is read.
                        read.layers = []
                        read = self._read(unread)
                    owners[row] = self._seat(slots, row, read)
            live = [row for row, owner in enumerate(owners) if owner is not None]
            self._tell()
            if not live:
                return
            if 2 * len(live) <= len(owners):
                slots.keep(live)
                owners = [owners[row] for row in live]
            self._step(slots, owners)

    def _seat(self, slots: Slots, row: int, read: _Read) -> int | None:
        """Give a free row to the next prompt whose answer goes on after its first token."""
        while read.waiting:
            i = read.waiting.pop()
            if self._take(i, read.tokens[i]):
                slots.fill(row, read.layers, read.rows.pop(i))
                return i
        return None

    def _step(self, slots: Slots, owners: list[int | None]) -> None:
        """One more token for every row; the rows that are finished are freed."""
        device = self.base.device
        last_B = [self.written[i][-1] if i is not None else 0 for i in owners]
        positions_B1, seen = slots.open()
        ids_B = torch.tensor(last_B, device=device)
        states_BD = self.base.read_one(
            ids_B,
            positions_B1[:, 0],
            slots.begins_B,
            slots.length,
            [(layer.keys, layer.values) for layer in slots.layers],
        )
        if states_BD is None:
            out = self.base.model.base_model(
                input_ids=ids_B[:, None],
                position_ids=positions_B1,
                attention_mask=seen,
                past_key_values=slots.cache,
                use_cache=True,
            )
            states_BD = out.last_hidden_state[:, -1]
        slots.close()
        tokens = self._next(self.base.project(states_BD), owners)
        for row, (i, token) in enumerate(zip(owners, tokens, strict=True)):
            if i is not None and not self._take(i, token):
                owners[row] = None
                slots.free(row)

    def _next(self, logits_BV: Tensor, owners: Sequence[int | None]) -> list[int]:
        """The next token of every row's prompt; any for a row without one."""
        if self.sampling is None:
            tokens: list[int] = largest(logits_BV).tolist()
            return tokens
        places = [(i, len(self.written[i])) if i is not None else (0, 0) for i in owners]
        return self.sampling.drawn(logits_BV, places)

    def _read(self, unread: list[int]) -> _Read:
        """Read as many prompts from the end of `unread` as READ_TOKENS allow.

        A reference stands behind its prompt as a branch of its own: attention is causal, so the
        prompt does not notice, and its keys and values are never looked at again.
        """
        begun = time.perf_counter()
        chosen: list[int] = []
        sequences: list[tuple[int, ...]] = []
        tokens = 0
        while unread:
            # The last token of a reference is only predicted, never read.
            behind = self.references[unread[-1]][:-1] if self.references else []
            whole = (*self.prompts[unread[-1]], *behind)
            tokens += len(whole) - (shared(sequences[-1], whole) if sequences else 0)
            if chosen and tokens > READ_TOKENS:
                break
            chosen.append(unread.pop())
            sequences.append(whole)
        tree = grow(sequences)
        flat = tree.flat(self.base.device)
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        out = self.base.model.base_model(
            input_ids=flat.ids_T[None],
            position_ids=flat.positions_T[None],
            document_bounds=flat.bounds,
            document_parents=flat.parents,
            past_key_values=cache,
            use_cache=True,
        )
        hidden_TD = out.last_hidden_state[0]
        rows = {i: tree.rows(n, 0, len(self.prompts[i])) for n, i in enumerate(chosen)}
        if self.references:
            own = len(set().union(*rows.values()))
            self.reference_seconds += (time.perf_counter() - begun) * (1 - own / flat.tokens)
            begun = time.perf_counter()
            self._score_references(hidden_TD, tree, chosen)
            self.reference_seconds += time.perf_counter() - begun
        last_ND = hidden_TD[[rows[i][-1] for i in chosen]]
        first: list[int] = []
        for block in projected(self.base, last_ND):
            first += self._next(block, chosen[len(first) : len(first) + len(block)])
        return _Read(
            sorted(chosen, key=lambda i: len(self.prompts[i])),
            dict(zip(chosen, first, strict=True)),
            rows,
            [(x.keys[0], x.values[0]) for x in cache.layers],  # type: ignore[union-attr, index]
        )

    def _score_references(self, hidden_TD: Tensor, tree: Tree, chosen: list[int]) -> None:
        """A reference's first token is predicted at the end of its prompt."""
        assert self.references is not None
        wanted = [self.references[i] for i in chosen]
        rows = [
            row
            for n, i in enumerate(chosen)
            for first in [len(self.prompts[i]) - 1]
            for row in tree.rows(n, first, first + len(wanted[n]))
        ]
        rows_N, places_M = torch.tensor(rows, device=self.base.device).unique(return_inverse=True)
        found = likelihoods(projected(self.base, hidden_TD[rows_N]), places_M, wanted)
        for i, likelihood in zip(chosen, found, strict=True):
            self.likelihoods[i] = likelihood

    def unpacked(self) -> None:
        """Prompt by prompt without a cache, for architectures that ours does not fit."""
        for i, prompt in enumerate(self.prompts):
            on = True
            while on:
                flat = flatten([[*prompt, *self.written[i]]], self.base.device)
                last_1 = torch.tensor([flat.tokens - 1], device=self.base.device)
                on = self._take(i, self._next(self.base.logits(flat, last_1), [i])[0])
            self._tell()
        self._score_apart()

    def _score_apart(self) -> None:
        if not self.references:
            return
        begun = time.perf_counter()
        pairs = zip(self.prompts, self.references, strict=True)
        self.likelihoods = [*score(self.base, [Request(p, r) for p, r in pairs])]
        self.reference_seconds = time.perf_counter() - begun

    def library(self) -> None:
        """transformers' own generate, for architectures that our cache does not fit."""
        tokenizer = self.base.tokenizer
        self._score_apart()
        for i, prompt in enumerate(self.prompts):
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
                if not self._take(i, token):
                    break
            self._tell()
