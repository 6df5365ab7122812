"""What an engine is asked to do with a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..backend import Array, Backend
from .description import Node

if TYPE_CHECKING:
    from .passes import Step


@dataclass
class GraphCall:
    """One batch for one graph. All arrays are checked, of the net's dtype and on its backend.

    Attributes:
        nodes, steps: in topological order, the output last.
        parameters: of every node that has its own: their names and arrays.
        inputs: (n, features) for each input node; one sample is a batch of one.
        training: whether dropout drops, and batch normalisation looks at the batch.
        buffers: of every node that has some: their names and arrays.
        new_buffers: what takes their place after the call; layered fills it in training.
        keys: of the nodes that draw, in training, see :mod:`backprop_xp.operations.draws`.
        first: the number of the first row in the whole batch.
        single: whether it is one sample.
        loss, y, weight, scale, input_grad, keep_signals, threads: as in :class:`backprop_xp.engines.Call`.
    """

    backend: Backend
    dtype: np.dtype
    nodes: tuple[Node, ...]
    steps: tuple[Step, ...]
    parameters: Mapping[str, Mapping[str, Array]]
    inputs: Mapping[str, Array]
    training: bool = False
    buffers: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    new_buffers: dict[str, Mapping[str, Array]] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    first: int = 0
    single: bool = False
    loss: Any = None
    y: Array | None = None
    weight: Array | None = None
    scale: float = 1.0
    input_grad: bool = False
    keep_signals: bool = False
    threads: int | None = None

    is_graph: ClassVar[bool] = True
    whole: ClassVar[bool] = True  # it is not computed in pieces

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def output(self) -> str:
        """The name of the node whose value the call is after."""
        return self.nodes[-1].name

    @property
    def output_width(self) -> int:
        return self.nodes[-1].width

    @cached_property
    def widths(self) -> dict[str, int]:
        """Features of every node's value."""
        return {node.name: node.width for node in self.nodes}

    @cached_property
    def multiply_adds(self) -> int:
        """Of one sample's matrix products."""
        total = 0
        wanted: dict[str, int] = {}  # how many features of a value need gradients
        for node in self.nodes:
            form, below = node.form, sum([wanted[name] for name in node.inputs])
            if node.inputs:
                total += form.multiply_adds(self.widths[node.inputs[0]], below)
            whole = node.owner in self.parameters or (form.is_input and self.input_grad) or (below and not form.joins)
            wanted[node.name] = node.width if whole else below
        return total

    def rows(self, rows: slice) -> GraphCall:
        """The call for some of the samples: inputs, targets and weights cut, all else shared."""
        y, weight = (None if a is None else a[rows] for a in (self.y, self.weight))
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, y=y, weight=weight, first=self.first + rows.start)


@dataclass
class GraphGradients:
    """The loss and its gradients: of the parameters in the call's order, of the inputs by name; kept values."""

    parameters: list[Array]
    inputs: dict[str, Array]
    loss: Any = None
    values: Any = None
