"""A batch of each of many nets of one shape on a CUDA device, whose parameters lie side by side.

A launch of the fused engine's kernel and one that adds up are for all of them, with the bits of a call for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import engines
from ..backend import Array
from ..engines import fused_gpu
from ..plan.call import Call
from ..programs import arguments
from ..programs.arguments import Written
from ..sums.chunk_sums import ROWS, SumsOfNets
from ..toolchain import cuda

#: Nets of one launch, at most: CUDA's number of blocks along a grid's other two axes.
MOST_NETS = 65_535


def why_not(engine: str, call: Call) -> str:
    """Why the call of a net with this engine can't be one of many, "" if it can."""
    found = engines.choice(engine, call)
    if found.engine != "fused":
        return f"it runs by the {found.engine} engine: {found.reason}"
    if call.weight is not None:
        return "samples or classes have weights"
    if call.samples > ROWS * fused_gpu.chunk_samples(call):
        return "a batch has too many samples"
    return ""


class SideBySide:
    """The losses and gradients of nets for batches of one size. Raises CompileError.

    Args:
        call: of one of the nets, with a batch like all others, whose arrays are contiguous.
        parameters: (nets, parameters), of each net all weights, then all biases.
        own: whether each net has a batch of its own.
        ended: (nets,) int64, not 0 where a net is left alone.
    """

    def __init__(self, call: Call, parameters: Array, own: bool, ended: Array) -> None:
        xp, nets, chunk = call.backend.xp, len(parameters), fused_gpu.chunk_samples(call)
        chunks = -(-call.samples // chunk)
        sums, losses = xp.empty((nets, chunks, call.numbers), call.dtype), xp.empty((nets, chunks))
        self._held = parameters, sums, losses, ended
        self._batch = arguments.batch(call, chunk, Written(sums, losses))
        self._add = SumsOfNets(sums, losses, call.scale)
        numbers = [np.int64(0 if array is None or not own else array.size) for array in (call.x, call.y)]
        scalars = [call.dtype.type(a) for a in arguments.scalars(call)]
        given = [self._batch, parameters, *numbers, ended, *scalars]
        self._run = cuda.Launch(fused_gpu.of_nets(call), (chunks, nets), (fused_gpu.THREADS,), given)

    def __call__(self, x: Array, y: Any, gradients: Array, losses: Array, stream: int) -> None:
        """Write the gradients (nets, parameters), ordered as the parameters, and the losses (nets,) of their dtype.

        Args:
            x, y: the batch, or one a net, one after another.
        """
        self._batch.x, self._batch.y = x.data.ptr, None if y is None else y.data.ptr
        self._run(stream)
        self._add(gradients, losses, stream)
