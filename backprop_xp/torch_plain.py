"""A net in PyTorch's own operations: what PyTorch can differentiate again, transform, and export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from .backend import Backend
from .operations import (
    Activate,
    Add,
    BatchNorm,
    Concatenate,
    Context,
    Dropout,
    LayerNorm,
    Linear,
    Multiply,
    Softmax,
    is_built_in,
)  # fmt: skip
from .plan.call import Parameters as Arrays
from .plan.plan import Node, Plan
from .torch_formulas import activate
from .torch_link import as_tensor

Parameters = Mapping[str, Mapping[str, torch.Tensor]]


class Plainly:
    """A net's plan, as functions of tensors.

    Args:
        plan: what the net computes.
        backend: that of its parameters.
        buffers: arrays by node and name.
        keys: of the nodes that draw, in training.
        activated: what computes f(t) of an activation and t.
    """

    def __init__(
        self,
        plan: Plan,
        backend: Backend,
        buffers: Arrays,
        training: bool = False,
        keys: Mapping[str, int] | None = None,
        activated: Any = activate,
    ) -> None:
        self._plan, self._backend, self._buffers = plan, backend, buffers
        self._training, self._keys, self._activated = training, keys or {}, activated

    def __call__(self, inputs: Mapping[str, torch.Tensor], parameters: Parameters) -> torch.Tensor:
        """The outputs, (..., out), from inputs (..., features) by name and parameters by node and name.

        Raises:
            TypeError: an operation or an activation is written in Python.
        """
        values = dict(inputs)
        for node in self._plan.nodes:
            if not node.form.is_input:
                values[node.name] = self._value(node, [values[n] for n in node.inputs], parameters.get(node.owner, {}))
        return values[self._plan.output.name]

    def _value(self, node: Node, z: Sequence[torch.Tensor], own: Mapping[str, torch.Tensor]) -> torch.Tensor:
        operation = node.operation
        if not is_built_in(operation):
            raise TypeError(f"node {node.name!r} is written in Python, of which PyTorch knows no second derivatives")
        match operation:
            case Linear():
                return functional.linear(z[0], own["weight"], own.get("bias"))
            case Activate():
                return self._activated(operation.activation, z[0])
            case Add():
                return reduce(torch.add, z)
            case Multiply():
                return reduce(torch.mul, z)
            case Concatenate():
                return torch.cat(list(z), -1)
            case LayerNorm():
                return functional.layer_norm(z[0], (node.width,), own["gain"], own["bias"], operation.eps)
            case Softmax():
                return torch.softmax(z[0], -1)
            case BatchNorm():
                return self._standardised(node, operation, z[0], own)
            case Dropout():
                return self._dropped(node, operation, z[0])
        raise TypeError(f"node {node.name!r} ({operation.name}) has no form in PyTorch's operations")

    def _standardised(
        self, node: Node, operation: BatchNorm, z: torch.Tensor, own: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        if self._training:
            centred = z - z.mean(0)
            variance = (centred * centred).mean(0)
        else:
            kept = self._buffers[node.name]
            mean, variance = (as_tensor(kept[name], self._backend) for name in operation.constants)
            centred = z - mean
        return centred * torch.rsqrt(variance + operation.eps) * own["gain"] + own["bias"]

    def _dropped(self, node: Node, operation: Dropout, z: torch.Tensor) -> torch.Tensor:
        key = self._keys.get(node.name)
        if not self._training or key is None:
            return z
        dtype = np.dtype(str(z.dtype).removeprefix("torch."))
        context = Context(node.name, self._backend.xp, dtype, (len(z), node.width), True, {}, key, 0)
        given = operation.from_context(context)
        return z * as_tensor(given["kept"], self._backend) if "kept" in given else z
