"""A batch cut into fixed logical chunks, which threads take one after another."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable

from .. import threads, workspace
from ..plan.call import Call
from ..programs import arguments, structs
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


def each_chunk(
    call: Call, args: structs.WideArgs, rows: int, numbers_of_a_tile: int, work: Callable[[int, int, int, int], None]
) -> None:
    """``work(index, first sample, samples, memory)`` for every chunk, on all threads.

    Args:
        rows: samples in a tile.
        numbers_of_a_tile: for which ``memory`` has room, an address; each thread has its own.
    """
    samples = chunk_samples(call.multiply_adds, call.samples, rows)
    chunks = -(-call.samples // samples)
    numbers = itertools.count()
    stop = threads.Stop()
    args.stop = ctypes.addressof(stop)

    def worker() -> None:
        with recycled():
            memory = workspace.empty((numbers_of_a_tile,), call.dtype)
            while (index := next(numbers)) < chunks and not stop.raised:
                first = index * samples
                work(index, first, min(samples, call.samples - first), memory.__array_interface__["data"][0])

    long = samples * arguments.flops(call) > threads.LONG_FLOPS
    threads.run(worker, min(threads.count(call.threads), chunks), stop, long)
