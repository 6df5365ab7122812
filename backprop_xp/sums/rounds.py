"""How many samples a chunk has on a CUDA device, whichever that is.

Blocks of threads take a chunk each, round after round, and all wait for the last one: chunks just above a whole number
of rounds cost a whole round more. Where a batch is cut decides the bits of its sums, so it must depend on the batch
alone, not on the device. The cut that is chosen is the best for devices that people have: for the worst of them and for
the mean of all, together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

#: Multiprocessors of these devices: GeForce RTX 3090, A100, H100 (PCIe), RTX 4090, H100 (SXM), H200, RTX 5090.
MULTIPROCESSORS = (82, 108, 114, 128, 132, 132, 170)


@lru_cache(maxsize=1024)
def chunk_samples(samples: int, unit: int, most: int, overhead: float, resident: tuple[int, ...]) -> int:
    """Samples in a chunk, a multiple of ``unit``, for a batch of ``samples``.

    Args:
        unit: samples that a block takes at a time.
        most: units of a chunk.
        overhead: what a chunk's sums cost a block, in the time of a unit.
        resident: how many blocks a multiprocessor may have at a time.
    """
    if samples <= unit:
        return unit
    sizes = unit * np.arange(most, 0, -1)  # of equally good ones the largest: fewer sums
    slots = np.array([processors * blocks for processors in MULTIPROCESSORS for blocks in resident])
    found = efficiency(samples, sizes[:, None], unit, overhead, slots)
    return int(sizes[np.argmax(found.min(axis=1) + found.mean(axis=1))])


def efficiency(samples: int, chunk: np.ndarray, unit: int, overhead: float, slots: np.ndarray) -> np.ndarray:
    """The share of the blocks' time that goes to samples and not to sums or waiting, where ``slots`` work at a time."""
    chunks = -(-samples // chunk)
    rounds = -(-chunks // slots)
    return samples / unit / (slots * rounds * (chunk / unit + overhead))
