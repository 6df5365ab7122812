"""How far the numbers of a call may be off because they are rounded: what the proof of gradients allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import GraphNet, LayerNorm, Linear
from .net import Net
from .tensor import Tensor

EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}


@dataclass(frozen=True)
class Computed:
    """What the value of a layer, or of a node, was computed from in a call.

    Attributes:
        largest: the largest sum of absolute values among those that its numbers are sums of.
        steepness: by how much it multiplies small differences, where it normalises; 1 elsewhere.
    """

    largest: float
    steepness: float = 1.0


def computed(net: Net | GraphNet, inputs: Mapping[str, Any]) -> list[Computed]:
    """Every layer, or node, of the call with these inputs, whose signals the net has kept, on NumPy."""
    with np.errstate(all="ignore"):
        return list(_of_graph(net) if isinstance(net, GraphNet) else _of_chain(net, inputs["x"]))


def forward_error(dtype: np.dtype, found: Sequence[Computed]) -> float:
    """How far gradients in this dtype may be off, relative to their size: 100 eps times what the layers sum.

    t = W z + b carries an error of some eps (|W| |z| + |b|), through which the derivative f'(t) and everything
    after it move; the largest of these sums is taken, 1 if they are smaller. So it is with other nodes of a graph.
    """
    return 100 * EPS[dtype.name] * max([1.0, *(one.largest for one in found)])


def _of_chain(net: Net, x: Any) -> Iterator[Computed]:
    befores = [x, *(z.data for z in net.nonlinear_outputs)]
    for (weight, bias, _), z in zip(net.layers, befores):
        yield _linear(weight, bias, z)


def _of_graph(net: GraphNet) -> Iterator[Computed]:
    for node in net.nodes:
        values = [net.signals[name].data for name in node.inputs]
        if isinstance(node.operation, Linear):
            yield _linear(net.tensors[f"{node.owner}.weight"], net.tensors.get(f"{node.owner}.bias"), values[0])
        elif isinstance(node.operation, LayerNorm):
            scale = 1 / np.sqrt(values[0].var(axis=-1, keepdims=True) + node.operation.eps)
            yield Computed(_most(scale * values[0]), max(1.0, _most(scale)))
        else:
            yield Computed(max(sum(map(_most, values)), _most(net.signals[node.name].data)))


def _linear(weight: Tensor, bias: Tensor | None, z: Any) -> Computed:
    return Computed(_most(np.abs(z) @ np.abs(weight.data).T + (0.0 if bias is None else np.abs(bias.data))))


def _most(array: Any) -> float:
    return float(np.max(np.abs(array), initial=0))
