"""The narrow form of the fused pass: kernels/net_cpu.h, compiled for one net alone, for many samples of it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import threads
from . import fused, matrices, structs

#: Floating-point operations of a wave of chunks, and bytes of its partial sums, at most. Chosen, not measured: a wave
#: takes some hundredths of a second, after which an interrupt is seen, and its sums fit a third-level cache.
WAVE_FLOPS, WAVE_BYTES = 5e9, 8 << 20


class Narrow:
    """The pass for one net.

    The batch is cut into chunks, which threads take one after another; their sums are added in a fixed tree.

    Args:
        parameters: the weight and the bias of every layer, contiguous; their numbers are read in every call.
        scalars: the parameters of the activations, then of the loss.

    Attributes:
        args: what is handed over; a caller sets the fields of its batch.

    Raises:
        CompileError: it can't be compiled here.
    """

    def __init__(
        self, shape: fused.Shape, activations: Sequence[Any], parameters: Sequence[np.ndarray], scalars: Sequence[float]
    ) -> None:
        self._shape, self._parameters = shape, parameters
        self._dtype = parameters[0].dtype
        self._program, self._core = fused.program(shape, activations), matrices.core(shape.dtype)
        parts = self._program.parts
        self._stop = threads.Stop()
        self._packed = np.empty(shape.parameters, self._dtype)
        self._scalars = np.array([*scalars, 0.0], self._dtype)
        self.args = structs.Args(
            params=_address(self._packed),
            scalars=_address(self._scalars),
            scale=1.0,
            stop=ctypes.addressof(self._stop),
            load_tile=structs.address_of(parts.bpx_load_tile),
            store_tile=structs.address_of(parts.bpx_store_tile),
            add_lanes=structs.address_of(parts.bpx_add_lanes),
        )

    def outputs(self, workers: int) -> None:
        """Fill ``args.output``."""
        for _ in self._waves(workers):
            pass

    def loss_and_grad(self, workers: int, total: np.ndarray, rows: slice | None = None) -> float:
        """The sum of the samples' losses, without ``args.scale``; ``total`` gets the gradients, layer by layer.

        Of some rows alone, where they are given; the first of them begins a chunk, and the last ends one or the batch.
        """
        count = self._shape.parameters
        wave = wave_chunks(self._shape, self.args.n)
        sums, losses = np.empty((wave, count), self._dtype), np.empty(wave)
        self.args.sums, self.args.losses = _address(sums), _address(losses)
        levels, level_losses = np.empty((structs.TREE_LEVELS, count), self._dtype), np.empty(structs.TREE_LEVELS)
        tree = structs.Tree(count, 0, _address(levels), _address(level_losses))
        pointer = ctypes.addressof(tree)
        parts = self._program.parts
        for chunks in self._waves(workers, rows):
            parts.bpx_tree_add(pointer, self.args.sums, self.args.losses, chunks)
        return parts.bpx_tree_total(pointer, _address(total))

    def _waves(self, workers: int, rows: slice | None = None) -> Iterator[int]:
        """How many chunks each wave had, when it is done."""
        at = 0
        for array in self._parameters:
            self._packed[at : at + array.size] = array.ravel()
            at += array.size
        args, address = self.args, structs.address_of(self._program.run)
        start, stop = (0, args.n) if rows is None else (rows.start, rows.stop)
        chunk, wave = self._shape.narrow_chunk, wave_chunks(self._shape, args.n)
        end = -(-stop // chunk)
        for first in range(start // chunk, end, wave):
            args.first = args.next = first
            args.last = min(first + wave, end)
            self._core.bpx_share_out(address, ctypes.addressof(args), min(workers, args.last - first))
            if self._stop.raised:
                raise MemoryError("no memory for a tile of the fused engine")
            yield args.last - first


def wave_chunks(shape: fused.Shape, samples: int) -> int:
    """Chunks of a batch that are computed before their sums are added."""
    by_time = int(WAVE_FLOPS / (shape.flops * shape.narrow_chunk))
    by_memory = WAVE_BYTES // (shape.parameters * np.dtype(shape.dtype).itemsize)
    return max(1, min(max(16, min(by_time, by_memory)), -(-samples // shape.narrow_chunk)))


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
