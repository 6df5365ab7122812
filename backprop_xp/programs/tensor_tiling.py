"""How the pass by blocks of threads is cut into tiles, with products by tensor cores (kernels/tensor_cuda.h)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from . import fused
from .tiling import RESERVED, Tiling, goes_down, has_slopes, slice_of


@dataclass(frozen=True)
class Form:
    """What kernels/mma.h says of a precision.

    Attributes:
        name: of its struct.
        each: numbers in a word of 32 bits.
        parts: words that stand for a word of the packed weights.
    """

    name: str
    each: int
    parts: int

    def words(self, outputs: int, inputs: int) -> int:
        """Words of a packed weight."""
        return _full(inputs) * _full(outputs) // self.each * self.parts


FORMS = {
    "tf32x3": Form("Tf32x3", 1, 2),
    "tf32": Form("Tf32", 1, 1),
    "bfloat16": Form("BFloat16", 2, 1),
    "float16": Form("Float16", 2, 1),
}
#: Samples in a tile, and input features held at a time, as in tiling.py.
ROWS, SLICES = (64, 32, 16), (128, 64, 32)
#: Threads of a block, of one that has a multiprocessor to itself, and blocks of a multiprocessor at most. Calculated:
#: there are eight warps at least, and a thread has 160 registers or more.
THREADS, THREADS_ALONE, RESIDENT = 128, 256, 3
#: Numbers behind the samples of a feature, where a graph's values stay float (kernels/graph_tensor.h).
GAP = 8
#: Sums that a thread holds at once. What fits is found by compiling.
SUMS = (64, 32, 16)


def tilings(shape: fused.Shape, limit: int) -> list[Tiling]:
    """Ways to cut a net's pass where a block may have ``limit`` bytes of shared memory, best first."""
    found: list[Tiling] = []
    for rows, most in itertools.product(ROWS, SLICES):
        features = shape.sizes[0] if shape.sizes[0] <= most else _full(slice_of(shape.sizes[0], most))
        tiling = Tiling(rows, THREADS_ALONE, 1, SUMS[0], features)
        fit = (limit + RESERVED) // (4 * shared_words(shape, tiling) + RESERVED)
        if fit and not (found and found[-1].rows == rows):
            if fit > 1:
                tiling = replace(tiling, threads=THREADS, resident=min(fit, RESIDENT))
            found += [replace(tiling, sums=sums) for sums in SUMS]
    return found


def packed(shape: fused.Shape) -> int:
    """How many words the packed parameters are."""
    form, count = FORMS[shape.precision], 0
    for i, (inputs, outputs) in enumerate(zip(shape.sizes, shape.sizes[1:])):
        count += form.words(outputs, inputs) * (2 if goes_down(shape, i) else 1) + (
            _full(outputs) if shape.bias[i] else 0
        )
    return count


def shared_words(shape: fused.Shape, tiling: Tiling) -> int:
    """Words in a block's shared memory."""
    pitch, stride = tiling.rows // FORMS[shape.precision].each + 8, tiling.rows + 4
    *hidden, outputs = shape.sizes[1:]
    signals = 1 if shape.loss is None else 2
    rows = _full(tiling.slice) + signals * sum(map(_full, hidden)) + (0 if shape.loss is None else _full(outputs))
    floats = outputs * (2 if has_slopes(shape, len(hidden)) else 1)
    return rows * pitch + floats * stride + tiling.threads


def _full(features: int) -> int:
    """Features in whole tiles of tensor cores."""
    return -(-features // 16) * 16
