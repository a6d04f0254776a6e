"""Settings of the LoRA family, and the layers that they name."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from domainwright.core.errors import ConfigError
from domainwright.methods._token_rows import check_words
from domainwright.models.points import Linear, Site

Start = Literal["random", "pissa", "olora", "eva", "loftq"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    rank: int = 16
    """Rank of the change. Costs rank · (I + O) parameters per layer."""
    alpha: float = 32.0
    """The change is multiplied by alpha / rank, so rank can vary at a fixed strength."""
    dropout: float = 0.0
    """Share of the branch's inputs set to zero in training. In [0, 1)."""
    targets: tuple[str, ...] = ("all-linear",)
    """Hook points ("q", "v", "down", "embedding"), module names ("q_proj", "embed_tokens"), or
    "all-linear", which leaves the embedding out."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Other ranks for some layers: {end of the module path, as a regular expression: rank}."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Other alphas for some layers, named in the same way."""
    rslora: bool = False
    """Multiply by alpha / √rank, so that large ranks learn as fast as small ones."""
    rate_ratio: float = 1.0
    """Learning rate of B over that of A. LoRA+ takes 16, with a quarter of the rate for A."""
    start: Start = "random"
    """Where the factors begin: random; pissa or olora (parts of the weight); eva (directions of
    the training rows, ranks shared out anew); loftq (what 4 bits lose; qlora alone)."""
    svd_passes: int | None = None
    """Power passes of a fast, randomised SVD for pissa and loftq, which finds other parts where
    their sizes lie close. None: the exact one."""
    rank_growth: float = 2.0
    """Most rank that eva gives a layer, over `rank`. 1 leaves all ranks equal."""
    past: tuple[str, ...] = ()
    """Folders of earlier lora runs on the same layers of the same base, which stay as they are and
    answer together with the new one; the artifact is one LoRA of all their ranks."""
    tokens: tuple[str, ...] | None = None
    """Words whose own rows of the embedding are learned too, the head's where it is tied. Each is
    one token of the base, alone or after a space."""
    new_tokens: tuple[str, ...] | None = None
    """Words that become tokens of their own, alone and after a space, while the adapter is on."""

    STARTS: ClassVar[tuple[str, ...]] = ("random", "pissa", "olora", "eva")
    """Those that the method takes."""
    TAKES_PAST: ClassVar[bool] = True
    TAKES_EMBEDDING: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_words("tokens", self.tokens)
        check_words("new_tokens", self.new_tokens)
        if self.start not in self.STARTS:
            raise ConfigError(
                f"lora.start is {self.start!r}, which this method does not take.",
                f"use one of: {', '.join(self.STARTS)}; loftq needs qlora.",
            )
        if self.past and not (self.TAKES_PAST and self.start == "random"):
            raise ConfigError(
                "lora.past is set, which only lora with its random start takes.",
                "set `methods: {lora: {past: [RUN], start: random}}`, or leave `past` out.",
            )
        if self.svd_passes is not None and self.svd_passes < 0:
            raise ConfigError(f"lora.svd_passes is {self.svd_passes}.", "give 4, or leave it out.")
        if self.rank_growth < 1:
            raise ConfigError(f"lora.rank_growth is {self.rank_growth}, below 1.", "give 2.")
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise ConfigError(
                    f"lora.rank is {rank}; a rank below 1 changes nothing.",
                    "give a rank such as 16.",
                )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"lora.dropout is {self.dropout}, outside [0, 1).", "give a share such as 0.05."
            )
        if self.rate_ratio <= 0:
            raise ConfigError(
                f"lora.rate_ratio is {self.rate_ratio}, not above 0.", "give 1 or 16 (LoRA+)."
            )

    def rank_of(self, path: str) -> int:
        return int(_first(self.rank_pattern, path, self.rank))

    def scale_of(self, path: str) -> float:
        rank = self.rank_of(path)
        alpha = float(_first(self.alpha_pattern, path, self.alpha))
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def _first(pattern: Mapping[str, float], path: str, otherwise: float) -> float:
    """The value of the first key that ends the path, as PEFT matches them."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return otherwise


def chosen_embedding(sites: Sequence[Site], settings: LoraSettings) -> Site | None:
    """The embedding, where `targets` name it.

    Raises:
        ConfigError: the method or another setting does not go with it.
    """
    site = next((x for x in sites if any(_names(t, x) for t in settings.targets)), None)
    if site is None:
        return None
    others = {"past": settings.past, "tokens": settings.tokens, "new_tokens": settings.new_tokens}
    beside = next((f"lora.{name}" for name, value in others.items() if value), None)
    if settings.start != "random":
        beside = f"start: {settings.start}"
    if not settings.TAKES_EMBEDDING or beside:
        raise ConfigError(
            f"lora.targets names the embedding ({site.path}), which does not go with "
            f"{beside or 'this method'}.",
            "use lora or qlora with their random start and nothing else on the embedding, or leave "
            "it out of the targets.",
        )
    return site


def _names(target: str, place: Linear | Site) -> bool:
    return target in (place.point, place.path) or place.path.endswith("." + target)


def choose(
    linears: list[Linear], targets: tuple[str, ...], sites: Sequence[Site] = ()
) -> list[Linear]:
    """The layers `targets` name, by hook point or by the end of the module path.

    Args:
        sites: what a target may name beside them.

    Raises:
        ConfigError: a target that matches no layer.
    """
    targets = tuple(t for t in targets if not any(_names(t, x) for x in sites))
    if targets == ("all-linear",):
        return linears
    found: dict[str, Linear] = {}
    for target in targets:
        hits = [x for x in linears if _names(target, x)]
        if not hits:
            known = sorted({x.point for x in linears})
            raise ConfigError(
                f"lora.targets names {target!r}, which matches no layer.",
                f"use all-linear or hook points among: {', '.join(known)}.",
            )
        found.update((x.path, x) for x in hits)
    return [x for x in linears if x.path in found]
