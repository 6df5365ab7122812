"""A graph that is layers one after another, as a :class:`~backprop_xp.Net` of the same Tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..graph import GraphNet, Linear
from ..net import Net


def is_layers(net: GraphNet) -> bool:
    """Whether each node takes the one before it alone, of which the second is linear, and none shares parameters."""
    others = net.nodes[1:]
    line = all(node.inputs == (before.name,) for before, node in pairwise(net.nodes))
    alone = all(node.owner == node.name and node.operation.arity == 1 for node in others)
    return line and alone and bool(others) and isinstance(others[0].operation, Linear)


def as_net(graph: GraphNet) -> Net:
    """The Net of a graph that :func:`is_layers`."""
    layers: list[tuple[Linear, list[Any]]] = []
    for node in graph.nodes[1:]:
        if isinstance(node.operation, Linear):
            layers.append((node.operation, []))
        else:
            layers[-1][1].append(node.operation)
    net = Net(
        (graph.nodes[0].width, *(linear.features for linear, _ in layers)),
        [functions or None for _, functions in layers],
        graph.loss,
        [linear.bias for linear, _ in layers],
        graph.dtype,
        rng=0,
        backend=graph.backend,
        reduction=graph.reduction,
        engine=graph.engine,
        threads=graph.threads,
    )
    names = dict(zip((node.name for node in graph.nodes), net._plan().widths))
    net._take_in(
        {f"{names[node]}.{name}": tensor for node, own in graph._tensors().items() for name, tensor in own.items()}
    )
    for name, tensor in graph.buffers.items():
        owner, _, own = name.rpartition(".")
        net.buffers[f"{names[owner]}.{own}"] = tensor
    net.seed, net.draws = graph.seed, graph.draws
    return net
