"""How far the numbers of a call may be off because they are rounded: what the proof of gradients allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import BatchNorm, LayerNorm, Linear
from .model import Model
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


def computed(net: Model, inputs: Mapping[str, Any]) -> list[Computed]:
    """Every layer, or node, of the call with these inputs, whose signals the net has kept, on NumPy."""
    with np.errstate(all="ignore"):
        return list(_computed(net, inputs))


def forward_error(dtype: np.dtype, found: Sequence[Computed]) -> float:
    """How far gradients in this dtype may be off, relative to their size: 100 eps times what the layers sum.

    t = W z + b carries an error of some eps (|W| |z| + |b|), through which the derivative f'(t) and everything
    after it move; the largest of these sums is taken, 1 if they are smaller. So it is with other nodes of a graph.
    """
    return 100 * EPS[dtype.name] * max([1.0, *(one.largest for one in found)])


def _computed(net: Model, inputs: Mapping[str, Any]) -> Iterator[Computed]:
    plan, own = net._plan(), net._tensors()
    found = {**inputs, **{name: tensor.data for name, tensor in net._signals().items()}}
    for node in plan.nodes:
        values = [found[name] for name in node.inputs]
        if isinstance(node.operation, Linear):
            yield _linear(own[node.owner]["weight"], own[node.owner].get("bias"), values[0])
        elif isinstance(node.operation, (LayerNorm, BatchNorm)):
            over = -1 if isinstance(node.operation, LayerNorm) else 0
            scale = 1 / np.sqrt(values[0].var(axis=over, keepdims=True) + node.operation.eps)
            yield Computed(_most(scale * values[0]), max(1.0, _most(scale)))
        elif not (plan.layered and (node.form.functions or node.form.is_input)):
            yield Computed(max(sum(map(_most, values)), _most(found[node.name])))


def _linear(weight: Tensor, bias: Tensor | None, z: Any) -> Computed:
    return Computed(_most(np.abs(z) @ np.abs(weight.data).T + (0.0 if bias is None else np.abs(bias.data))))


def _most(array: Any) -> float:
    return float(np.max(np.abs(array), initial=0))
