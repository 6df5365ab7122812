"""The tiled engine for graphs: the loops of graph/passes.py over tiles of the batch, on worker threads."""

from __future__ import annotations

import numpy as np

from .. import scope, threads
from ..backend import Array
from ..graph.call import GraphCall, GraphGradients
from ..programs.elementwise import compiled
from ..sums.tree import ChunkTree
from ..workspace import recycled
from . import graph_layered, tiled


def refuses(call: GraphCall) -> str:
    """It runs batches on the CPU, of operations that work sample by sample."""
    return "it runs on the CPU" if call.backend.on_gpu else scope.of_graph(call.nodes, call.loss)


def intermediate_bytes(call: GraphCall) -> int:
    """Every value and gradient of one tile a thread, and the partial sums."""
    tile = 2 * _tile_rows(call) * sum(call.widths.values())
    sums = 2 * sum(a.size for own in call.parameters.values() for a in own.values())
    return threads.count(call.threads) * (tile + sums) * call.dtype.itemsize


def forward(call: GraphCall) -> tuple[Array, None]:
    """The output."""
    output = np.empty((call.samples, call.output_width), call.dtype)

    def tile(index: int, rows: slice) -> None:
        part = call.rows(rows)
        with recycled(graph_layered.may_recycle(part)), compiled():
            output[rows] = graph_layered.forward(part)[0]

    tiled.each_tile(call.samples, _tile_rows(call), call.threads, tile)
    return output, None


def loss_and_grad(call: GraphCall) -> GraphGradients:
    """The loss and the gradients of all parameters."""
    tree: ChunkTree[tiled.Partial] = ChunkTree()
    grad_inputs = {name: np.empty_like(x) for name, x in call.inputs.items()} if call.input_grad else {}

    def tile(index: int, rows: slice) -> None:
        with compiled():
            gradients = graph_layered.loss_and_grad(call.rows(rows))
        for name, whole in grad_inputs.items():
            whole[rows] = gradients.inputs[name]
        tree.add(index, tiled.Partial(float(gradients.loss), gradients.parameters))

    tiled.each_tile(call.samples, _tile_rows(call), call.threads, tile)
    total = tree.total()
    assert total is not None
    return GraphGradients(total.arrays, grad_inputs, call.dtype.type(total.loss))


def _tile_rows(call: GraphCall) -> int:
    return tiled.tile_rows(tuple(call.widths.values()), call.dtype.itemsize)
