"""How the pass by blocks of threads is cut into tiles, with products by float arithmetic (kernels/block_cuda.h)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..activations import Identity, ReLU, Sigmoid, Tanh
from . import fused

#: Samples in a tile, and input features held at a time: the first that fit are taken. Calculated: every tile reads all
#: weights and updates all sums of its chunk in the second-level cache, so more samples come first; a slice of x is only
#: read once more.
ROWS, SLICES = (64, 32, 16, 8), (128, 64, 32)
#: Threads of a block; of a block of a net whose widest layer has at most NARROW features, which has too few sums to
#: compute at once for more; and that width. Calculated.
THREADS, FEW_THREADS, NARROW = 256, 128, 32
#: A chain's blocks have the fewest that leave a multiprocessor THREADS in all, so that each computes many sums at once:
#: from FEW_THREADS on, or from this on if the net is as narrow as that. Calculated.
LEAST_THREADS = 64
#: Sums that a thread holds at once, in float32 (half of it in float64): where two blocks of 256 threads share a
#: multiprocessor, so that a thread has 128 registers, and where one block has it. Calculated; what fits is found by
#: compiling.
SUMS, MANY_SUMS = 32, 64
#: Hidden layers with these activations need no room for derivatives: `has_slope` of kernels/activations.h.
SLOPE_FROM_OUTPUT = {cls.text for cls in (Identity, Tanh, Sigmoid, ReLU)}
#: Bytes of shared memory that the driver keeps for itself beside each block: CUDA's number.
RESERVED = 1 << 10


@dataclass(frozen=True)
class Tiling:
    """The constants of kernels/block_cuda.h, which says what they are."""

    rows: int
    threads: int
    resident: int
    sums: int
    slice: int


def tilings(shape: fused.Shape, limit: int) -> list[Tiling]:
    """Ways to cut a net's pass where a block may have ``limit`` bytes of shared memory, best first."""
    least = LEAST_THREADS if max(shape.sizes[1:]) <= NARROW else FEW_THREADS
    found: list[Tiling] = []
    for rows, most in itertools.product(ROWS, SLICES):
        tiling = Tiling(rows, THREADS, 1, SUMS, slice_of(shape.sizes[0], most))
        fit = (limit + RESERVED) // (shared_numbers(shape, tiling) * shape.itemsize + RESERVED)
        if fit and not (found and found[-1].rows == rows):
            threads = least
            while threads * fit < THREADS:
                threads *= 2
            found += _blockings(shape, replace(tiling, threads=threads, resident=min(fit, 2 * THREADS // threads)))
    return found


def slice_of(features: int, most: int) -> int:
    """Input features that are held at a time, at most ``most``: whole ``features`` in as few goes as it takes."""
    return -(-features // -(-features // most))


def _blockings(shape: fused.Shape, tiling: Tiling) -> Iterator[Tiling]:
    """From many sums a thread to few, which surely fit its registers."""
    most = MANY_SUMS if tiling.resident * tiling.threads <= THREADS else SUMS
    if shape.dtype == "float64":
        most //= 2
    for sums in (most, most // 2, 8):
        yield replace(tiling, sums=sums)


def packed(shape: fused.Shape) -> int:
    """How many numbers the packed parameters are."""
    count = 0
    for i, (inputs, outputs) in enumerate(zip(shape.sizes, shape.sizes[1:])):
        count += inputs * _padded(outputs) + (outputs * _padded(inputs) if goes_down(shape, i) else 0)
        count += _padded(outputs) if shape.bias[i] else 0
    return count


def goes_down(shape: fused.Shape, layer: int) -> bool:
    """Whether gradients go down through a layer."""
    return shape.loss is not None and (layer > 0 or shape.input_grad)


def has_slopes(shape: fused.Shape, layer: int) -> bool:
    """Whether a layer's gradients are multiplied by the derivatives of its activation."""
    return shape.loss is not None and shape.activations[layer] != Identity.text


def shared_numbers(shape: fused.Shape, tiling: Tiling) -> int:
    """Numbers in a block's shared memory."""
    stride = tiling.rows + 16 // shape.itemsize
    last = len(shape.activations) - 1
    features = tiling.slice
    for i, width in enumerate(shape.sizes[1:]):
        stored = has_slopes(shape, i) and (i == last or shape.activations[i] not in SLOPE_FROM_OUTPUT)
        features += 2 * width if stored else width
    return features * stride + tiling.threads


def _padded(width: int) -> int:
    return -(-width // 8) * 8
