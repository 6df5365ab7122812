"""What nodes of a graph compute: each one class with its value, its gradients and its parameters.

All arrays are batches, (n, width), a sample a row; one sample comes as a batch of one. An operation keeps nothing
from a forward to a backward pass: it may run on several tiles of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import workspace
from ..activations import ACTIVATIONS, ALIASES, Activation, activate, backpropagate, get_activation
from ..arrays import column_sums
from ..backend import Array, module_of, owner_of
from ..messages import unknown
from ..numbers import whole
from ..ranges import Ranged
from ..scope import needs_whole_batch

Draw = Callable[[tuple[int, int]], Any]


class Operation:
    """What a node computes from its inputs. Subclass it for a node of your own.

    Attributes:
        arity: how many inputs it takes; None for any number from one on.
        name: what to call it in drawings and messages.
        scope: "sample" in a subclass whose value and gradients in the inputs are, for each sample, the same whatever
            others are in the batch, and whose parameters' gradients are sums over the samples. Engines may then give
            it some of the samples at a time; without it, or with "batch", it always gets all of them.
    """

    name: str = ""
    arity: int | None = 1

    def width(self, *widths: int) -> int:
        """Features of the result, from those of the inputs; a ValueError where they don't fit each other."""
        return widths[0]

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        """The parameters by name, as they are at first; ``draw((out, in))`` draws by the net's initialiser."""
        return {}

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        """The value, (n, width)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, *inputs)")

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        """From the gradient in the value those in the inputs, then in the parameters: one array, or a tuple."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(self, grad, *inputs)")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"


class Input(Operation):
    """An input of the net: (n, features), or (features,) for one sample."""

    name = "input"
    scope = "sample"
    arity = 0

    def __init__(self, features: int) -> None:
        self.features = whole("an input's features", features, 1)

    def width(self, *widths: int) -> int:
        return self.features


class Linear(Operation):
    """W z + b.

    Args:
        features: of the result.
        bias: whether there is a b, which starts at zero.
        share: the name of another linear node, whose W and b it takes.
    """

    name = "linear"
    scope = "sample"

    def __init__(self, features: int, bias: bool = True, share: str | None = None) -> None:
        self.features, self.bias, self.share = whole("a linear node's features", features, 1), bool(bias), share

    def width(self, *widths: int) -> int:
        return self.features

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        weight = {"weight": draw((self.features, widths[0]))}
        return weight | {"bias": np.zeros(self.features)} if self.bias else weight


class Activate(Operation):
    """An activation as a node; a graph also takes the activation itself, or its name."""

    def __init__(self, activation: str | Activation) -> None:
        self.activation = get_activation(activation)

    @property
    def name(self) -> str:  # type: ignore[override]
        return getattr(self.activation, "name", "") or type(self.activation).__name__

    @property
    def scope(self) -> str:
        return "batch" if needs_whole_batch(self.activation) else "sample"

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        return activate(self.activation, inputs[0])

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        return backpropagate(self.activation, inputs[0], grad)


class Add(Operation):
    """The sum of its inputs, which are of one width."""

    name = "add"
    scope = "sample"
    arity = None

    def width(self, *widths: int) -> int:
        return _same(widths)

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        return _fold("add", inputs)

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        return (grad,) * len(inputs)


class Multiply(Operation):
    """The product of its inputs, element by element; they are of one width."""

    name = "multiply"
    scope = "sample"
    arity = None

    def width(self, *widths: int) -> int:
        return _same(widths)

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        return _fold("multiply", inputs)

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        # the products of all others, not a quotient: factors may be 0
        return tuple(_fold("multiply", (grad, *inputs[:i], *inputs[i + 1 :])) for i in range(len(inputs)))


class Concatenate(Operation):
    """The features of its inputs side by side."""

    name = "concatenate"
    scope = "sample"
    arity = None

    def width(self, *widths: int) -> int:
        return sum(widths)

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        return module_of(inputs[0]).concatenate(inputs, axis=1)

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        gradients, at = [], 0
        for array in inputs:
            gradients.append(grad[:, at : at + array.shape[1]])
            at += array.shape[1]
        return tuple(gradients)


class Dropout(Operation):
    """Each number is 0 with this probability, else divided by 1 - p; in training only.

    Which ones are 0 depends on the net's seed, the number of the training step, the node and the sample's number in
    the batch, not on engine, backend or threads.
    """

    name = "dropout"
    p = Ranged("0 <= p <= 1")
    scope = "sample"

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    @property
    def factor(self) -> float:
        """What the numbers that stay are multiplied by."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        return inputs[0] * parameters["kept"] if "kept" in parameters else inputs[0]

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        return grad * parameters["kept"] if "kept" in parameters else grad


class LayerNorm(Operation):
    """(z - mean) / sqrt(variance + eps) over the features of a sample, times a gain, plus a bias (Ba et al., 2016)."""

    name = "layer_norm"
    eps = Ranged("0 <= eps < inf")
    scope = "sample"

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = eps

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        return {"gain": np.ones(widths[0]), "bias": np.zeros(widths[0])}

    def forward(self, *inputs: Array, **parameters: Array) -> Array:
        normal, _ = self._normal(inputs[0])
        normal *= parameters["gain"]
        normal += parameters["bias"]
        return normal

    def backward(self, grad: Array, *inputs: Array, **parameters: Array) -> Any:
        normal, scale = self._normal(inputs[0])
        grad_normal = grad * parameters["gain"]
        mean = grad_normal.mean(axis=1, keepdims=True)
        along = (grad_normal * normal).mean(axis=1, keepdims=True)
        return scale * (grad_normal - mean - normal * along), column_sums(grad * normal), column_sums(grad)

    def _normal(self, z: Array) -> tuple[Array, Array]:
        centred = z - z.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        scale = 1 / module_of(z).sqrt(variance + z.dtype.type(self.eps))
        return centred * scale, scale


class Chain(Operation):
    """Operations one after another, written as one: node "a" becomes nodes "a.0", "a.1", ..., and "a" the last."""

    name = "chain"

    def __init__(self, *steps: Any) -> None:
        if not steps:
            raise ValueError(f"{type(self).__name__} needs at least one operation")
        self.steps = tuple(as_operation(step) for step in steps)


class Residual(Chain):
    """The input, plus a chain of operations on it (He et al., 2016)."""

    name = "residual"


#: Built-in operations that a name stands for, and all of them.
BUILT_IN = {cls.name: cls for cls in (Add, Multiply, Concatenate, Dropout, LayerNorm)}
OPERATIONS = frozenset([Input, Linear, Activate, *BUILT_IN.values()])


def is_built_in(operation: Operation) -> bool:
    """Whether its class says all there is: false where a subclass or an instance overrides a method."""
    return type(operation) in OPERATIONS and not {"forward", "backward"} & vars(operation).keys()


def as_operation(operation: Any, where: str = "") -> Operation:
    """The operation itself, or the one of this name with its default arguments; activations are operations.

    Raises:
        ValueError: unknown name. TypeError: neither a name nor an operation nor an activation.
    """
    if isinstance(operation, Operation):
        return operation
    if isinstance(operation, str):
        if operation in BUILT_IN:
            return BUILT_IN[operation]()
        if operation in ACTIVATIONS or operation in ALIASES:
            return Activate(operation)
        raise ValueError(where + unknown("operation", operation, [*BUILT_IN, *ACTIVATIONS, *ALIASES]))
    try:
        return Activate(operation)
    except TypeError:
        shown = operation.__name__ if isinstance(operation, type) else type(operation).__name__
        raise TypeError(f"{where}an operation is a name, an Operation or an activation, got {shown}") from None


def _same(widths: tuple[int, ...]) -> int:
    if len(set(widths)) != 1:
        raise ValueError("its inputs must be of one width")
    return widths[0]


def _fold(function: str, arrays: tuple[Array, ...]) -> Array:
    """The sum or product of arrays of one shape, from left to right, in recycled memory where that is allowed."""
    first, *others = arrays
    if not others:
        return first
    ufunc = getattr(module_of(first), function)
    result = None if owner_of(first) == "cupy" else workspace.empty(first.shape, first.dtype)
    result = ufunc(first, others[0], out=result)
    for other in others[1:]:
        ufunc(result, other, out=result)
    return result
