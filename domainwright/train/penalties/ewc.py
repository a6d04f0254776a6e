"""Stay near the base where it matters: elastic weight consolidation.

    λ/2 · Σ F_i (θ_i - θ*_i)²        of LoRA's kin  λ/2 · Σ F ⊙ (γ B A)²
    F_i = mean over documents x of  E_{y ~ p_θ*} [ (∂ Σ_t log p(y_t | x_<t) / ∂θ_i)² ]

θ* are the base's weights and F the diagonal of their true Fisher information on general rows: the
labels y are drawn from the base itself, and squared is each document's own gradient, not that of
a batch. With the rows' own labels it would be another thing, the empirical Fisher. F is found
once for a study and kept beside what a teacher said: 4 bytes for each weight it is of.

Source: Kirkpatrick et al. 2017, arXiv:1612.00796; labels: Kunstner et al. 2019, arXiv:1905.12558.
Dimension key: O outputs, I inputs, N targets, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from domainwright.core.artifacts import sha256_json
from domainwright.core.errors import CapabilityError
from domainwright.core.progress import Listener, Step
from domainwright.core.seeds import derive
from domainwright.methods._adapter import Adapter
from domainwright.methods._weights import need_full_weights
from domainwright.models.base import Base
from domainwright.models.flat import flatten
from domainwright.models.forms import TrainRow
from domainwright.models.lowrank import LowRank
from domainwright.train.checkpoint import disk_errors
from domainwright.train.lessons import kept_artifact
from domainwright.train.penalties import PENALTIES
from domainwright.train.penalties._penalty import Given, Penalty, PenaltySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EwcSettings(PenaltySettings):
    weight: float = 100.0
    """λ. Depends on the size of F, so on the length of the documents; sweep it."""


class EwcPenalty(Penalty):
    """Args: fisher: parameter name -> F, as the base stores the parameter."""

    name = "ewc"

    def __init__(self, adapter: Adapter, weight: float, fisher: dict[str, Tensor]) -> None:
        self.weight, self.base = weight, adapter.base
        self.changes = [(x, fisher[name], t) for name, x, t in _low_rank(adapter)]
        own = dict(adapter.base.model.named_parameters())
        self.replaced = [(p, own[name], fisher[name]) for name, p in adapter.replacements()]

    def parts(self) -> Iterator[Tensor]:
        for change, fisher, transposed in self.changes:
            fisher_OI = fisher.T if transposed else fisher
            yield self.weight / 2 * (fisher_OI * change.product_OI().square()).sum()
        for value, start, fisher in self.replaced:
            yield self.weight / 2 * (fisher * (value - start.to(value.dtype)).square()).sum()


def _low_rank(adapter: Adapter) -> Iterator[tuple[str, LowRank, bool]]:
    """(weight that is changed, its change, whether the weight is stored as (I, O))."""
    linears = {x.path: x for x in adapter.base.hooks.linears}
    for path, hook in adapter.places():
        if isinstance(hook, LowRank):
            yield f"{path}.weight", hook, linears[path].transposed


def _names(adapter: Adapter) -> list[str]:
    """Weights of the base that the adapter changes.

    Raises:
        CapabilityError: it changes something else, or the base holds codes.
    """
    need_full_weights(adapter.base, "ewc")
    changes = list(_low_rank(adapter))
    known = {id(p) for _, x, _ in changes for p in (x.A_RI, x.B_OR)}
    known |= {id(p) for _, p in adapter.replacements()}
    if any(id(p) not in known for p in adapter.parameters() if p.requires_grad):
        raise CapabilityError(
            f"The penalty ewc weighs the base's weights one by one, and {adapter.method} changes "
            "something else.",
            "use kl or l2_sp, or a method such as lora or full.",
        )
    return sorted({name for name, *_ in changes} | {name for name, _ in adapter.replacements()})


def fisher_of(
    base: Base, names: Sequence[str], rows: Sequence[TrainRow], seed: int, listen: Listener
) -> dict[str, Tensor]:
    """Parameter name -> F in float32, on the CPU. Nothing hangs on the base."""
    own = dict(base.model.named_parameters())
    wanted: list[nn.Parameter] = [own[name] for name in names]
    found = [torch.zeros(p.shape) for p in wanted]
    for parameter in wanted:
        parameter.requires_grad_(True)
    try:
        for number, row in enumerate(rows):
            flat = flatten([row.ids], base.device)
            marked = [i - 1 for i, on in enumerate(row.supervised) if on and i]
            logs_NV = (
                base.logits(flat, torch.tensor(marked, device=base.device)).float().log_softmax(1)
            )
            source = torch.Generator().manual_seed(derive(seed, "fisher", number))
            drawn_N1 = torch.multinomial(logs_NV.detach().exp().cpu(), 1, generator=source)
            loss = -logs_NV.gather(1, drawn_N1.to(base.device)).sum()
            for total, gradient in zip(found, torch.autograd.grad(loss, wanted), strict=True):
                total += gradient.float().square().cpu() / len(rows)
            listen(Step("fisher", number + 1, len(rows)))
    finally:
        for parameter in wanted:
            parameter.requires_grad_(False)
    return dict(zip(names, found, strict=True))


def kept_fisher(
    base: Base, names: Sequence[str], rows: Sequence[TrainRow], folder: Path, listen: Listener
) -> dict[str, Tensor]:
    """`fisher_of` with seed 0, looked for in `folder` and written there."""
    asked = [list(names), [[r.ids, r.supervised] for r in rows], str(base.dtype)]

    def fill(out: Path) -> None:
        with disk_errors(out):
            save_file(fisher_of(base, names, rows, 0, listen), out / "fisher.safetensors")

    parents = {"base": base.sha256, "asked": sha256_json(asked)}
    place, _ = kept_artifact(folder, parents, fill)
    return {k: v.to(base.device) for k, v in load_file(place / "fisher.safetensors").items()}


@PENALTIES.register
class Ewc:
    """Distance from the start, weighed by the Fisher information."""

    Settings = EwcSettings
    summary = "Weights stay near the base's, the more so the more its predictions hang on them."

    @staticmethod
    def build(adapter: Adapter, settings: EwcSettings, given: Given) -> EwcPenalty:
        """Without a folder, as in a probe, every weight counts alike.

        Raises:
            CapabilityError: the method changes no weights of the base.
        """
        base, names = adapter.base, _names(adapter)
        if given.folder is None:
            own = dict(base.model.named_parameters())
            fisher = {n: torch.ones_like(own[n], dtype=torch.float32) for n in names}
        else:
            fisher = kept_fisher(base, names, given.rows, given.folder, given.listen)
        return EwcPenalty(adapter, settings.weight, fisher)
