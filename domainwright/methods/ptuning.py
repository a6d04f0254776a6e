"""P-tuning: virtual tokens before every text that a small network makes.

    p = Enc(E)        E ∈ R^{P×D}
    mlp    Enc = Linear(D, H) · ReLU · Linear(H, H) · ReLU · Linear(H, D)
    lstm   Enc = two bidirectional LSTM layers of H · Linear(2H, 2H) · ReLU · Linear(2H, D)

Source: Liu et al. 2021, arXiv:2103.10385, section 3; the networks are PEFT's. An answer needs p
alone, and PEFT's file holds nothing else; the network lies beside it in a file of ours, so that
training can go on. A folder without it is trained on as prompt tuning is: p itself learns.

The network's last layer is scaled at the start so that p is as large as the embeddings of words,
which differ a hundredfold between bases; PEFT leaves it at the size that falls out.

Dimension key: P virtual tokens, D hidden size, H width of the network.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from domainwright.core.errors import ConfigError
from domainwright.core.seeds import derive
from domainwright.methods import METHODS, _peft_format, _prompts
from domainwright.methods._virtual import VirtualTokens, embedded, width
from domainwright.models.base import Base


@dataclass(frozen=True, slots=True, kw_only=True)
class PtuningSettings:
    rows: int = 20
    """Virtual tokens."""
    encoder: Literal["mlp", "lstm"] = "mlp"
    """The network that makes them."""
    hidden: int | None = None
    """Width of the network. None: the base's hidden size."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError(
                f"ptuning.rows is {self.rows}; without a row nothing is learned.",
                "give a number such as 20.",
            )
        if self.encoder not in ("mlp", "lstm"):
            raise ConfigError(f"ptuning.encoder is {self.encoder!r}.", "write mlp or lstm.")
        if self.hidden is not None and self.hidden < 1:
            raise ConfigError(f"ptuning.hidden is {self.hidden}.", "give a width such as 512.")


class Encoder(nn.Module):
    """Enc(E), its tensors under PEFT's names."""

    def __init__(self, settings: PtuningSettings, size: int) -> None:
        super().__init__()
        hidden = settings.hidden or size
        self.embedding = nn.Embedding(settings.rows, size)
        self.lstm_head = None
        if settings.encoder == "lstm":
            self.lstm_head = nn.LSTM(
                size, hidden, num_layers=2, bidirectional=True, batch_first=True
            )
            layers = [nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, size)]
        else:
            layers = [nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
            layers += [nn.Linear(hidden, size)]
        self.mlp_head = nn.Sequential(*layers)

    def forward(self) -> Tensor:
        rows_PD: Tensor = self.embedding.weight
        if self.lstm_head is not None:
            rows_PD = self.lstm_head(rows_PD[None])[0][0]
        made: Tensor = self.mlp_head(rows_PD)
        return made


class PtuningAdapter(VirtualTokens):
    """The network, or p itself where a folder has no network."""

    method, version = "ptuning", 1

    def __init__(self, base: Base, settings: PtuningSettings, encoder: Encoder | None) -> None:
        super().__init__(base, settings)
        self.encoder = None if encoder is None else encoder.to(base.device)
        self.table: nn.Parameter | None = None
        if encoder is None:
            self.table = nn.Parameter(torch.zeros(settings.rows, width(base), device=base.device))

    def rows(self) -> Tensor:
        if self.encoder is None:
            assert self.table is not None  # one of the two is there
            return self.table
        made: Tensor = self.encoder()
        return made

    @torch.no_grad()
    def stored(self) -> dict[str, Tensor]:
        return {"prompt_embeddings": self.rows().detach()}

    def save(self, folder: Path) -> None:
        settings = self.settings
        config = self.peft_config("P_TUNING") | {
            "encoder_reparameterization_type": settings.encoder.upper(),
            "encoder_hidden_size": settings.hidden or width(self.base),
            "encoder_num_layers": 2,
            "encoder_dropout": 0.0,
        }
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")
        if self.encoder is not None:
            _prompts.write_encoder(folder, self.encoder)


@METHODS.register
class Ptuning:
    """Virtual tokens made by a network."""

    Settings = PtuningSettings
    version = 1
    summary = "Virtual tokens that a small network makes while training; only they are kept."
    parameter_formula = "rows · hidden size + the network's (3 hidden² + 3 hidden); saved: the rows"
    peft_type: ClassVar[str | None] = "P_TUNING"
    identity_start = False
    random_start = True
    learning_rate: ClassVar = {"small": 3e-3, "large": 1e-3}
    """Below and from one billion parameters; methods.md §15.3 has 1e-3, with which twelve steps on
    science learned nothing (docs/defaults.md)."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    @staticmethod
    def build(base: Base, settings: PtuningSettings, seed: int) -> PtuningAdapter:
        """A fresh adapter.

        Raises:
            CapabilityError: the base has no attention that takes more keys.
            ConfigError: more rows than half of the context.
        """
        _prompts.attending(base, "ptuning")
        ids = _prompts.tokens(base, _prompts.INSTRUCTION, settings.rows, "ptuning")
        encoder = _drawn(settings, width(base), derive(seed, "ptuning"))
        with torch.no_grad():
            wanted, found = (
                x.square().mean().sqrt().cpu() for x in (embedded(base, ids), encoder())
            )
            for tensor in encoder.mlp_head[-1].parameters():
                tensor.mul_(wanted / found)
        return PtuningAdapter(base, settings, encoder)

    @staticmethod
    def load(base: Base, folder: Path) -> PtuningAdapter:
        """An adapter saved by us, with its network where it is there, or by PEFT.

        Raises:
            DataError: another base, another type, a tensor of another shape, another network.
        """
        config, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(config, "P_TUNING", "ptuning@1", folder)
        settings = PtuningSettings(
            rows=int(config["num_virtual_tokens"]),
            encoder="lstm" if config["encoder_reparameterization_type"] == "LSTM" else "mlp",
            hidden=int(config["encoder_hidden_size"]),
        )
        table = torch.zeros(settings.rows, width(base))
        _peft_format.fill({"prompt_embeddings": table}, tensors, folder)
        if (folder / _prompts.ENCODER).is_file():
            encoder = _drawn(settings, width(base), 0)
            _prompts.fill_encoder(folder, encoder, table)
            return PtuningAdapter(base, settings, encoder)
        adapter = PtuningAdapter(base, settings, None)
        assert adapter.table is not None  # where there is no network
        adapter.table.data.copy_(table)
        return adapter


def _drawn(settings: PtuningSettings, size: int, seed: int) -> Encoder:
    """A network as PyTorch and PEFT begin it, drawn on the CPU: equal on every device."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Encoder(settings, size)
