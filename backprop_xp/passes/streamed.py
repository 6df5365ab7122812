"""Batches in pieces on a CUDA device: those that lie on the host, and those that its memory doesn't hold at once.

The rule: an input or y of more than HOST_BYTES that lies on the host (an array, or a memmap of any size) stays there,
unless signals are kept or code of the user's needs the whole batch. It is read a piece at a time into one of two
buffers of page-locked memory, copied to the device on a stream of its own, and computed on the current stream while the
next piece is read and copied. Everything smaller is moved whole. Where the device runs out of memory in either way,
smaller pieces are tried, down to one chunk of samples.

Pieces are whole chunks. A :class:`backprop_xp.plan.engine.Chunked` engine gives the same bits in any number of pieces;
the sums of others' pieces are added in a tree.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from .. import threads
from ..backend import Array, owner_of
from ..plan.call import Call, Result, Values
from ..plan.engine import Chunked, Engine
from ..sums.tree import ChunkTree, Partial

#: Bytes from which an array stays on the host, and of the inputs and targets of a piece, about. Chosen, not measured.
HOST_BYTES, PIECE_BYTES = 64 << 20, 32 << 20
#: Bytes that a thread copies at least, for it to be worth starting. Chosen, not measured.
SHARE_BYTES = 4 << 20
#: The fewest samples of a piece, for engines without chunks. Chosen, not measured.
FEWEST_SAMPLES = 256


def run(engine: Engine, call: Call, what: str) -> Any:
    """``what`` an engine does, "forward" or "loss_and_grad", with this call: whole if it can be, else in pieces.

    Raises:
        MemoryError: the device has no memory for the fewest samples that it computes at a time, or for the results.
    """
    on_host = [array.nbytes for array in _given(call).values() if owner_of(array) == "numpy"]
    if not on_host:
        reason = _unless_memory_lacks(getattr(engine, what), call)
        if not isinstance(reason, str):
            return reason
        if call.whole or not call.samples:
            what = f"this batch, and {clause}" if (clause := call.needs_whole_batch) else "this call's signals"
            raise MemoryError(f"the device has no memory for {what}: {reason}")
    if not on_host or max(on_host) <= HOST_BYTES:
        warn()
    in_pieces = {"forward": _forward, "loss_and_grad": _loss_and_grad}[what]
    fewest = engine.chunk_samples(call) if isinstance(engine, Chunked) else FEWEST_SAMPLES
    kept = _unless_memory_lacks(_kept, call, what)
    if isinstance(kept, str):
        kind = "outputs" if what == "forward" else "gradients in x"
        raise MemoryError(f"the device has no memory for the {kind} of {call.samples} samples: {kept}")
    rows = _whole(_rows(call), fewest)
    while True:
        result = _unless_memory_lacks(in_pieces, engine, call, rows, kept)
        if not isinstance(result, str):
            return result
        if rows == fewest:
            raise MemoryError(f"the device has no memory for {min(rows, call.samples)} samples at a time: {result}")
        rows = _whole(rows // 2, fewest)


@cache
def warn() -> None:
    """Once: a batch doesn't fit the device."""
    message = "the device has no memory for this batch at once: it is computed in pieces, which takes longer"
    warnings.warn(message, UserWarning, stacklevel=6)


def _unless_memory_lacks(compute: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``compute``, or as text why there was no memory.

    The exception is gone when this returns: it would keep alive, by its traceback, arrays of the failed attempt.
    """
    try:
        return compute(*arguments)
    except MemoryError as error:
        return str(error)


def _given(call: Call) -> dict[tuple[str, str], Array]:
    """The inputs by their names, and the targets: what may lie on the host."""
    given = {("input", name): array for name, array in call.inputs.items()}
    return given if call.y is None else given | {("y", ""): call.y}


def _rows(call: Call) -> int:
    """Samples of a piece of PIECE_BYTES."""
    numbers = sum(1 if array.ndim == 1 else array.shape[1] for array in _given(call).values())
    return min(PIECE_BYTES // (numbers * call.dtype.itemsize), call.samples)


def _whole(rows: int, fewest: int) -> int:
    """``rows``, or less: a multiple of the ``fewest`` that are computed at a time."""
    return max(fewest, rows // fewest * fewest)


def _kept(call: Call, what: str) -> dict[str, Array]:
    """Room for what is given back of every sample: the output of a forward call, or the gradients in the inputs."""
    output = {call.plan.output.name: call.plan.output.width}
    widths = output if what == "forward" else call.plan.inputs if call.input_grad else {}
    return {name: call.backend.xp.empty((call.samples, width), call.dtype) for name, width in widths.items()}


def _forward(engine: Engine, call: Call, rows: int, kept: dict[str, Array]) -> tuple[Array, Values | None]:
    output = kept[call.plan.output.name]
    for piece, at in _pieces(call, rows):
        output[at] = engine.forward(piece)[0]
    return output, None


def _loss_and_grad(engine: Engine, call: Call, rows: int, kept: dict[str, Array]) -> Result:
    if isinstance(engine, Chunked):
        pieces = engine.pieces(call)
        for piece, at in _pieces(call, rows):
            pieces.add(piece, {name: whole[at] for name, whole in kept.items()})
        return pieces.result(kept)
    tree: ChunkTree[Partial] = ChunkTree()
    for index, (piece, at) in enumerate(_pieces(call, rows)):
        result = engine.loss_and_grad(piece)
        for name, whole in kept.items():
            whole[at] = result.inputs[name]
        tree.add(index, Partial(result.loss, result.parameters))
    summed = tree.total()
    assert summed is not None
    return Result(summed.arrays, kept, summed.loss)


def _pieces(call: Call, rows: int) -> Iterator[tuple[Call, slice]]:
    """Calls with ``rows`` of the samples each, on the device, and where these samples stand in the batch."""
    copying = call.backend.xp.cuda.Stream(non_blocking=True)
    buffers = [_Buffer(call, rows) for _ in range(2 if call.samples > rows else 1)]
    try:
        for index, first in enumerate(range(0, call.samples, rows)):
            at = slice(first, min(first + rows, call.samples))
            buffer = buffers[index % 2]
            yield buffer.load(call, at, copying), at
            buffer.computed.record()
    finally:
        copying.synchronize()  # before somebody else is given the page-locked memory


class _Buffer:
    """Room for a piece of what lies on the host, in page-locked memory and on the device, and when each is free."""

    def __init__(self, call: Call, rows: int) -> None:
        cuda, empty = call.backend.xp.cuda, call.backend.xp.empty
        self.places: dict[tuple[str, str], tuple[np.ndarray, Array]] = {}
        for name, array in _given(call).items():
            if owner_of(array) == "numpy":
                shape = (min(rows, call.samples), *array.shape[1:])
                dtype = call.dtype if array.ndim == 2 else np.dtype(np.int64)  # class indices
                locked = cuda.alloc_pinned_memory(math.prod(shape) * dtype.itemsize)
                host = np.frombuffer(locked, dtype, math.prod(shape)).reshape(shape)
                self.places[name] = host, empty(shape, dtype)
        self.copied, self.computed = cuda.Event(disable_timing=True), cuda.Event(disable_timing=True)
        self.computed.record()  # the device memory may be of arrays that the current stream still works on

    def load(self, call: Call, at: slice, copying: Any) -> Call:
        """The piece of the call at ``at``; the current stream waits until it is there."""
        count, part = at.stop - at.start, call.rows(at)
        piece = _given(part)
        self.copied.synchronize()
        for name, (host, _) in self.places.items():
            _fill(host[:count], piece[name], threads.count(call.threads))
        copying.wait_event(self.computed)
        for name, (host, device) in self.places.items():
            piece[name] = device[:count]
            piece[name].set(host[:count], stream=copying)
        self.copied.record(copying)
        call.backend.xp.cuda.get_current_stream().wait_event(self.copied)
        part.y = piece.pop(("y", ""), None)
        part.inputs = {name: array for (_, name), array in piece.items()}
        return part


def _fill(to: np.ndarray, values: np.ndarray, workers: int) -> None:
    """Copy and convert, on several threads: one alone is slower than the way to the device."""
    workers = min(workers, 1 + to.nbytes // SHARE_BYTES)
    rows = -(-len(to) // workers)
    numbers = itertools.count()

    def worker() -> None:
        while (first := next(numbers) * rows) < len(to):
            with np.errstate(all="ignore"):
                np.copyto(to[first : first + rows], values[first : first + rows], casting="unsafe")

    threads.run(worker, workers, threads.Stop())
