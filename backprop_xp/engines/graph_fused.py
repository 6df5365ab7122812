"""The fused engine for graphs: forward, loss and backward of all nodes in one compiled pass over a tile of samples.

A graph that is a chain is run as one. As for wide chains, the batch is cut into fixed logical chunks, whose sums are
added in a fixed tree: the same bits for any number of threads.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .. import threads
from ..backend import Array
from ..graph.call import GraphCall, GraphGradients
from ..graph.operations import Activate, is_built_in
from ..graph.passes import layers
from ..programs import arguments, graph_source
from ..programs import graph as programs
from ..programs.elementwise import name_of
from ..programs.structs import GraphArgs
from ..sums.chunks import each_chunk
from ..sums.tree import ChunkTree
from ..toolchain import compiler
from . import module
from .call import Call


def refuses(call: GraphCall) -> str:
    """It runs graphs of built-in operations and formulas where there is a compiler."""
    chain = as_chain(call)
    if chain is not None:
        return module("fused", chain).refuses(chain)
    if call.backend.on_gpu:
        return "it runs on the CPU"
    if sum(call.widths.values()) > programs.MOST_WIDTH:
        return f"the nodes are together wider than {programs.MOST_WIDTH}"
    if len(call.nodes) > programs.MOST_NODES:
        return f"it has {len(call.nodes)} nodes, and compiling more than {programs.MOST_NODES} takes too long"
    for node in call.nodes:
        if type(node.operation) not in graph_source.COMPILED or not is_built_in(node.operation):
            return f"node {node.name!r} is written in Python"
        if isinstance(node.operation, Activate) and not getattr(node.operation.activation, "is_formula", False):
            return f"the activation of node {node.name!r} is written in Python"
    return arguments.loss_in_python(call.loss) or compiler.missing()


def intermediate_bytes(call: GraphCall) -> int:
    """A megabyte or so of values a thread, the packed parameters, and the sums of a few chunks."""
    chain = as_chain(call)
    if chain is not None:
        return module("fused", chain).intermediate_bytes(chain)
    return threads.count(call.threads) * graph_source.TILE_BYTES + 8 * _parameters(call) * call.dtype.itemsize


def forward(call: GraphCall) -> tuple[Array, None]:
    """The output."""
    chain = as_chain(call)
    if chain is not None:
        return module("fused", chain).forward(chain)[0], None
    program = _program(call, None)
    output = np.empty((call.samples, call.output_width), call.dtype)
    held: list[Any] = []
    args = _arguments(call, program, held)
    args.wide.output = arguments.address(output, held)

    def chunk(index: int, first: int, count: int, memory: int) -> None:
        program.run(ctypes.addressof(args), first, count, memory, None)

    each_chunk(call, args.wide, program.rows, program.memory, chunk)
    return output, None


def loss_and_grad(call: GraphCall) -> GraphGradients:
    """The loss and the gradients of all parameters."""
    chain = as_chain(call)
    if chain is not None:
        return _of_chain(call, chain)
    program = _program(call, arguments.loss_key(call))
    held: list[Any] = []
    args = _arguments(call, program, held)
    arguments.add_targets(args.wide, call, held)
    grad_inputs = {name: np.empty(x.shape, call.dtype) for name, x in call.inputs.items()} if call.input_grad else {}
    args.x_grad = _addresses([arguments.address(a, held) for a in grad_inputs.values()], held)
    sums: ChunkTree[np.ndarray] = ChunkTree()
    losses: ChunkTree[np.ndarray] = ChunkTree()

    def chunk(index: int, first: int, count: int, memory: int) -> None:
        grads = np.empty(program.packing.grads, call.dtype)
        loss = program.run(ctypes.addressof(args), first, count, memory, grads.__array_interface__["data"][0])
        sums.add(index, grads)
        losses.add(index, np.array([loss]))

    each_chunk(call, args.wide, program.rows, program.memory, chunk)
    packed, loss = sums.total(), losses.total()
    assert packed is not None and loss is not None
    own = program.packing.unpack(call.nodes, call.parameters, packed, program.panel, program.weight_rows)
    return GraphGradients(own, grad_inputs, call.dtype.type(loss[0] * call.scale))


def as_chain(call: GraphCall) -> Call | None:
    """The call of the chain that this graph is, None if it is none that a Net could be, or one too deep for it."""
    if len(call.steps) != 1 or not call.steps[0].chain:
        return None
    chain = layers(call.steps[0], call.parameters)
    owners = {linear.owner for linear, _ in call.steps[0].chain}
    if len(owners) != len(chain):
        return None
    (x,) = call.inputs.values()
    return Call(
        call.backend, call.dtype, chain, x, call.loss, call.y, call.weight, call.scale, call.input_grad,
        threads=call.threads,
    )  # fmt: skip


def _of_chain(call: GraphCall, chain: Call) -> GraphGradients:
    found = module("fused", chain).loss_and_grad(chain)
    own = [array for pair in zip(found.weights, found.biases) for array in pair if array is not None]
    return GraphGradients(own, dict.fromkeys(call.inputs, found.x) if call.input_grad else {}, found.loss)


def _program(call: GraphCall, loss: Any) -> programs.Program:
    factors = loss is not None and (call.weight is not None or call.scale != 1.0)
    input_grad = loss is not None and call.input_grad
    shape = graph_source.shape_of(call.nodes, name_of(call.dtype), loss, factors, input_grad, bool(call.keys))
    return programs.program(shape, call.nodes)


def _arguments(call: GraphCall, program: programs.Program, held: list[Any]) -> Any:
    args = GraphArgs()
    args.held = held  # the work holds args
    packed = program.packing.pack(call.nodes, call.parameters, call.dtype, program.panel)
    args.wide.params = arguments.address(packed, held)
    activations: list[Any] = [node.operation.activation for node in call.nodes if isinstance(node.operation, Activate)]
    scalars = [number for activation in activations for number in activation.parameters]
    scalars += getattr(call.loss, "parameters", ())
    args.wide.scalars = arguments.address(np.array(scalars or [0.0], call.dtype), held)
    inputs = [arguments.readable(x) for x in call.inputs.values()]
    strides = [arguments.stride(x, axis) for x in inputs for axis in (0, 1)]
    args.x = _addresses([arguments.address(x, held) for x in inputs], held)
    args.strides = _addresses(strides, held)
    args.keys = arguments.address(np.array([*call.keys.values(), 0], np.uint64), held)
    return args


def _addresses(numbers: list[int], held: list[Any]) -> int:
    return arguments.address(np.array([*numbers, 0], np.int64), held)


def _parameters(call: GraphCall) -> int:
    return sum(array.size for own in call.parameters.values() for array in own.values())
