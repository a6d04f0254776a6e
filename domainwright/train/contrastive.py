"""Contrastive tuning of the sentence encoder, so that questions lie near their passages.

    L = 1/b Σ_i -log [ exp(σ cos(q_i, d_i)) / Σ_j exp(σ cos(q_i, d_j)) ]        σ = 20

with j over all passages of the batch: every row's own, then the mined hard negatives.

Source: MNRL / InfoNCE (Henderson et al. 2017, arXiv:1705.00652; van den Oord et al. 2018,
arXiv:1807.03748), σ as in sentence-transformers. A step holds the graph of one chunk of texts
only: the vectors are made without a graph, the loss is differentiated by them, and each chunk is
read once more for its part (GradCache: Gao et al. 2021, arXiv:2101.06983); the gradients are those
of the whole batch. Weights and moments are float32; no dropout.

LoRA is hung on the encoder's linear layers by forward hooks of torch, with the arithmetic of
`models.lowrank`: the hook points of `methods` are those of causal models with flat batches.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError, DataError, RunFailed
from domainwright.core.progress import Listener, Step, quiet
from domainwright.core.seeds import derive, generator
from domainwright.models.base import fast_dtype
from domainwright.models.encoder import MAX_TOKENS, Encoder
from domainwright.models.lowrank import LowRank
from domainwright.train.schedule import factor

SCALE = 20.0
RATES = {"full": 2e-5, "lora": 2e-4}
"""Learning rates where none is set (methods.md §14)."""
CLIP = 1.0
CHUNK = 8
"""Texts whose graph is held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveSettings:
    """How the encoder is tuned."""

    kind: Literal["full", "lora"] = "lora"
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float | None = None
    """None: 2e-5 for full, 2e-4 for lora."""
    epochs: int = 2
    batch: int = 32
    """Pairs of a step."""
    warmup_share: float = 0.1
    negatives: int = 1
    """Mined passages of each pair that join its batch."""
    first_rank: int = 10
    last_rank: int = 50
    """Ranks of a search from which hard negatives are taken; counts from 1."""
    margin: float = 0.95
    """A negative's similarity is at most this share of the positive's."""
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "first_rank"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"The encoder's {name} is {getattr(self, name)}.", "give a whole number from 1."
                )
        if self.batch < 2:
            raise ConfigError(
                f"The encoder's batch is {self.batch}.",
                "give 2 or more: the other rows of a batch are what a row is told apart from.",
            )

    @property
    def rate(self) -> float:
        return self.learning_rate or RATES[self.kind]


@dataclass(frozen=True, slots=True)
class Passage:
    text: str
    group: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the passage that answers it."""

    query: str
    passage: Passage
    group: str
    """Of the query's row; rows of one group may be answered by one passage."""
    negatives: tuple[Passage, ...] = ()

    @property
    def groups(self) -> set[str]:
        return {self.group, self.passage.group}


@dataclass(frozen=True, slots=True)
class Tuned:
    """What training changed, as `Encoder.changed` reads it."""

    change: dict[str, Tensor]
    losses: tuple[float, ...]
    """Of each step, before it."""
    batches: tuple[int, ...]
    """Pairs of each step."""


def loss(queries_BE: Tensor, passages_NE: Tensor, scale: float = SCALE) -> Tensor:
    """Mean over the queries of the loss above.

    Args:
        queries_BE: unit vectors.
        passages_NE: unit vectors; the first B belong to the queries, in their order.
    """
    wanted = torch.arange(len(queries_BE))
    return nn.functional.cross_entropy(scale * queries_BE @ passages_NE.T, wanted)


def batches(pairs: Sequence[Pair], size: int, seed: int, epoch: int) -> list[list[Pair]]:
    """The pairs of one epoch in a drawn order; no two of a batch share query, passage or group.

    Such a row would be punished for finding a right passage. A pair that meets its like waits for
    a later batch. Batches of less than half the size have little to tell a row apart from, and a
    step as long as the others': where there are larger ones they are left out of the epoch.
    """
    waiting = [pairs[n] for n in generator(seed, "pairs", epoch).permutation(len(pairs))]
    made = []
    while waiting:
        batch: list[Pair] = []
        taken: set[tuple[str, str]] = set()
        later = []
        for pair in waiting:
            own = {("query", pair.query), ("text", pair.passage.text)}
            own |= {("group", g) for g in pair.groups}
            if len(batch) < size and not own & taken:
                batch.append(pair)
                taken |= own
            else:
                later.append(pair)
        waiting = later
        made.append(batch)
    fewest = max(2, min(size // 2, max(map(len, made), default=0)))
    return [batch for batch in made if len(batch) >= fewest]


def passages_of(batch: Sequence[Pair], negatives: int) -> list[str]:
    """Every row's own passage, then the hard negatives that are wrong for all rows."""
    groups = {g for pair in batch for g in pair.groups}
    texts = dict.fromkeys(pair.passage.text for pair in batch)
    for pair in batch:
        fit = [n for n in pair.negatives if n.group not in groups and n.text not in texts]
        texts |= dict.fromkeys(n.text for n in fit[:negatives])
    return list(texts)


def hard_negatives(
    rankings: Sequence[Sequence[int]],
    similar_N: np.ndarray,
    gold: int,
    groups: Sequence[str],
    settings: ContrastiveSettings,
    draw: np.random.Generator,
) -> list[int]:
    """Passages that look right and are not, in a drawn order.

    Args:
        rankings: passage numbers, best first, of each search for the pair's query.
        similar_N: cosine of the query with every passage.
        gold: number of the right passage; its whole group is left out.
    """
    ranked = [n for r in rankings for n in r[settings.first_rank - 1 : settings.last_rank]]
    most = settings.margin * similar_N[gold]
    fit = [n for n in dict.fromkeys(ranked) if groups[n] != groups[gold] and similar_N[n] <= most]
    return [fit[n] for n in draw.permutation(len(fit))]


def tune(
    encoder: Encoder,
    pairs: Sequence[Pair],
    settings: ContrastiveSettings,
    seed: int = 0,
    listen: Listener = quiet,
    *,
    dtype: torch.dtype | None = None,
) -> Tuned:
    """Train a copy of the encoder; `encoder` itself stays as it is.

    Args:
        dtype: of the activations. None: what this machine is fast at.

    Raises:
        DataError: no two pairs that could stand in one batch.
        RunFailed: the loss is no number.
    """
    own = copy.copy(encoder)
    own.model = copy.deepcopy(encoder.model).float().eval()
    plan = [b for e in range(settings.epochs) for b in batches(pairs, settings.batch, seed, e)]
    if not plan:
        raise DataError(
            f"Of {len(pairs)} pairs no two can stand in one batch.",
            "give pairs of several documents.",
        )
    parameters, change = PARTS[settings.kind](own.model, settings, seed)
    optimiser = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.0)
    found = []
    for number, batch in enumerate(plan):
        share = factor("linear", number, len(plan), settings.warmup_share, 0.0)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * share
        with _casting(dtype or fast_dtype("cpu")):
            found.append(backward(own, batch, settings))
        if not math.isfinite(found[-1]):
            raise RunFailed(
                f"Tuning the encoder diverged at step {number + 1}.", "give a lower learning rate."
            )
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        listen(Step("tune encoder", number + 1, len(plan), {"loss": f"{found[-1]:.3f}"}))
    return Tuned(change(), tuple(found), tuple(map(len, plan)))


def backward(encoder: Encoder, batch: Sequence[Pair], settings: ContrastiveSettings) -> float:
    """Add the gradients of one batch's loss, a chunk of texts at a time; return the loss."""
    texts = [*(p.query for p in batch), *passages_of(batch, settings.negatives)]
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    chunks = [order[n : n + CHUNK] for n in range(0, len(order), CHUNK)]
    vectors = torch.empty(len(texts), encoder.model.config.hidden_size)
    with torch.no_grad():
        for chunk in chunks:
            vectors[chunk] = encoder.pooled([texts[n] for n in chunk], settings.max_tokens)
    vectors.requires_grad_()
    value = loss(vectors[: len(batch)], vectors[len(batch) :])
    value.backward()
    assert vectors.grad is not None
    for chunk in chunks:
        again = encoder.pooled([texts[n] for n in chunk], settings.max_tokens)
        (again * vectors.grad[chunk]).sum().backward()
    return float(value.detach())


Part = tuple[list[nn.Parameter], Callable[[], dict[str, Tensor]]]
"""(what is trained, what it comes to in the end)"""


def _full(model: Any, settings: ContrastiveSettings, seed: int) -> Part:
    named = dict(model.named_parameters())
    for parameter in named.values():
        parameter.requires_grad_(True)
    return list(named.values()), lambda: {n: p.detach().clone() for n, p in named.items()}


def _lora(model: Any, settings: ContrastiveSettings, seed: int) -> Part:
    """Factors on every linear layer: A random, B zero."""
    source = torch.Generator().manual_seed(derive(seed, "encoder lora"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    made: dict[str, LowRank] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        width = (2 * torch.rand(settings.rank, layer.in_features, generator=source) - 1) / (
            math.sqrt(layer.in_features)
        )
        factors = nn.Parameter(width), nn.Parameter(torch.zeros(layer.out_features, settings.rank))
        made[path] = LowRank(*factors, settings.alpha / settings.rank)
        layer.register_forward_hook(_added(made[path]))

    def change() -> dict[str, Tensor]:
        found = {}
        for path, x in made.items():
            found[f"{path}.weight.A"] = x.A_RI.detach().clone()
            found[f"{path}.weight.B"] = x.scale * x.B_OR.detach()
        return found

    return [p for x in made.values() for p in (x.A_RI, x.B_OR)], change


PARTS = {"full": _full, "lora": _lora}


def _added(change: LowRank) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda _, inputs, out: change(inputs[0], out)


@contextmanager
def _casting(dtype: torch.dtype) -> Iterator[None]:
    """Products in `dtype` beside weights in float32."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        yield
