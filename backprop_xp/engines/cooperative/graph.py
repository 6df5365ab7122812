"""The cooperative engine for graphs that are no chains: a tile of samples goes through all nodes in shared memory.

The steps are those of the CPU's pass over graphs (programs/block_graph.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...backend import Array
from ...plan import cost
from ...plan.call import Call
from ...plan.devices import device
from ...programs import arguments, block, block_graph, graph_source, structs


def why_not(call: Call) -> str:
    """What of the graph can't be compiled or takes too long to compile, or that its values don't fit."""
    if len(call.plan.nodes) > block_graph.MOST_NODES:
        return f"it has {len(call.plan.nodes)} nodes, and compiling more than {block_graph.MOST_NODES} takes too long"
    reason = arguments.node_in_python(call, whole_batch=True) or arguments.loss_in_python(call.loss)
    if reason := reason or arguments.too_many_scalars(call) or _too_few_samples(call):
        return reason
    if not fits(call, "float32"):
        limit = block.shared_limit(call.backend.device)
        return f"the values of a few samples don't fit the {limit >> 10} KiB of shared memory that a block may have"
    return ""


def fits(call: Call, precision: str) -> bool:
    """Whether the values of a few samples fit a block's shared memory if products are of this precision."""
    return all(_ways(call, precision).stages)


def _too_few_samples(call: Call) -> str:
    fewest = max(node.form.fewest_samples for node in call.plan.nodes) if call.training else 1
    return f"it needs {fewest} samples in training" if call.samples < fewest else ""


def seconds(call: Call, chunk: int, precision: str) -> float:
    """What a call that it doesn't refuse is estimated to take, with products of this precision."""
    ways, on = _ways(call, precision), device(call.backend.device)
    rows = min(stage[0].rows for stage in ways.stages)
    between = cost.between_launches(call, on, len(ways.stages), ways.kept)
    return cost.cooperative(call, on, rows, chunk, precision) + between


def kept(call: Call) -> int:
    """Numbers of a sample that one launch leaves to another."""
    return _ways(call, "float32").kept


def _ways(call: Call, precision: str) -> block_graph.Ways:
    limit = block.shared_limit(call.backend.device)
    return block_graph.tilings(shape(call, precision), call.plan.nodes, limit)


def compiled(call: Call, precision: str) -> block_graph.Compiled:
    """The kernels of a graph, with what they are given of its parameters and buffers. Raises CompileError."""
    nodes = call.plan.nodes
    pass_ = block_graph.program(shape(call, precision), nodes)
    names, contiguous = pass_.packing.names(nodes), call.backend.xp.ascontiguousarray
    owned = {node: {**call.parameters.get(node, {}), **call.buffers.get(node, {})} for node, _ in names}
    return block_graph.Compiled(
        pass_.programs,
        pass_.stages,
        [contiguous(owned[node][name]) for node, name in names],
        names,
        pass_.packing.grads,
        places(call, pass_.packing),
        pass_.changed,
        pass_.kept,
    )


def between(kept: Array, first: int, totals: Array | None, samples: int) -> Any:
    """``bpx::Between`` of a launch that begins with sample ``first`` of the batch's ``samples``."""
    totals_at = None if totals is None else totals.data.ptr
    return structs.Between(kept=kept.data.ptr + first * kept.itemsize, totals=totals_at, samples=samples)


def inputs(call: Call, grads: Mapping[str, Array]) -> list[Any]:
    """``bpx::GraphInput`` of every input, whose gradient goes to ``grads`` if there are any."""
    found = []
    for name, x in call.inputs.items():
        given = structs.GraphInput(grad=grads[name].data.ptr if grads else None)
        arguments.place(given, "x", x, "row", "column")
        found.append(given)
    return found


def keys(call: Call) -> list[np.uint64]:
    """Of the nodes that draw: where in their sequence the call's first sample draws."""
    return [np.uint64(key) for key in call.keys_from_first]


def places(call: Call, packing: block_graph.BlockPacking) -> list[list[slice]]:
    """Where among the pass's gradients those of each of the call's parameters lie; several if it is shared."""
    found: dict[tuple[str, str], list[slice]] = {}
    for key, at in packing.gradients(call.plan.nodes):
        found.setdefault(key, []).append(at)
    return [found[node, name] for node, own in call.parameters.items() for name in own]


def shape(call: Call, precision: str) -> graph_source.Shape:
    """What the kernels are compiled for."""
    whole_batch = call.training and any(node.form.of_batch for node in call.plan.nodes)
    return replace(arguments.graph_shape(call), whole_batch=whole_batch, precision=precision)
