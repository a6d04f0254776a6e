"""Our C++ kernels for CPUs with AVX512-BF16: compiled once, on this machine, if it can.

They are an execution, not a feature: `models.kernels` computes the same in PyTorch wherever
there is no such processor, no compiler, or DOMAINWRIGHT_NATIVE=0. The library is plain C
symbols called through ctypes, so no header of torch or Python is needed; its threads are
those of torch, whose OpenMP runtime it finds already loaded.
"""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import torch

from domainwright.models.embedded import cache_folder

SOURCES = ("attention.cpp", "rows.cpp", "four_bit.cpp")
FLAGS = (
    "-O3 -std=c++17 -fPIC -fopenmp -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16"
).split()
SECONDS = 120
"""A compiler that takes longer is given up; it takes about five."""


def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had. The first call may compile them."""
    return _load()[0]


def reason() -> str:
    """Why there are none, or where they are: one line for `dw doctor`."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("DOMAINWRIGHT_NATIVE") == "0":
        return None, "switched off by DOMAINWRIGHT_NATIVE=0"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, f"not written for {sys.platform} on {platform.machine()}"
    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return None, "this processor has no AVX512-BF16"
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return None, "no C++ compiler (g++) found"
    try:
        path = _build(compiler)
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW), str(path)
    except subprocess.CalledProcessError as error:
        return None, f"{compiler} failed: {error.stderr.strip().splitlines()[-1:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"cannot be built or loaded: {error}"


def _build(compiler: str) -> Path:
    """Path of the shared library of exactly these sources, compiled if it is not there."""
    here = Path(__file__).parent
    texts = [(here / name).read_bytes() for name in ("common.h", *SOURCES)]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = sha256(b"\0".join([*texts, version, " ".join(FLAGS).encode()])).hexdigest()[:16]
    target = cache_folder() / f"kernels-{key}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = []
        for name in SOURCES:
            objects.append(str(Path(folder, name).with_suffix(".o")))
            _run([compiler, *FLAGS, "-c", str(here / name), "-o", objects[-1]])
        # Linked without -fopenmp: a second OpenMP runtime beside torch's would double the threads.
        made = Path(folder, "kernels.so")
        _run([compiler, "-shared", "-o", str(made), *objects])
        os.replace(made, target)  # atomic: two processes may build at once
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
