"""What an engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .. import scope
from ..backend import Array, Backend
from ..operations.draws import key_from
from ..passes.article import Layer, Signals
from .plan import IDENTITY, Pair, Plan

#: Arrays by the name of the node that owns them and their own name, such as "weight".
Parameters = Mapping[str, Mapping[str, Array]]


@dataclass
class Call:
    """One sample or a batch for one net.

    All arrays are checked, of the net's dtype and on its backend; large inputs and targets of a net on a GPU may still
    be on the host, and of their own dtype (passes/streamed.py). The loss is ``scale`` times the sum of the samples'
    losses times ``weight``.

    Attributes:
        parameters: (out, in), (out,) and so on, of every node that has its own.
        inputs: (n, features) for each input; or (features,), one sample for a chain as the article writes it.
        single: whether it is one sample; it may be a batch of one.
        precision: that products are allowed, see :mod:`backprop_xp.precision`.
        training: whether dropout drops, and batch normalisation looks at the batch.
        buffers: of every node that has some: their names and arrays.
        new_buffers: what takes their place after the call; layered fills it in training.
        keys: of the nodes that draw, in training, see :mod:`backprop_xp.operations.draws`.
        first: the number of the first row in the whole batch.
    """

    backend: Backend
    dtype: np.dtype
    plan: Plan
    parameters: Parameters
    inputs: Mapping[str, Array]
    loss: Any = None
    y: Array | None = None
    weight: Array | None = None
    scale: float = 1.0
    input_grad: bool = False
    keep_signals: bool = False
    threads: int | None = None
    precision: str = "float32"
    single: bool = False
    training: bool = False
    buffers: Parameters = field(default_factory=dict)
    new_buffers: dict[str, Mapping[str, Array]] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    first: int = 0

    @property
    def samples(self) -> int:
        x = next(iter(self.inputs.values()))
        return 1 if x.ndim == 1 else len(x)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the value of the last node: (n, out), or (out,) for one sample that is no batch."""
        return (*next(iter(self.inputs.values())).shape[:-1], self.plan.output.width)

    @property
    def whole(self) -> bool:
        """Whether it can't be computed in pieces."""
        return self.keep_signals or self.single or bool(self.backend.on_gpu and self.needs_whole_batch)

    @property
    def needs_whole_batch(self) -> str:
        """A clause about what needs the whole batch at once, "" if nothing does; see :mod:`backprop_xp.scope`."""
        return scope.of_plan(self.plan, self.loss, self.training)

    @cached_property
    def multiply_adds(self) -> int:
        """Multiply-adds of one sample's matrix products, for the loss and all gradients that are wanted."""
        total = 0
        wanted: dict[str, int] = {}  # how many features of a value need gradients
        for node in self.plan.nodes:
            form, below = node.form, sum([wanted[name] for name in node.inputs])
            if node.inputs:
                total += form.multiply_adds(self.plan.widths[node.inputs[0]], below)
            whole = node.owner in self.parameters or (form.is_input and self.input_grad) or (below and not form.joins)
            wanted[node.name] = node.width if whole else below
        return total

    @property
    def keys_from_first(self) -> list[int]:
        """The keys as they are for rows that are counted from the call's first one, see operations/draws.py."""
        widths = self.plan.widths
        return [key_from(key, self.first, widths[node]) for node, key in self.keys.items()]

    @property
    def numbers(self) -> int:
        """How many numbers the parameters hold."""
        return sum([array.size for own in self.parameters.values() for array in own.values()])

    # ---- of a chain -------------------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers of a chain."""
        assert self.plan.chain is not None
        return as_layers(self.plan.chain, self.parameters)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The widths of a chain's layers, input first."""
        return self.plan.sizes

    @property
    def x(self) -> Array:
        """The input of a net that has one."""
        (x,) = self.inputs.values()
        return x

    def as_sample(self, array: Any) -> Any:
        """An array of one sample as the user knows it, (features,); a batch as it is."""
        return array[0] if array is not None and self.single and len(self.output_shape) == 2 else array

    def as_batch(self, array: Array) -> Array:
        """An array of one sample as the call has it, which may be (1, features); a batch as it is."""
        return array[None] if self.single and len(self.output_shape) == 2 else array

    def rows(self, rows: slice) -> Call:
        """The call for some of the samples: inputs, targets and weights cut, all else shared."""
        y, weight = (None if a is None else a[rows] for a in (self.y, self.weight))
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return replace(self, inputs=inputs, y=y, weight=weight, first=self.first + rows.start)


def as_layers(chain: tuple[Pair, ...], parameters: Parameters) -> list[Layer]:
    """A chain of nodes as the layers that the article's loops take."""
    layers = []
    for linear, activation in chain:
        own = parameters[linear.owner]
        f = IDENTITY if activation is None else activation.operation.activation  # type: ignore[attr-defined]
        layers.append(Layer(own["weight"], own.get("bias"), f))
    return layers


@dataclass(slots=True)
class Values:
    """The value of every node by its name, the signals of the chains, and gradients after a backward pass.

    ``given`` is what operations take besides inputs and parameters, from the forward pass for the backward one.
    """

    data: dict[str, Array]
    signals: dict[str, Signals] = field(default_factory=dict)
    given: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    grads: dict[str, Array] = field(default_factory=dict)


#: The value of every node as a ready call leaves them: one array, where in it each lies, and what such a call has that
#: others of the net don't, by the names of ``Call``.
Buffered = tuple[np.ndarray, Mapping[str, slice], Mapping[str, Any]]


@dataclass(slots=True)
class Result:
    """The loss and its gradients.

    Attributes:
        parameters: the parameters' gradients in the order of ``Call.parameters``.
        inputs: the inputs' gradients by name, where they are wanted.
        values: where signals are kept.
        total: the parameters' gradients one after another, where they are views into one array (parameters,).
    """

    parameters: list[Array]
    inputs: dict[str, Array] = field(default_factory=dict)
    loss: Any = None
    values: Values | None = None
    total: Array | None = None
