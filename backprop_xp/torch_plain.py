"""A net in PyTorch's own operations: what PyTorch can differentiate again, transform, and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .backend import Backend
from .operations import Context, Operation, is_built_in
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
        if not is_built_in(node.operation):
            what = f"node {node.name!r} is written in Python"
            raise TypeError(f"{what}, of which PyTorch knows no second derivatives and exports no form")
        buffers, key = self._buffers.get(node.name, {}), self._keys.get(node.name) if self._training else None
        maker = Maker(torch, self._activated, node, self._backend, self._training, buffers, key)
        value = node.form.in_torch(maker, z, own)
        if value is None:
            raise TypeError(f"node {node.name!r} ({node.operation.name}) has no form in PyTorch's operations")
        return value


class Maker(NamedTuple):
    """What an operation computes its value with, at a node.

    Attributes:
        torch: PyTorch, which operations don't import.
        activation: computes f(t) of an activation and t.
        training: whether the call trains.
    """

    torch: Any
    activation: Callable[[Any, torch.Tensor], torch.Tensor]
    node: Node
    backend: Backend
    training: bool
    buffers: Mapping[str, Any]
    key: int | None

    def add(self, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """What a function gives."""
        return function(*args)

    def buffer(self, name: str) -> torch.Tensor:
        """One of the node's buffers."""
        return as_tensor(self.buffers[name], self.backend)

    def drawn(self, operation: Operation, z: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the operation draws for this input in training, by name; nothing in use."""
        if self.key is None:
            return {}
        dtype = np.dtype(str(z.dtype).removeprefix("torch."))
        context = Context(self.node.name, self.backend.xp, dtype, (len(z), self.node.width), True, {}, self.key, 0)
        return {name: as_tensor(array, self.backend) for name, array in operation.from_context(context).items()}
