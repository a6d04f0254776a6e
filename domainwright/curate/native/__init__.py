"""The sketch of near-duplicates in C++, where it can be compiled: see `curate._sketch`."""

import ctypes
import functools
import os
from pathlib import Path

from domainwright.core.compiled import NotCompiled, compiled

FLAGS = "-O3 -std=c++17 -fPIC".split()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    try:
        path = compiled("sketch", [Path(__file__).parent / "sketch.cpp"], FLAGS)
        found = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except (NotCompiled, OSError):
        return None
    found.dw_band_pairs.restype = ctypes.c_int64
    return found
