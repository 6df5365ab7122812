"""The cooperative engine for graphs that are no chains: a tile of samples goes through all nodes in shared memory.

The steps are those of the CPU's pass over graphs (programs/block_graph.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...backend import Array
from ...plan import cost
from ...plan.call import Call
from ...plan.devices import device
from ...programs import arguments, block, block_graph, structs


def why_not(call: Call) -> str:
    """What of the graph can't be compiled or takes too long to compile, or that its values don't fit."""
    if len(call.plan.nodes) > block_graph.MOST_NODES:
        return f"it has {len(call.plan.nodes)} nodes, and compiling more than {block_graph.MOST_NODES} takes too long"
    reason = arguments.node_in_python(call) or arguments.loss_in_python(call.loss) or arguments.too_many_scalars(call)
    if reason:
        return reason
    limit = block.shared_limit(call.backend.device)
    if not block_graph.tilings(arguments.graph_shape(call), call.plan.nodes, limit):
        return f"the values of a few samples don't fit the {limit >> 10} KiB of shared memory that a block may have"
    return ""


def seconds(call: Call, chunk: int) -> float:
    """What a call that it doesn't refuse is estimated to take."""
    ways = block_graph.tilings(arguments.graph_shape(call), call.plan.nodes, block.shared_limit(call.backend.device))
    return cost.cooperative(call, device(call.backend.device), ways[0].rows, chunk)


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
