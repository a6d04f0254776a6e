"""Randomness by counter: every draw follows from (seed, purpose, position), nothing else.

A global stream depends on what was drawn before, so resuming in the middle or
adding one draw changes everything after it. A counter does not.
"""

import hashlib

import numpy as np


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends on every argument.

    >>> derive(0, "order", 1) == derive(0, "order", 1)
    True
    >>> derive(0, "order", 1) == derive(0, "order", 2)
    False
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator of its own for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))


def share(seed: int, key: str) -> float:
    """A number in [0, 1) that belongs to `key`: a split by it survives added rows.

    >>> 0 <= share(0, "patient-7") < 1
    True
    """
    return derive(seed, "share", key) / 2**63
