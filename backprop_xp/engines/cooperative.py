"""The cooperative engine: wide nets on a CUDA device, a block of threads for a tile of samples (kernels/block_cuda.h).

Nothing but x, the parameters and the gradients is in the device's main memory. The batch is cut into fixed logical
chunks, a block of threads each, whose sums are added in a fixed tree: the same bits whatever runs where and when, and
on every stream. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from ..jit import block
from ..jit.fused import Shape
from ..losses import SoftmaxCrossEntropy
from . import arguments, cost
from .call import Call, Gradients, Signals
from .chunk_sums import ROWS, ChunkSums

#: Chunks are run in waves of whole groups of the tree, whose sums take about so many bytes.
WAVE_BYTES = 256 << 20
PACK_BLOCKS, PACK_THREADS = 64, 256
NULL = np.uintp(0)


def refuses(call: Call) -> str:
    """It runs nets of formulas whose signals, for eight samples, fit a block's shared memory."""
    if not call.backend.on_gpu:
        return "it runs on a CUDA device"
    if not all(getattr(layer.activation, "is_formula", False) for layer in call.layers):
        return "an activation is written in Python"
    formula_loss = getattr(call.loss, "is_formula", False) or type(call.loss) is SoftmaxCrossEntropy
    if call.loss is not None and not formula_loss:
        return "the loss is written in Python"
    limit = block.shared_limit(call.backend.device)
    if not block.tilings(_shape(call), limit):
        return f"the signals of a few samples don't fit the {limit >> 10} KiB of shared memory that a block may have"
    return ""


def yields(call: Call) -> str:
    """It leaves calls to the layered engine that cost less there."""
    rows = block.tilings(_shape(call), block.shared_limit(call.backend.device))[0].rows
    if cost.layered(call) < cost.cooperative(call, rows, block.CHUNK):
        return "so wide a net, or so small a batch, is estimated to be faster in whole matrix products"
    return ""


def intermediate_bytes(call: Call) -> int:
    """The packed parameters and the sums of one wave of chunks, and of the tree's levels."""
    return (2 * call.parameters + (_wave(call) + 2 * ROWS) * call.parameters) * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs."""
    output = call.backend.xp.empty((call.samples, call.sizes[-1]), call.dtype)
    _Pass(call).run(0, _chunks(call), output=output)
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    xp = call.backend.xp
    grad_x = xp.empty((call.samples, call.sizes[0]), call.dtype) if call.input_grad else None
    sums, compiled = ChunkSums(xp, call.parameters, call.dtype), _Pass(call)
    chunks, wave = _chunks(call), _wave(call)
    for first in range(0, chunks, wave):
        count = min(wave, chunks - first)
        rows, losses = sums.place(count)
        compiled.run(first, count, sums=rows, losses=losses, x_grad=grad_x)
    total, loss = sums.total(call.scale)
    weights, biases = arguments.unpacked(call, total)
    return Gradients(weights, biases, grad_x, loss)


class _Pass:
    """The kernel for a call, and what it is handed every time."""

    def __init__(self, call: Call) -> None:
        xp = call.backend.xp
        shape = _shape(call)
        self._program = block.program(shape, [layer.activation for layer in call.layers])
        arrays = [xp.ascontiguousarray(a) for layer in call.layers for a in layer[:2] if a is not None]
        packed = xp.empty(block.packed(shape), call.dtype)
        self._program.pack((PACK_BLOCKS,), (PACK_THREADS,), (*arrays, packed))
        self._inputs = [np.int64(call.samples), *_strided(call.x, 2), *_strided(call.y, 2), *_strided(call.weight, 1)]
        self._inputs += [call.dtype.type(call.scale), packed]
        scalars = [number for layer in call.layers for number in layer.activation.parameters]
        scalars += getattr(call.loss, "parameters", ())
        self._scalars = [call.dtype.type(number) for number in scalars]

    def run(self, first: int, chunks: int, **outputs: Array | None) -> None:
        """Chunks ``first`` ... ``first + chunks - 1``, a block each."""
        given = [outputs.get(name) for name in ("output", "x_grad", "sums", "losses")]
        pointers = [NULL if array is None else array for array in given]
        everything = (*self._inputs, *pointers, np.int64(first), *self._scalars)
        self._program.run((chunks,), (self._program.threads,), everything, shared_mem=self._program.shared_bytes)


def _strided(array: Array | None, axes: int) -> list[Any]:
    """The array and its strides in elements, as the kernel takes them."""
    if array is None:
        return [NULL, *[np.int64(0)] * axes]
    if any(stride % array.itemsize for stride in array.strides):
        array = array.copy()
    strides = [np.int64(stride // array.itemsize) for stride in array.strides]
    return [array, *strides, *[np.int64(0)] * (axes - array.ndim)]


def _shape(call: Call) -> Shape:
    return arguments.shape(call, None if call.loss is None else arguments.loss_key(call))


def _chunks(call: Call) -> int:
    return -(-call.samples // block.CHUNK)


def _wave(call: Call) -> int:
    groups = WAVE_BYTES // (ROWS * call.parameters * call.dtype.itemsize)
    return min(_chunks(call), ROWS * max(1, groups))
