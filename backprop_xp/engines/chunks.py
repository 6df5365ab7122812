"""A batch cut into fixed logical chunks, which threads take one after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from .. import threads, workspace
from ..workspace import recycled

#: Samples in a chunk: an eighth of the batch within bounds. A chunk costs memory traffic for each parameter, and a
#: thread has to be woken for it, but threads need chunks to work on. The last number counts multiply-adds.
LEAST_CHUNK, MOST_CHUNK, WORTH_A_THREAD = 64, 2048, 6e6


def chunk_samples(multiply_adds: int, samples: int, rows: int) -> int:
    """Samples in a logical chunk: whole tiles of ``rows`` samples where it holds more than one.

    ``multiply_adds`` are those of one sample.
    """
    least = max(int(WORTH_A_THREAD / max(1, multiply_adds)), LEAST_CHUNK)
    wanted = min(max(samples // 8, least), MOST_CHUNK)
    return wanted if wanted < rows else wanted // rows * rows


def each_chunk(call: Any, rows: int, numbers_of_a_tile: int, work: Callable[[int, int, int, int], None]) -> None:
    """``work(index, first sample, samples, memory)`` for every chunk, on all threads.

    A tile has ``rows`` samples, and ``memory`` is the address of room for ``numbers_of_a_tile`` numbers.
    """
    samples = chunk_samples(call.multiply_adds, call.samples, rows)
    chunks = -(-call.samples // samples)
    numbers = itertools.count()
    stopped: list[bool] = []

    def worker() -> None:
        with recycled():
            memory = workspace.empty((numbers_of_a_tile,), call.dtype)
            while (index := next(numbers)) < chunks and not stopped:
                first = index * samples
                work(index, first, min(samples, call.samples - first), memory.ctypes.data)

    threads.run(worker, min(threads.count(call.threads), chunks), stop=lambda: stopped.append(True))
