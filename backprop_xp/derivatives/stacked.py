"""Nets as compiled equations take them: layers in a row, to which signals of earlier layers may be added.

That is a chain, and a graph of residual blocks: z = f(W z_below + b) + z_earlier, or z = f(W z_below + b + z_earlier).
"""

from __future__ import annotations

from typing import NamedTuple

from ..backend import Array
from ..operations import Activate, Add
from ..passes.article import Layer
from ..plan.call import as_layers
from ..plan.plan import IDENTITY, Step
from .differentiable import Differentiable
from .graph import Steps
from .loops import Chain


class Skip(NamedTuple):
    """What is added to a layer.

    Attributes:
        source: the number of an earlier layer, whose z it is; -1 for x.
        before: whether it is added to t, before the activation, and not to f(t).
    """

    source: int
    before: bool


class Stacked(NamedTuple):
    """Layers in a row.

    Attributes:
        layers: of the net as it is now.
        skips: what is added to each.
        places: of each gradient in the order of the net's parameters, its number layer by layer; None for that order.
    """

    layers: list[Layer]
    skips: list[Skip | None]
    places: list[int] | None = None

    def in_order(self, gradients: list[Array]) -> list[Array]:
        """The gradients of every layer's weight and bias, as the net has its parameters."""
        return gradients if self.places is None else [gradients[place] for place in self.places]


class NotStacked(ValueError):
    """A graph is more than layers in a row and sums."""


def stacked(net: Differentiable) -> Stacked:
    """The net's layers. Raises NotStacked."""
    if isinstance(net, Chain):
        return Stacked(net.layers, [None] * len(net.layers))
    if not isinstance(net, Steps) or len(net.call.plan.inputs) != 1:
        raise NotStacked("it has several inputs")
    rows = _Rows(net)
    for step in net.call.plan.steps:
        rows.take(step)
    return rows.found()


class _Rows:
    """The steps of a graph, put in a row."""

    def __init__(self, net: Steps) -> None:
        self._call = net.call
        (self._last,) = net.call.plan.inputs
        self._at = {self._last: -1}  # the layer whose z is the value of this name
        self._layers: list[Layer] = []
        self._skips: list[Skip | None] = []
        self._owners: list[str] = []

    def take(self, step: Step) -> None:
        node = step.node
        if node is None:
            self._extend(step)
        elif type(node.operation) is Add and len(step.inputs) == 2:
            self._add(step)
        elif type(node.operation) is Activate and self._is_bare(step.inputs[0]):
            self._layers[-1] = self._layers[-1]._replace(activation=node.operation.activation)
            self._rename(step.output)
        else:
            raise NotStacked(f"node {node.name!r} is neither a layer nor a sum of two")

    def found(self) -> Stacked:
        if not self._layers or self._last != self._call.plan.output.name:
            raise NotStacked("its output is no layer's")
        if len(set(self._owners)) < len(self._owners):
            raise NotStacked("layers share parameters")
        parameters = self._call.parameters
        names = [(owner, name) for owner in self._owners for name in parameters[owner]]
        places = [names.index((owner, name)) for owner, own in parameters.items() for name in own]
        return Stacked(self._layers, self._skips, places)

    def _extend(self, step: Step) -> None:
        if step.inputs[0] != self._last:
            raise NotStacked(f"{step.chain[0][0].name!r} doesn't follow what is before it")
        layers = as_layers(step.chain, self._call.parameters)
        self._layers += layers
        self._skips += [None] * len(layers)
        self._owners += [linear.owner for linear, _ in step.chain]
        self._last = step.output
        self._at[self._last] = len(self._layers) - 1

    def _add(self, step: Step) -> None:
        others = [name for name in step.inputs if name != self._last]
        if len(others) != 1 or others[0] not in self._at or not self._layers or self._skips[-1] is not None:
            raise NotStacked(f"{step.output!r} adds something other than a layer and an earlier one")
        self._skips[-1] = Skip(self._at[others[0]], self._layers[-1].activation is IDENTITY)
        self._rename(step.output)

    def _is_bare(self, name: str) -> bool:
        """Whether it is the sum of a layer without an activation and something earlier."""
        return name == self._last and bool(self._layers) and self._layers[-1].activation is IDENTITY

    def _rename(self, name: str) -> None:
        """The last layer's z is this from now on, and what it was before is nowhere."""
        del self._at[self._last]
        self._at[name] = len(self._layers) - 1
        self._last = name
