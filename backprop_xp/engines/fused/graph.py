"""The fused pass for a graph that is no chain: all nodes in one compiled pass over a tile of samples.

The batch is cut into fixed logical chunks, whose sums are added in a fixed tree.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ... import threads
from ...backend import Array
from ...plan.call import Call, Result
from ...programs import arguments, graph_source, structs
from ...programs import graph as programs
from ...sums.chunks import each_chunk
from ...sums.tree import ChunkTree


def why_not(call: Call) -> str:
    """What of the graph can't be compiled, or takes too long to compile."""
    plan = call.plan
    if sum(plan.widths.values()) > programs.MOST_WIDTH:
        return f"the nodes are together wider than {programs.MOST_WIDTH}"
    if len(plan.nodes) > programs.MOST_NODES:
        return f"it has {len(plan.nodes)} nodes, and compiling more than {programs.MOST_NODES} takes too long"
    return arguments.node_in_python(call) or arguments.loss_in_python(call.loss)


def intermediate_bytes(call: Call) -> int:
    """A megabyte or so of values a thread, the packed parameters, and the sums of a few chunks."""
    return threads.count(call.threads) * graph_source.TILE_BYTES + 8 * call.numbers * call.dtype.itemsize


def forward(call: Call) -> Array:
    """The output (n, out)."""
    program = programs.program(arguments.graph_shape(call), call.plan.nodes)
    output = np.empty(call.output_shape, call.dtype)
    held: list[Any] = []
    args = _arguments(call, program, held)
    args.wide.output = arguments.address(output, held)

    def chunk(index: int, first: int, count: int, memory: int) -> None:
        program.run(ctypes.addressof(args), first, count, memory, None)

    each_chunk(call, args.wide, program.rows, program.memory, chunk)
    return output


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    program = programs.program(arguments.graph_shape(call), call.plan.nodes)
    held: list[Any] = []
    args = _arguments(call, program, held)
    arguments.add_targets(args.wide, call, held)
    grad_inputs = {name: np.empty(x.shape, call.dtype) for name, x in call.inputs.items()} if call.input_grad else {}
    args.x_grad = _addresses([arguments.address(a, held) for a in grad_inputs.values()], held)
    sums: ChunkTree[np.ndarray] = ChunkTree()
    losses: ChunkTree[np.ndarray] = ChunkTree()

    def chunk(index: int, first: int, count: int, memory: int) -> None:
        grads = np.empty(program.packing.grads, call.dtype)
        loss = program.run(ctypes.addressof(args), first, count, memory, structs.address(grads))
        sums.add(index, grads)
        losses.add(index, np.array([loss]))

    each_chunk(call, args.wide, program.rows, program.memory, chunk)
    packed, loss = sums.total(), losses.total()
    assert packed is not None and loss is not None
    own = program.packing.unpack(call.plan.nodes, call.parameters, packed, program.panel, program.weight_rows)
    return Result(own, grad_inputs, call.dtype.type(loss[0] * call.scale))


def _arguments(call: Call, program: programs.Program, held: list[Any]) -> Any:
    args = structs.GraphArgs()
    args.held = held  # the work holds args
    nodes = call.plan.nodes
    buffers = {node: {**call.parameters[node], **arrays} for node, arrays in call.buffers.items()}
    packed = program.packing.pack(nodes, {**call.parameters, **buffers}, call.dtype, program.panel)
    args.wide.params = arguments.address(packed, held)
    args.wide.scalars = arguments.address(np.array(arguments.scalars(call) or [0.0], call.dtype), held)
    inputs = [arguments.readable(x) for x in call.inputs.values()]
    strides = [arguments.stride(x, axis) for x in inputs for axis in (0, 1)]
    args.x = _addresses([arguments.address(x, held) for x in inputs], held)
    args.strides = _addresses(strides, held)
    args.keys = arguments.address(np.array([*call.keys_from_first, 0], np.uint64), held)
    return args


def _addresses(numbers: list[int], held: list[Any]) -> int:
    return arguments.address(np.array([*numbers, 0], np.int64), held)
