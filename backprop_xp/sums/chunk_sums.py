"""Partial sums of numbered chunks on the device, added in a fixed tree: the same bits in one piece or in many."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import Array
from ..dtypes import C_NAMES
from ..kernels import source
from ..toolchain import cuda

#: Rows of partial sums that one block adds up, and the threads of a block (columns, rows): as in kernels/sums_cuda.h.
ROWS, BLOCK = 256, (32, 8)
ALIGNED = 256  # bytes, of where arrays begin within one allocation
NULL = np.uintp(0)


class ReadySums:
    """What ChunkSums does with one piece of a fixed number of chunks, with its launches ready.

    Attributes:
        rows, losses: where in the memory that a call is given the chunks' sums and their losses are to be written.
        bytes: of that memory.
    """

    def __init__(self, chunks: int, parameters: int, dtype: np.dtype, scale: float) -> None:
        counts = [chunks]
        while counts[-1] > ROWS:
            counts.append(-(-counts[-1] // ROWS))
        self.bytes = 0
        places = [(self._place(8 * n), self._place(n * parameters * dtype.itemsize)) for n in counts]
        self.losses, self.rows = places[0]
        ends: list[tuple[int, int | None]] = [*places[1:], (self._place(8), None)]  # the gradients are the caller's
        self._levels: list[tuple[cuda.Launch, int, int, int, int | None]] = []
        for n, place, end in zip(counts, places, ends):
            add, grid, integers = _adding(n, parameters, dtype)
            arguments = (*integers, *[NULL] * 5, np.float64(scale if end[1] is None else 1.0))
            self._levels.append((cuda.Launch(add, grid, BLOCK, arguments), *place, *end))

    def __call__(self, memory: int, gradients: int, loss: int, stream: int) -> None:
        """Add up, on this stream, what was written to ``memory``; all of them are addresses."""
        for launch, losses, rows, losses_to, rows_to in self._levels:
            arguments = launch.arguments
            arguments[2].value, arguments[3].value = memory + rows, memory + losses
            arguments[4].value, arguments[5].value = memory + rows_to if rows_to else gradients, memory + losses_to
            arguments[6].value = 0 if rows_to else loss
            launch(stream)

    def _place(self, size: int) -> int:
        """Where ``size`` bytes begin, behind what was placed before."""
        at = self.bytes
        self.bytes += -(-size // ALIGNED) * ALIGNED
        return at


class SumsOfNets:
    """What ReadySums does, of many nets at once, whose chunks are few: one launch.

    Args:
        sums, losses: (nets, chunks, parameters) and (nets, chunks), in double, which a kernel writes.
        scale: of the losses.

    Raises:
        ValueError: there are more than ROWS chunks.
    """

    def __init__(self, sums: Array, losses: Array, scale: float) -> None:
        nets, chunks, parameters = sums.shape
        if chunks > ROWS:
            raise ValueError(f"there may be {ROWS} chunks, got {chunks}")
        self._unscaled = losses[:, 0].copy()
        add, grid, integers = _adding(chunks, parameters, sums.dtype)
        arguments = (*integers, sums, losses, NULL, self._unscaled, NULL, np.float64(scale))
        self._launch = cuda.Launch(add, (*grid, nets), BLOCK, arguments)

    def __call__(self, gradients: Array, losses: Array, stream: int) -> None:
        """Write the gradients (nets, parameters), and the losses (nets,) of their dtype."""
        arguments = self._launch.arguments
        arguments[4].value, arguments[6].value = gradients.data.ptr, losses.data.ptr
        self._launch(stream)


class ChunkSums:
    """The sums of chunks 0, 1, 2 ..., which arrive in order, a piece of any number of chunks at a time.

    ::

        sums = ChunkSums(xp, parameters, dtype)
        for piece in pieces:
            rows, losses = sums.place(chunks)
            ...                                  # a kernel writes rows (chunks, parameters) and losses (chunks,)
        gradients, loss = sums.total(scale)

    The tree is that of sums/tree.py. Everything happens on the current stream, and nothing waits for it.
    """

    def __init__(self, xp: Any, parameters: int, dtype: np.dtype) -> None:
        self._xp, self._parameters, self._dtype = xp, parameters, dtype
        # of each level: rows, losses, and how many there are that no higher level holds yet
        self._levels: list[tuple[Array, Array, int]] = []

    def place(self, chunks: int) -> tuple[Array, Array]:
        """Where the next chunks' sums (chunks, parameters) and their losses (chunks,), in double, are to be written."""
        return self._place(0, chunks)

    def total(self, scale: float = 1.0, to: Array | None = None) -> tuple[Array, Array]:
        """The sum of all rows (parameters,), and ``scale`` times that of all losses, 0-d and of the rows' dtype.

        The former is written to the array ``to`` if there is one.
        """
        level = 0
        while level + 1 < len(self._levels) or self._levels[level][2] > ROWS:
            self._move_up(level, self._levels[level][2])
            level += 1
        sums, losses, count = self._levels[level]
        to = self._xp.empty(self._parameters, self._dtype) if to is None else to
        loss = self._xp.empty((), self._dtype)
        self._launch(sums, losses, count, to, self._xp.empty(1), loss, scale)
        return to, loss

    def _place(self, level: int, more: int) -> tuple[Array, Array]:
        if level == len(self._levels):
            self._levels.append((*self._empty(more), more))
            return self._levels[level][:2]
        self._move_up(level, self._levels[level][2] // ROWS * ROWS)
        old_sums, old_losses, count = self._levels[level]
        sums, losses = self._empty(count + more)
        sums[:count], losses[:count] = old_sums[:count], old_losses[:count]
        self._levels[level] = (sums, losses, count + more)
        return sums[count:], losses[count:]

    def _move_up(self, level: int, count: int) -> None:
        """Add up the first ``count`` rows of a level, in groups, for the level above."""
        if count == 0:
            return
        sums, losses, all_rows = self._levels[level]
        to, losses_to = self._place(level + 1, -(-count // ROWS))
        self._launch(sums, losses, count, to, losses_to, None, 1.0)
        self._levels[level] = (sums[count:], losses[count:], all_rows - count)

    def _launch(
        self, sums: Array, losses: Array, rows: int, to: Array, losses_to: Array, loss: Array | None, scale: float
    ) -> None:
        add, grid, integers = _adding(rows, self._parameters, self._dtype)
        pointer = NULL if loss is None else loss
        add(grid, BLOCK, (*integers, sums, losses, to, losses_to, pointer, np.float64(scale)))

    def _empty(self, rows: int) -> tuple[Array, Array]:
        return self._xp.empty((rows, self._parameters), self._dtype), self._xp.empty(rows)


def _adding(rows: int, parameters: int, dtype: np.dtype) -> tuple[Any, tuple[int, int], tuple[np.int64, np.int64]]:
    """The kernel that adds up ``rows`` rows in groups, its grid, and its first arguments."""
    add = cuda.kernel(source("sums_cuda.h"), f"bpx_tree_{C_NAMES[dtype.name]}")
    return add, (-(-rows // ROWS), -(-parameters // BLOCK[0]) + 1), (np.int64(rows), np.int64(parameters))
