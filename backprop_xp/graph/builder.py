"""Writing a graph down step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from ..activations import Activation
from ..literals import ActivationName, JoinName, LayerName
from ..operations import BatchNorm, Chain, Dropout, Input, LayerNorm, Linear, Operation, as_operation
from .net import GraphNet, Options

#: What a node computes.
Function = ActivationName | LayerName | JoinName | Activation | Operation


@dataclass(frozen=True)
class Handle:
    """A node of a graph that is being built. Handles can be added and multiplied."""

    graph: Graph
    name: str

    def __add__(self, other: Handle) -> Handle:
        return self.graph.add(self, other)

    def __mul__(self, other: Handle) -> Handle:
        return self.graph.multiply(self, other)


class Graph:
    """A graph in the making.

        g = Graph()
        x = g.input(64)
        h = g.apply("tanh", g.linear(x, 64))
        net = g.net(g.linear(h + x, 10), loss="softmax_cross_entropy")

    Every method returns a handle, which others take. Without a ``name`` a node is called after its operation and
    numbered. ``description`` is the mapping that :class:`GraphNet` takes.
    """

    def __init__(self) -> None:
        self.description: dict[str, tuple[Any, ...]] = {}

    def input(self, features: int, name: str | None = None) -> Handle:
        """An input of the net."""
        return self.apply(Input(features), name=name)

    def linear(
        self, x: Handle, features: int, bias: bool = True, share: Handle | None = None, name: str | None = None
    ) -> Handle:
        """W x + b; with ``share`` the W and b of another linear node."""
        other = None if share is None else self._name(share)
        return self.apply(Linear(features, bias, other), x, name=name)

    def add(self, *inputs: Handle, name: str | None = None) -> Handle:
        """The sum."""
        return self.apply("add", *inputs, name=name)

    def multiply(self, *inputs: Handle, name: str | None = None) -> Handle:
        """The product, element by element."""
        return self.apply("multiply", *inputs, name=name)

    def concatenate(self, *inputs: Handle, name: str | None = None) -> Handle:
        """The features side by side."""
        return self.apply("concatenate", *inputs, name=name)

    def dropout(self, x: Handle, p: float = 0.5, name: str | None = None) -> Handle:
        """Some numbers set to 0, in training."""
        return self.apply(Dropout(p), x, name=name)

    def layer_norm(self, x: Handle, eps: float = 1e-5, name: str | None = None) -> Handle:
        """Each sample's features brought to mean 0 and variance 1."""
        return self.apply(LayerNorm(eps), x, name=name)

    def batch_norm(self, x: Handle, eps: float = 1e-5, momentum: float = 0.1, name: str | None = None) -> Handle:
        """Each feature brought to mean 0 and variance 1 over the batch, in training, else by running ones."""
        return self.apply(BatchNorm(eps, momentum), x, name=name)

    def chain(self, x: Handle, *steps: Function, name: str | None = None) -> Handle:
        """Operations one after another; a :class:`Residual` may be one."""
        return self.apply(Chain(*steps), x, name=name)

    def apply(self, operation: Function, *inputs: Handle, name: str | None = None) -> Handle:
        """Any operation: an object, or a name such as "tanh"."""
        operation = as_operation(operation)
        name = self._new_name(operation) if name is None else name
        if name in self.description:
            raise ValueError(f"two nodes are called {name!r}")
        self.description[name] = (operation, *map(self._name, inputs))
        return Handle(self, name)

    def net(self, output: Handle, **options: Unpack[Options]) -> GraphNet:
        """The net with this output; options are GraphNet's."""
        return GraphNet(self.description, self._name(output), **options)

    def _name(self, handle: Handle) -> str:
        if not isinstance(handle, Handle) or handle.graph is not self:
            raise TypeError(f"a node's inputs must be handles of the same graph, got {handle!r}")
        return handle.name

    def _new_name(self, operation: Operation) -> str:
        base = operation.name or type(operation).__name__.lower()
        number = 0
        while (name := f"{base}{number}") in self.description:
            number += 1
        return name

    def __repr__(self) -> str:
        return f"Graph({len(self.description)} nodes)"
