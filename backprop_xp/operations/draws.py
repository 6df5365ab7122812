"""Random numbers that are a pure function of a key and of where they stand.

The generator is SplitMix64 (Steele, Lea and Flood, 2014), whose k-th number can be computed without those before it.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
MASK = (1 << 64) - 1


def key(*numbers: int) -> int:
    """64 bits from a few numbers: the seed, the training step, the node."""
    state = 0
    for number in numbers:
        state = _mixed((state + (operator.index(number) + 1) * STEP) & MASK)
    return state


def key_from(key: int, first: int, width: int) -> int:
    """The key that gives for row 0 what another gives for row ``first`` of a batch (n, width)."""
    return (key + first * width * STEP) & MASK


def numbers(xp: Any, key: int, first: int, shape: tuple[int, int]) -> Any:
    """64 random bits for every number of a batch of this shape whose first row is ``first``, as uint64."""
    with np.errstate(over="ignore"):
        start = key_from(key, first, shape[1])
        z = xp.arange(shape[0] * shape[1], dtype=np.uint64)
        z *= np.uint64(STEP)
        z += np.uint64(start)
        for shift, factor_bits in ((30, FIRST), (27, SECOND)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor_bits)
        z ^= z >> np.uint64(31)
    return z.reshape(shape)


def _mixed(z: int) -> int:
    z = (z ^ z >> 30) * FIRST & MASK
    z = (z ^ z >> 27) * SECOND & MASK
    return z ^ z >> 31
