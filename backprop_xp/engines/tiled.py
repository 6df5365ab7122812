"""The tiled engine: the loops of passes/ over tiles of the batch that stay in the cache, on worker threads.

Each worker has one BLAS thread and its own arrays, which it reuses from tile to tile. A tile is a fixed logical
chunk of samples with its own partial sums, which are added in a fixed tree: the same bits for any number of
threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from .. import threads
from ..backend import Array
from ..plan.call import Call, Result, Values
from ..products import one_blas_thread
from ..programs.elementwise import compiled
from ..sums.tree import ChunkTree, Partial
from ..workspace import recycled
from . import layered

#: Bytes of a tile's signals, at most, and samples in a tile, at least and at most. Small tiles would fit a smaller
#: cache, but then the threads wait for the interpreter more than they compute. Measured on a 2-core EPYC (Zen 4), one
#: thread, 262,144 samples in millions a second: 5-10-4-12 in tiles of 8,192 5.7, of 32,768 6.7, layered 6.6; 2-16-16-1
#: 3.5, 5.1 and 4.4.
CACHE_BYTES = 32 << 20
FEWEST_ROWS, MOST_ROWS = 1024, 32768


def tile_rows(widths: Iterable[int], itemsize: int) -> int:
    """Samples in a tile, a power of two: it depends on the net and the dtype alone."""
    row_bytes = 2 * sum(widths) * itemsize
    rows = FEWEST_ROWS
    while rows < MOST_ROWS and 2 * rows * row_bytes <= CACHE_BYTES:
        rows *= 2
    return rows


def why_not(call: Call) -> str:
    """That it runs on the CPU, or what needs the whole batch."""
    return "it runs on the CPU" if call.backend.on_gpu else call.needs_whole_batch


def yields(call: Call) -> str:
    """That the batch is one tile, whose products layered shares out to all threads, where all code is built in.

    From two tiles on tiled is faster. Measured on a 2-core EPYC (Zen 4), processor time of one thread, layered's to
    tiled's: one tile 0.77 to 0.96 on most nets of up to 64 features (1.42 on one), where NumPy's calls are what takes
    long, and 0.9 to 1.3 on wider ones; two tiles and more 0.92 to 2.1, mostly above 1.
    """
    return "the batch is one tile" if call.samples <= _rows(call) and not layered.has_code(call) else ""


def intermediate_bytes(call: Call) -> int:
    """Every value and gradient of one tile a thread, and the partial sums."""
    tile = _rows(call) * layered.sample_bytes(call)
    return threads.count(call.threads) * (tile + 2 * call.numbers * call.dtype.itemsize)


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    output = np.empty(call.output_shape, call.dtype)

    def tile(index: int, rows: slice) -> None:
        part = call.rows(rows)
        with recycled(layered.may_recycle(part)), compiled():
            output[rows] = layered.forward_here(part)[0]

    _each_tile(call, tile)
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    tree: ChunkTree[Partial] = ChunkTree()
    grads = {name: np.empty_like(x) for name, x in call.inputs.items()} if call.input_grad else {}

    def tile(index: int, rows: slice) -> None:
        with compiled():
            result = layered.loss_and_grad_here(call.rows(rows))
        for name, whole in grads.items():
            whole[rows] = result.inputs[name]
        tree.add(index, Partial(float(result.loss), result.parameters))

    _each_tile(call, tile)
    total = tree.total()
    assert total is not None
    return Result(total.arrays, grads, call.dtype.type(total.loss))


def _each_tile(call: Call, work: Callable[[int, slice], None]) -> None:
    """``work(index, rows)`` for every tile of the batch, on the number of threads that is wanted."""
    n, rows = call.samples, _rows(call)
    numbers = itertools.count()
    stop = threads.Stop()

    def worker() -> None:
        while (index := next(numbers)) * rows < n and not stop.raised:
            work(index, slice(index * rows, min(n, (index + 1) * rows)))

    workers = min(threads.count(call.threads), -(-n // rows))
    with one_blas_thread:
        threads.run(worker, max(workers, 1), stop)


def _rows(call: Call) -> int:
    plan = call.plan
    widths = plan.sizes if plan.chain else plan.widths.values()  # a layer's z may take the place of its t
    return tile_rows(widths, call.dtype.itemsize)
