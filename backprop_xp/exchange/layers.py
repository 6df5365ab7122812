"""A graph that is layers one after another, as a :class:`~backprop_xp.Net` of the same Tensors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..graph import GraphNet
from ..net import Net


def is_layers(net: GraphNet) -> bool:
    """Whether each node takes the one before it alone, of which the second is linear."""
    others = net.nodes[1:]
    line = all(node.inputs == (before.name,) for before, node in pairwise(net.nodes))
    alone = all(node.operation.arity == 1 for node in others)
    return line and alone and bool(others) and others[0].form.is_linear


def as_net(graph: GraphNet) -> Net:
    """The Net of a graph that :func:`is_layers`."""
    linears: list[Any] = []
    functions: list[list[Any]] = []  # for each of these
    names: dict[str, str] = {}  # what the Net calls a node
    for node, after in zip(graph.nodes[1:], (*graph.nodes[2:], None)):
        if node.form.is_linear:
            names[node.name] = f"t{len(linears)}"
            linears.append(node.operation)
            functions.append([])
        else:
            last = after is None or after.form.is_linear
            names[node.name] = f"z{len(linears) - 1}" + ("" if last else f".{len(functions[-1])}")
            functions[-1].append(node.operation)
    net = Net(
        (graph.nodes[0].width, *(linear.features for linear in linears)),
        [own or None for own in functions],
        graph.loss,
        [linear.bias for linear in linears],
        graph.dtype,
        backend=graph.backend,
        init=lambda rng, shape: np.zeros(shape),
        reduction=graph.reduction,
        engine=graph.engine,
        threads=graph.threads,
    )
    owned = graph._tensors()
    places = ((names[node.name], owned.get(node.owner, {})) for node in graph.nodes[1:])
    net._take_in({f"{node}.{name}": tensor for node, tensors in places for name, tensor in tensors.items()})
    for name, tensor in net._by_place().items():
        tensor.name = name
    for name, tensor in graph.buffers.items():
        owner, _, kept = name.rpartition(".")
        net.buffers[f"{names[owner]}.{kept}"] = tensor
    net.seed, net.draws = graph.seed, graph.draws
    return net
