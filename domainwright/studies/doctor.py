"""What this machine can run: versions, memory, number formats, models at hand."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from domainwright.core import machine
from domainwright.core.errors import CapabilityError


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    found: str
    fix: str = ""
    needed: bool = True
    """False: something works less well without it, nothing breaks."""


def examine() -> list[Finding]:
    """Every check, in the order in which to read them. Takes about ten seconds."""
    import torch

    from domainwright.core.compiled import cache_folder
    from domainwright.models import native
    from domainwright.models.base import fast_dtype
    from domainwright.models.embedded import encoder_folder, smollm2_folder

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    free_gb = shutil.disk_usage(_existing(cache_folder())).free / 1e9
    return [
        Finding("processor", True, f"{machine.processor()}, {machine.cores()} cores"),
        Finding(
            "memory",
            machine.memory_gb() >= 3,
            f"{machine.memory_gb():.1f} GB",
            "a base of 135M parameters needs about 3 GB",
        ),
        Finding("gpu", gpu != "none", gpu, "not needed for bases up to about 1B", needed=False),
        Finding("number format", True, _speeds(fast_dtype("cpu"))),
        Finding(
            "native kernels",
            native.library() is not None,
            native.reason(),
            "training then runs in plain PyTorch, at about two thirds of the speed; on Linux with "
            "AVX512-BF16, install g++",
            needed=False,
        ),
        Finding(
            "torch", _at_least("torch", (2, 11)), version("torch"), "pip install 'torch>=2.11'"
        ),
        Finding(
            "transformers",
            _at_least("transformers", (5, 17)),
            version("transformers"),
            "pip install 'transformers>=5.17'",
        ),
        Finding(
            "peft",
            _installed("peft"),
            version("peft") if _installed("peft") else "not installed",
            "pip install peft, to load adapters with PEFT",
            needed=False,
        ),
        Finding("base smollm2-135m", *_try(smollm2_folder), needed=False),
        Finding("encoder all-minilm", *_try(encoder_folder)),
        Finding(
            "disk for caches",
            free_gb > 1,
            f"{free_gb:.0f} GB free in {cache_folder()}",
            "free a gigabyte, or set DOMAINWRIGHT_CACHE to another disk",
        ),
    ]


def _speeds(fast: object) -> str:
    import torch

    from domainwright.models.float32 import take_onednn

    take_onednn()
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(1024, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
        torch.nn.functional.linear(a, b)
        begun = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(a, b)
        rates[dtype] = 10 * 2 * 1024 * 576 * 1536 / (time.perf_counter() - begun) / 1e9
    return (
        f"{str(fast).removeprefix('torch.')} (float32 {rates[torch.float32]:.0f}, bfloat16 "
        f"{rates[torch.bfloat16]:.0f} GFLOP/s)"
    )


def _try(find: Callable[[], Path]) -> tuple[bool, str, str]:
    try:
        return True, str(find()), ""
    except CapabilityError as error:
        return False, error.cause, error.fix


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _at_least(package: str, wanted: tuple[int, int]) -> bool:
    parts = version(package).split("+")[0].split(".")[:2]
    return tuple(int(p) for p in parts) >= wanted
