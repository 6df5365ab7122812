"""How far the numbers of a call may be off because they are rounded: what the proof of gradients allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .model import Model
from .operations.rounded import Computed

EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}


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
    plan, own = net._plan(), net._arrays()
    found = {**inputs, **{name: tensor.data for name, tensor in net._signals().items()}}
    for node in plan.nodes:
        if not (plan.layered and (node.form.functions or node.form.is_input)):
            values = [found[name] for name in node.inputs]
            yield node.form.computed(found[node.name], values, own.get(node.owner, {}))
