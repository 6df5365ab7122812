"""Losses of a run on a CUDA device are looked at without waiting for it.

The device itself notes the first step whose loss isn't finite, and makes no update from then on. The host reads the
note of a step when the work of the next one is on its way, so that the device always has something to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, Backend
from ..toolchain import cuda

SOURCE = """
template <class S>
__device__ void look_at(const S* losses, long long count, long long step, double* values, long long* first) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  values[i] = losses[i];
  if (first[i] == 0 && !(values[i] - values[i] == 0)) first[i] = step;
}
extern "C" __global__
void look_float32(const float* losses, long long count, long long step, double* values, long long* first) {
  look_at(losses, count, step, values, first);
}
extern "C" __global__
void look_float64(const double* losses, long long count, long long step, double* values, long long* first) {
  look_at(losses, count, step, values, first);
}
"""
THREADS = 128  # of a block; chosen


def look(losses: Array, step: int, values: Array, first: Array) -> None:
    """Let the current device look at losses, each of one run, on the current stream.

    Args:
        losses: float32 or float64, of this step (from 1).
        values: float64, becomes the losses.
        first: int64, becomes the step where it is 0 and the loss isn't finite.
    """
    arguments = losses, np.int64(losses.size), np.int64(step), values, first
    cuda.kernel(SOURCE, f"look_{losses.dtype.name}")((-(-losses.size // THREADS),), (THREADS,), arguments)


class Seen(NamedTuple):
    """A step that was made, or not if its loss wasn't finite.

    Attributes:
        number: of the step, from 1.
        loss: its loss, a 0-d array or a number.
        batch: what it was made of.
        undo: puts back what the step changed beside the parameters.
    """

    number: int
    loss: Any
    batch: Any
    undo: Callable[[], None]


class Lookout:
    """Looks at the losses of one run.

    Attributes:
        first: the number of the first step whose loss wasn't finite, 0 if there is none: a 0-d array of int64 on the
            device.
        loss: that of the last step in float64, a 0-d array on the device.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend, cuda_of = backend, backend.xp.cuda
        with backend.activate():
            self.first = backend.xp.zeros((), np.int64)
            #: page-locked memory for ``first`` after a step and the event after which it is there, of steps by turns
            self._notes = [np.frombuffer(cuda_of.alloc_pinned_memory(8), np.int64, 1).reshape(()) for _ in range(2)]
            self._events = [cuda_of.Event(disable_timing=True) for _ in range(2)]
        self._last: Seen | None = None
        self.loss: Array = None

    def look(self, seen: Seen) -> Seen | None:
        """Let the device look at the loss of a step. Returns the step before if its loss wasn't finite."""
        xp, number = self._backend.xp, seen.number
        with self._backend.activate():
            loss = xp.asarray(seen.loss).reshape(())
            if loss.dtype.name not in ("float32", "float64"):
                loss = loss.astype(np.float64)
            self.loss = xp.empty(())
            look(loss, number, self.loss, self.first)
            self.first.get(out=self._notes[number % 2], blocking=False)
            self._events[number % 2].record()
        before, self._last = self._last, seen
        return self._wrong(before)

    def settle(self) -> Seen | None:
        """Wait for the last step. Returns it if its loss wasn't finite."""
        last, self._last = self._last, None
        return self._wrong(last)

    def _wrong(self, seen: Seen | None) -> Seen | None:
        if seen is None:
            return None
        self._events[seen.number % 2].synchronize()
        return seen if self._notes[seen.number % 2] else None
