"""Any other type of PEFT by its name: `peft:vera`, `peft:loha`, `peft:oft`, …

PEFT builds its layers on the base with the settings of its own config class. They are taken off
again at once and hung on the hook points they came from: so they train in the same loop, are
scored the same way, and leave the base bit for bit itself. Files are PEFT's, written and read
with its own functions.

What PEFT does outside its layers does not happen here. So a type is refused that needs more of a
training loop than a loss, or that changes anything but the linear layers of the blocks.

`peft` is imported when one of these names is asked for, and not before.
"""

import copy
import dataclasses
import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from domainwright.core.errors import CapabilityError, ConfigError, UnknownName
from domainwright.core.seeds import derive
from domainwright.methods import _peft_format
from domainwright.methods._adapter import Adapter
from domainwright.models.base import Base
from domainwright.models.hooks import Hook

OWN = {
    "lora": "lora",
    "ia3": "ia3",
    "ln_tuning": "layernorm",
    "prompt_tuning": "prompt",
    "prefix_tuning": "prefix",
    "p_tuning": "ptuning",
    "multitask_prompt_tuning": "multitask_prompt",
}
"""PEFT's names of what is a method of this house."""
REFUSED = {
    "adalora": "hands out its ranks while training and adds a term to the loss",
    "lily": "weighs its factors by a mean over the whole batch, so documents change each other",
    "poly": "asks for the task of every row",
    "xlora": "mixes adapters that were trained before",
}
"""Types that need more than rows and a loss, and what it is."""
GIVEN = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
}
"""Fields of PEFT's configs that say what they are of, and are no settings."""
NOISY = {"pvera"}
"""Types that draw noise in training without a setting for it."""


def _library() -> Any:
    """PEFT.

    Raises:
        CapabilityError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise CapabilityError(
            f"PEFT is not installed ({error}), and its types are built by it.",
            "install it: pip install 'domainwright[peft]'.",
        ) from error
    return peft


@cache
def member(name: str) -> "PeftMethod":
    """The type that PEFT calls `name`, in small letters.

    Raises:
        UnknownName: PEFT has no such type, or it is a method of this house.
        CapabilityError: PEFT is not installed, or the type is refused with the reason.
    """
    peft = _library()
    if name in OWN:
        raise UnknownName(f"'peft:{name}' is a method of its own here.", f"use {OWN[name]!r}.")
    tuners = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
    layered = peft.tuners.tuners_utils.BaseTuner
    known = {
        str(kind.value).lower(): peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
        for kind, tuner in tuners.items()
        if isinstance(tuner, type) and issubclass(tuner, layered)
    }
    if name not in known:
        offered = sorted(known.keys() - OWN.keys() - REFUSED.keys())
        near = difflib.get_close_matches(name, offered, n=1)
        raise UnknownName(
            f"PEFT {peft.__version__} has no type {name!r} of layers.",
            f"use 'peft:{near[0]}'." if near else f"choose one of: {', '.join(offered)}.",
        )
    if name in REFUSED:
        raise CapabilityError(
            f"peft:{name} {REFUSED[name]}, which the one training loop does not provide for.",
            "choose lora, or train it with PEFT.",
        )
    return PeftMethod(name, known[name])


class PeftMethod:
    """One type of PEFT as a method."""

    version = 1
    identity_start: ClassVar[bool | None] = None
    random_start: ClassVar[bool | None] = None
    """PEFT's to say, type by type and setting by setting."""
    learning_rate: ClassVar = {"small": 1e-3, "large": 2e-4}
    """Below and from one billion parameters; those of lora, and no type's own: set
    `train.learning_rate`."""
    merge_rtol: ClassVar[dict[torch.dtype, float]] = {}

    def __init__(self, name: str, config: type) -> None:
        self.name, self.config = f"peft:{name}", config
        self.peft_type: str | None = name.upper()
        self.summary = f"PEFT's {config.__name__.removesuffix('Config')} layers; loaded by PEFT."
        self.parameter_formula = "counted by PEFT"
        self.Settings = self._settings()

    def _settings(self) -> type:
        """The config's fields as settings, with PEFT's defaults, checked by PEFT."""
        fields: list[Any] = []
        for field in dataclasses.fields(self.config):
            if not field.init or field.name in GIVEN:
                continue
            if field.default_factory is not dataclasses.MISSING:
                own = dataclasses.field(default_factory=field.default_factory)
            else:
                own = dataclasses.field(default=field.default)
            fields.append((field.name, Any, own))

        def check(settings: Any) -> None:
            self.config_of(settings)

        return dataclasses.make_dataclass(
            f"{self.config.__name__}Settings",
            fields,
            frozen=True,
            kw_only=True,
            namespace={"__post_init__": check},
        )

    def config_of(self, settings: Any) -> Any:
        """PEFT's config with these settings.

        Raises:
            ConfigError: PEFT refuses them.
        """
        given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
        try:
            # Copies: PEFT writes into its config what it found in the base.
            return self.config(task_type="CAUSAL_LM", **copy.deepcopy(given))
        except (TypeError, ValueError, AttributeError) as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"PEFT refuses the settings of {self.name}: {str(error).partition(chr(10))[0]}",
            f"set them under `methods: {{'{self.name}': …}}`, as {self.config.__name__} has them.",
        )

    def build(self, base: Base, settings: Any, seed: int) -> "PeftAdapter":
        """A fresh adapter, as PEFT begins it.

        Raises:
            ConfigError: PEFT refuses the settings on this base.
            CapabilityError: the type changes more than linear layers of the blocks.
        """
        with torch.random.fork_rng():
            torch.manual_seed(derive(seed, self.name))
            try:
                return PeftAdapter(self, base, settings, self.config_of(settings))
            except (TypeError, ValueError, AssertionError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise self._refused(error) from error

    def load(self, base: Base, folder: Path) -> "PeftAdapter":
        """An adapter saved by us or by PEFT, checked key by key.

        Raises:
            DataError: another base, another type, a missing or surplus tensor.
        """
        read, tensors, noted = _peft_format.read(folder)
        _peft_format.check_base(noted, base.sha256, base.source.name, folder)
        _peft_format.check_type(read, self.peft_type, f"{self.name}@{self.version}", folder)
        names = {f.name for f in dataclasses.fields(self.Settings)}
        settings = self.Settings(**{k: v for k, v in read.items() if k in names})
        adapter = self.build(base, settings, 0)
        own = {name.removeprefix(_peft_format.PREFIX): x for name, x in adapter.stored().items()}
        # Into copies first, for its checks: PEFT passes over what does not fit.
        _peft_format.fill({name: x.clone() for name, x in own.items()}, tensors, folder)
        adapter.fill(load_file(folder / "adapter_model.safetensors"))
        return adapter


class PeftAdapter(Adapter):
    """Layers of PEFT, and PEFT's model around the base, which is put together to save alone."""

    version = 1

    def __init__(self, kind: PeftMethod, base: Base, settings: Any, config: Any) -> None:
        super().__init__(base, settings)
        self.method, self.kind, self.config = kind.name, kind, config
        peft, model = _library(), base.model
        own = {id(p) for p in model.parameters()}
        before = {path: (module, dict(module._modules)) for path, module in model.named_modules()}
        self._swaps: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        """(parent, name, layer of PEFT, the base's own)."""
        self._layers: dict[str, nn.Module] = {}
        try:
            with warnings.catch_warnings():
                # PEFT asks transformers for an attribute by its old name.
                warnings.simplefilter("ignore", FutureWarning)
                # Not a submodule: it holds the whole base.
                object.__setattr__(self, "whole", peft.get_peft_model(model, config))
            learned = [p for p in model.parameters() if p.requires_grad]
        finally:
            for path, (module, children) in before.items():
                for name, child in children.items():
                    if module._modules[name] is not child:
                        self._swaps.append((module, name, module._modules[name], child))
                        self._layers[f"{path}.{name}".lstrip(".")] = module._modules[name]
                        module._modules[name] = child
            model.__dict__.pop("peft_config", None)
            for parameter in model.parameters():
                parameter.requires_grad_(False)
        linears = {x.path: x.module for x in base.hooks.linears}
        beyond = sorted(self._layers.keys() - linears.keys())
        if beyond or not self._layers or any(id(p) in own for p in learned):
            what = f"replaces {beyond[0]!r}" if beyond else "trains more than layers of its own"
            raise CapabilityError(
                f"{self.method} with these settings {what}; only layers in the place of linear "
                "layers of the blocks can be hung on the base.",
                "choose other target_modules, or train it with PEFT.",
            )
        self.values = nn.ParameterList(dict.fromkeys(learned))
        for path, layer in self._layers.items():
            _detached(layer, linears[path])

    whole: Any

    def places(self) -> Iterator[tuple[str, Hook]]:
        settings = dataclasses.asdict(self.settings)
        noisy = any(value for key, value in settings.items() if "dropout" in key)
        noisy |= self.method.removeprefix("peft:") in NOISY
        for path, layer in self._layers.items():
            yield path, _InPlace(layer, noisy)

    @contextmanager
    def _together(self) -> Iterator[Any]:
        """PEFT's model as PEFT left it, with its layers on the base."""
        for parent, name, layer, _ in self._swaps:
            parent._modules[name] = layer
        try:
            yield self.whole
        finally:
            for parent, name, _, own in self._swaps:
                parent._modules[name] = own

    def stored(self) -> dict[str, Tensor]:
        """The tensors by PEFT's names."""
        with self._together() as whole:
            found = _library().get_peft_model_state_dict(whole, save_embedding_layers=False)
        # Clones: safetensors refuses tensors that share memory.
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    def fill(self, tensors: dict[str, Tensor]) -> None:
        """Take over tensors that were checked."""
        with self._together() as whole:
            _library().set_peft_model_state_dict(whole, tensors)

    def merged_parameters(self) -> Iterator[tuple[str, Tensor]]:
        raise CapabilityError(
            f"A {self.method} adapter cannot be merged here.",
            "export it with --to peft and merge it there, or train a method that merges, such as "
            "lora.",
        )

    def save(self, folder: Path) -> None:
        config = self.config.to_dict() | {
            "inference_mode": True,
            "base_model_name_or_path": self.base.source.name,
        }
        config = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
        _peft_format.write(folder, config, self.stored(), self.notes(), prefix="")


def _detached(layer: nn.Module, own: nn.Module) -> None:
    """Let PEFT's layer call a copy of the base's, which has its weights but no hooks.

    Raises:
        CapabilityError: it is no layer around the base's.
    """
    if getattr(layer, "base_layer", None) is not own:
        raise CapabilityError(
            f"PEFT's {type(layer).__name__} is no layer around the base's own.",
            "choose lora, or train it with PEFT.",
        )
    bare = copy.copy(own)
    bare.__dict__.pop("forward", None)
    layer.base_layer = bare
    layer.eval()


class _InPlace:
    """A layer of PEFT in the place of a linear layer."""

    def __init__(self, layer: nn.Module, noisy: bool) -> None:
        self.layer, self.noisy = layer, noisy

    @property
    def dropping(self) -> bool:
        return self.noisy and torch.is_grad_enabled()

    def instead(self, x: Tensor) -> Tensor:
        if self.layer.training != self.dropping:
            self.layer.train(self.dropping)
        out: Tensor = self.layer(x)
        return out

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        own: Tensor = self.layer.base_layer(x)  # type: ignore[operator]
        return out + (self.instead(x) - own)
