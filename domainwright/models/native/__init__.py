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
import sys
from pathlib import Path

import torch

from domainwright.core.compiled import NotCompiled, compiled

HERE = Path(__file__).parent
SOURCES = ("attention.cpp", "rows.cpp", "imitate.cpp", "four_bit.cpp")
HEADERS = ("common.h", "few_rows.h")
FLAGS = (
    "-O3 -std=c++17 -fPIC -fopenmp -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16"
).split()


def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had. The first call may compile them."""
    return _load()[0]


def reason() -> str:
    """Why there are none, or where they are: one line for `dw doctor`."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None, f"not written for {sys.platform} on {platform.machine()}"
    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return None, "this processor has no AVX512-BF16"
    try:
        path = compiled("kernels", [HERE / x for x in SOURCES], FLAGS, [HERE / x for x in HEADERS])
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW), str(path)
    except NotCompiled as error:
        return None, str(error)
    except OSError as error:
        return None, f"cannot be loaded: {error}"
