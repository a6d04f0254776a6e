"""The loaded base: its tokens in, its hidden states and log-probabilities out.

Everything above this floor sees flat batches; how an architecture is fed is decided here
once, by a probe at load time, and never guessed:

    "packed"   document bounds reach our attention plug-in
    "masked"   the architecture needs an explicit block-diagonal mask
    "single"   documents run one at a time (recurrent and other models)

Dimension key: T tokens, D hidden size, N chosen positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from domainwright.core import machine
from domainwright.core.errors import CapabilityError, ConfigError, DataError
from domainwright.models import attention, decode, kernels
from domainwright.models.embedded import quiet_transformers
from domainwright.models.flat import Flat, block_mask, filled, flatten, tile, whole
from domainwright.models.float32 import LEAST, take_onednn
from domainwright.models.four_bit import KINDS
from domainwright.models.fused import Trunk, recognise
from domainwright.models.hooks import Hooks
from domainwright.models.new_words import NewWords
from domainwright.models.quantised import Quantised
from domainwright.models.resolve import Source, check_safe, resolve, weights_hash
from domainwright.models.stand_in import quantise_linears
from domainwright.models.template import Template

PROBE = (
    "The patient takes the tablets with water in the morning.",
    "Which of these is right? The second one, because it is.",
)
"""Ordinary text: on arbitrary tokens a deep bfloat16 model is mostly its own rounding (logits that
differ from float32 by 0.7 of their size), and no comparison means anything."""
FAST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


GRID = 32


@dataclass(eq=False)
class Base:
    """A frozen causal language model with its tokenizer and hook points."""

    model: Any
    tokenizer: Any
    template: Template
    source: Source
    sha256: str
    """Of weights and configuration. An adapter refuses any other base."""
    feeding: str = "packed"
    plain_head: bool = True
    """Logits are one matrix product of the final hidden states: they may be made outside."""
    compiled: bool = False
    """Its float32 products are oneDNN's, which compiles them for every new number of rows."""
    hooks: Hooks = field(init=False)
    words: NewWords | None = field(init=False, default=None)
    """Words that it reads now beside its own tokens; see `new_words.reading`."""
    trunk: Trunk | None = field(init=False, default=None)
    """The faster execution of the backbone, where it was recognised and proven equal."""

    def __post_init__(self) -> None:
        self.hooks = Hooks(self.model)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def context(self) -> int:
        """Longest input in tokens."""
        config = self.model.config.get_text_config()
        longest = int(getattr(config, "max_position_embeddings", None) or 2048)
        return longest - self.hooks.shift

    @property
    def parameters(self) -> int:
        """Weights held as codes count as weights."""
        held = [x for x in self.hooks.linears if isinstance(x.module, Quantised)]
        plain = sum(p.numel() for p in self.model.parameters())
        return int(plain + sum(x.inputs * x.outputs for x in held))

    @property
    def quantised(self) -> tuple[str, bool] | None:
        """(kind, whether doubly) of the codes that the linear layers hold; None: full weights."""
        module = next((x.module for x in self.hooks.linears), None)
        return (module.kind, module.nested is not None) if isinstance(module, Quantised) else None

    @property
    def head_VD(self) -> Tensor:
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def grid(self) -> int:
        """Rows of a matrix product are a multiple of this where their number is free.

        On a CPU every new number of rows makes oneDNN compile its products again: 55 of them a
        training step in bfloat16, 20 ms and 40 MiB that stay in its cache.
        """
        compiled = self.compiled or self.dtype == torch.bfloat16
        usual = self.device.type == "cpu" and compiled
        return GRID if usual and self.feeding != "single" else 1

    def _on_grid(self, flat: Flat, chosen_N: Tensor) -> tuple[Flat, Tensor]:
        """Both with filling rows at the end, so that their numbers are on the grid."""
        more = -len(chosen_N) % self.grid
        # The filling rows that are asked for are different ones: a row twice has its gradient once.
        count = more + -(flat.tokens + more) % self.grid
        if not count:
            return flat, chosen_N
        rows_N = torch.arange(flat.tokens, flat.tokens + more, device=chosen_N.device)
        return filled(flat, count), torch.cat([chosen_N, rows_N])

    def hidden(self, flat: Flat, chosen_N: Tensor | None = None) -> Tensor:
        """Final hidden states (T, D) of a flat batch, or only (N, D) at the chosen positions."""
        if chosen_N is None:
            return self._hidden(flat, None)
        return self._hidden(*self._on_grid(flat, chosen_N))[: len(chosen_N)]

    def _hidden(self, flat: Flat, chosen_N: Tensor | None) -> Tensor:
        if self.trunk is not None:
            read = self.trunk.hidden(flat, chosen_N)
            if read is not None:
                return read
        everywhere = self._plain_hidden(flat)
        return everywhere if chosen_N is None else everywhere[chosen_N]

    def hidden_of_each(self, owners: Sequence[Any], flat: Flat, chosen_N: Tensor) -> Tensor:
        """Hidden states (owners, N, D): every owner's, whose hooks alone act on its copy.

        Args:
            owners: adapters that hang on this base. Below the lowest of them the batch is read
                once. Noise of one owner would change another's, so none may drop inputs.
        """
        rows = len(chosen_N)
        flat, chosen_N = self._on_grid(flat, chosen_N)
        copies, tokens = len(owners), flat.tokens
        spans = {owner: slice(i * tokens, (i + 1) * tokens) for i, owner in enumerate(owners)}
        if self.feeding == "single":  # rows of a document's own pass are no rows of the batch
            alone = []
            for owner in owners:
                with self.hooks.owning({owner: slice(0, tokens)}):
                    alone.append(self._hidden(flat, chosen_N))
            return torch.stack(alone)
        read = None
        with self.hooks.owning(spans):
            if self.trunk is not None:
                read = self.trunk.hidden(flat, chosen_N, copies)
            if read is None:
                everywhere = self._plain_hidden(tile(flat, copies))
                read = everywhere.unflatten(0, (copies, tokens))[:, chosen_N].flatten(0, 1)
        return read.unflatten(0, (copies, len(chosen_N)))[:, :rows]

    def read_one(
        self,
        ids_B: Tensor,
        positions_B: Tensor,
        begins_B: Tensor,
        column: int,
        cache: decode.Buffers,
    ) -> Tensor | None:
        """Hidden states (B, D) of one more token a row; None: take the model's own forward."""
        if self.trunk is None:
            return None
        return decode.read_one(self.trunk, ids_B, positions_B, begins_B, column, cache)

    def _plain_hidden(self, flat: Flat) -> Tensor:
        """The same through transformers' own forward."""
        backbone = self.model.base_model
        if self.feeding == "single":
            return torch.cat(
                [
                    self._states(backbone(input_ids=ids[None], use_cache=False))[-own:]
                    for ids, own in whole(flat)
                ]
            )
        return self._states(backbone(**self._inputs(flat)))

    def logits(self, flat: Flat, chosen_N: Tensor) -> Tensor:
        """Logits (N, V) at the chosen positions of a flat batch, in the base's dtype."""
        if self.plain_head:
            return self.project(self.hidden(flat, chosen_N))
        if self.feeding == "single":
            rows = torch.cat(
                [
                    self.model(input_ids=ids[None], use_cache=False).logits[0, -own:]
                    for ids, own in whole(flat)
                ]
            )
            return rows[chosen_N]
        count = len(chosen_N)
        flat, chosen_N = self._on_grid(flat, chosen_N)
        out = self.model(**self._inputs(flat), logits_to_keep=chosen_N)
        return out.logits[0, :count]

    def project(self, hidden_ND: Tensor) -> Tensor:
        """Logits (N, V) of hidden states, where `plain_head` holds."""
        head = self.model.get_output_embeddings()
        rows = len(hidden_ND)
        if not kernels.reads_as_it_lies(hidden_ND, head.weight):
            hidden_ND = nn.functional.pad(hidden_ND, (0, 0, 0, -rows % self.grid))
        return kernels.linear(hidden_ND, head.weight, getattr(head, "bias", None))[:rows]

    def _inputs(self, flat: Flat) -> dict[str, Any]:
        inputs: dict[str, Any] = {
            "input_ids": flat.ids_T[None],
            "position_ids": flat.positions_T[None],
            # use_cache must be off: with it, transformers ignores packing without a word.
            "use_cache": False,
        }
        if self.feeding == "packed":
            inputs["document_bounds"] = flat.bounds
            return inputs | ({"document_parents": flat.parents} if flat.parents else {})
        return {**inputs, "attention_mask": block_mask(flat)}

    @staticmethod
    def _states(out: Any) -> Tensor:
        states: Tensor = out.last_hidden_state
        return states[0]


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where this machine multiplies it faster than float32, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capable = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return torch.bfloat16 if device == "cpu" and (capable or tiles) else torch.float32


def load_base(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    quantise: str | None = None,
    double_quantise: bool = True,
) -> Base:
    """Load the base called `name` (alias, hub id or local folder), frozen, ready for hooks.

    Args:
        dtype: "float32", "bfloat16", "float16", or "auto" for what this machine is fast at.
        device: "cpu", "cuda", "mps", or "auto".
        quantise: "nf4" or "fp4": the linear layers of the blocks hold 4-bit codes alone, and
            compute in `dtype`. They are made before the model goes to the device.
        double_quantise: quantise the scales of the codes as well.

    Raises:
        ConfigError, CapabilityError, DataError: not found, out of reach, or not safe to load.
    """
    if quantise not in (None, *KINDS):
        raise ConfigError(f"quantise is {quantise!r}.", f"use one of: {', '.join(KINDS)}.")
    machine.keep_few_products()
    source = resolve(name, revision=revision)
    check_safe(source, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = fast_dtype(device) if dtype == "auto" else FAST_DTYPES[dtype]
    try:
        with quiet_transformers():
            model, report, tokenizer = _read(source.folder, wanted, allow_pickle, trust_remote_code)
    except (ValueError, KeyError, OSError, UnpicklingError, SafetensorError) as error:
        raise DataError(
            f"transformers cannot load {name!r} as a causal language model: "
            + str(error).partition("\n")[0],
            "give a decoder-only language model that your transformers version supports.",
        ) from error
    unread = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if unread:
        # transformers fills them with random numbers and only warns.
        raise DataError(
            f"The weights of {name!r} do not fit its config.json: {len(unread)} tensors are "
            f"missing or have another shape, {min(unread)!r} among them.",
            "download or save the model again.",
        )
    if quantise is not None:
        quantise_linears(model, quantise, double=double_quantise)
        machine.give_back()
    model = model.to(device)
    return prepare(model, tokenizer, source, weights_hash(source.folder))


def _read(
    folder: Path, dtype: torch.dtype, allow_pickle: bool, trust_remote_code: bool
) -> tuple[Any, dict[str, Any], Any]:
    """(model, what transformers says about keys that did not fit, tokenizer)."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        # None, not False: safetensors are taken where both are there.
        use_safetensors=None if allow_pickle else True,
        trust_remote_code=trust_remote_code,
        weights_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return *loaded, tokenizer


def prepare(model: Any, tokenizer: Any, source: Source, sha256: str) -> Base:
    """Freeze a transformers model, probe how it is fed, and wrap it."""
    model.eval().requires_grad_(False)
    base = Base(model, tokenizer, Template(tokenizer), source, sha256)
    if base.device.type == "cpu" and base.dtype == torch.float32:
        base.compiled = base.parameters >= LEAST and take_onednn()
    _probe(base)
    return base


def _head_is_product(base: Base, ids: list[int]) -> bool:
    """Whether the model's logits are its head's product with its own final states.

    Both come from the same states, so the tolerance is that of one product: under the probe's
    wide one for bfloat16 a capped head (Gemma 2) would pass as a plain one.
    """
    inputs = {"input_ids": torch.tensor([ids], device=base.device), "use_cache": False}
    want = base.model(**inputs).logits[0].float()
    got = base.project(base.model.base_model(**inputs).last_hidden_state[0]).float()
    tolerance = 1e-4 if base.dtype == torch.float32 else 0.02
    return got.shape == want.shape and float((got - want).norm()) <= tolerance * float(want.norm())


@torch.no_grad()
def _probe(base: Base) -> None:
    """Find the way of feeding under which packed documents equal single ones.

    Raises:
        CapabilityError: not even single documents reproduce the model's own logits.
    """
    documents = [
        [token % base.vocabulary for token in base.tokenizer(text)["input_ids"]] for text in PROBE
    ]
    default = base.model.config._attn_implementation
    want = torch.cat(
        [
            base.model(input_ids=torch.tensor([ids], device=base.device), use_cache=False).logits[0]
            for ids in documents
        ]
    ).float()
    flat = flatten(documents, base.device)
    everywhere = torch.arange(flat.tokens, device=base.device)
    # Two orders of rounding differ by 0.02 in bfloat16, measured; a document that sees the one
    # before it, by 0.34.
    tolerance = (2e-4 if base.dtype == torch.float32 else 0.1) * float(want.norm()) + 1e-5
    config = base.model.config.get_text_config()
    ways = ["packed", "masked", "single"]
    if getattr(config, "attention_chunk_size", None):
        ways = ["single"]  # chunks are known to transformers' own masks alone
    elif getattr(config, "sliding_window", None):
        ways.remove("masked")  # one mask for all layers cannot hold the windows of some
    for feeding in ways:
        for product in (True, False):
            base.feeding, base.plain_head = feeding, product
            try:
                base.model.set_attn_implementation(
                    attention.NAME if feeding == "packed" else default
                )
                if product and not _head_is_product(base, documents[0]):
                    continue
                got = base.logits(flat, everywhere).float()
            except (TypeError, ValueError, RuntimeError, AttributeError):
                continue  # this architecture does not take these arguments: try the next way
            if got.shape == want.shape and float((got - want).norm()) <= tolerance:
                if feeding == "packed" and product:
                    base.trunk = recognise(base.model, base.hooks)
                return
    raise CapabilityError(
        f"{type(base.model).__name__} gives other logits for packed documents than for single "
        "ones, whichever way it is fed.",
        "choose another base, and report this architecture.",
    )
