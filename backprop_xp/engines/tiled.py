"""The tiled engine: the loops of passes/article.py over tiles of the batch that stay in the cache, on worker threads.

Each worker has one BLAS thread and its own arrays, which it reuses from tile to tile. A tile is a fixed logical
chunk of samples with its own partial sums, which are added in a fixed tree: the same bits for any number of
threads.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import threadpoolctl

from .. import threads
from ..backend import Array
from ..passes.article import Gradients, Signals
from ..programs.elementwise import compiled
from ..sums.tree import ChunkTree, Partial
from ..workspace import recycled
from . import layered
from .call import Call

#: Bytes of a tile's signals, at most, and samples in a tile, at least and at most. Small tiles would fit a smaller
#: cache, but then the threads wait for the interpreter more than they compute. No figures were kept.
CACHE_BYTES = 32 << 20
FEWEST_ROWS, MOST_ROWS = 1024, 8192


def tile_rows(sizes: tuple[int, ...], itemsize: int) -> int:
    """Samples in a tile, a power of two: it depends on the net and the dtype alone."""
    row_bytes = 2 * sum(sizes) * itemsize
    rows = FEWEST_ROWS
    while rows < MOST_ROWS and 2 * rows * row_bytes <= CACHE_BYTES:
        rows *= 2
    return rows


def refuses(call: Call) -> str:
    """It runs batches on the CPU, of activations and losses that work sample by sample."""
    return "it runs on the CPU" if call.backend.on_gpu else call.needs_whole_batch


def intermediate_bytes(call: Call) -> int:
    """Every t, z, and gradient of one tile a thread, and the partial sums."""
    tile = 4 * tile_rows(call.sizes, call.dtype.itemsize) * sum(call.sizes[1:])
    sums = 2 * sum(layer.weight.size for layer in call.layers)
    return threads.count(call.threads) * (tile + sums) * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Signals | None]:
    """The net's outputs."""
    output = np.empty((len(call.x), len(call.layers[-1].weight)), call.dtype)

    def tile(index: int, rows: slice) -> None:
        with recycled(layered.may_recycle(call)), compiled():
            output[rows] = layered.forward(replace(call, x=call.x[rows]))[0]

    each_tile(len(call.x), tile_rows(call.sizes, call.dtype.itemsize), call.threads, tile)
    return output, None


def loss_and_grad(call: Call) -> Gradients:
    """The loss and the gradients of all parameters."""
    tree: ChunkTree[Partial] = ChunkTree()
    grad_x = np.empty_like(call.x) if call.input_grad else None

    def tile(index: int, rows: slice) -> None:
        y, weight = (None if a is None else a[rows] for a in (call.y, call.weight))
        with compiled():
            gradients = layered.loss_and_grad(replace(call, x=call.x[rows], y=y, weight=weight))
        if grad_x is not None:
            grad_x[rows] = gradients.x
        tree.add(index, Partial(float(gradients.loss), gradients.parameters))

    each_tile(len(call.x), tile_rows(call.sizes, call.dtype.itemsize), call.threads, tile)
    total = tree.total()
    assert total is not None
    return Gradients.of(call.layers, total.arrays, grad_x, call.dtype.type(total.loss))


def each_tile(n: int, rows: int, wanted: int | None, work: Any) -> None:
    """``work(index, rows)`` for every tile of ``rows`` samples, on the number of threads that is wanted."""
    numbers = itertools.count()
    stop = threads.Stop()

    def worker() -> None:
        while (index := next(numbers)) * rows < n and not stop.raised:
            work(index, slice(index * rows, min(n, (index + 1) * rows)))

    workers = min(threads.count(wanted), -(-n // rows))
    with _blas().limit(limits=1, user_api="blas"):
        threads.run(worker, max(workers, 1), stop)


@cache
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()
