"""The article's two loops for a signal and its derivatives together.

Forward, a layer takes a stack of signals z: the signal itself and its derivatives along directions in x. All of them go
through W at once, and through the activation by the chain rule (chain_rule.py, signals.py):

    t_M = W z_M  (+ b, for the signal itself)        z_M = sum of factor * f^(m)(t) * t_B1 ... t_Bm over the terms of M

Backward, the gradients in every z_M of a layer give those in every t_M (signals.py), and

    grad W = sum over M of the outer products of grad t_M and z_M below
    grad b = grad t        grad z_M below = grad t_M W
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, Backend, module_of
from ..passes.article import Layer, backward_pass, forward_pass
from .activations import derivatives
from .chain_rule import Rules
from .signals import through, through_below

#: Numbers in a stack of signals, at most: what is computed at once stays in the caches. Calculated, not measured.
AT_ONCE = 1 << 18


class Chain(NamedTuple):
    """A chain of layers as it is now: a net as :class:`.differentiable.Differentiable` says.

    Attributes:
        layers: of arrays that are checked.
        backend, dtype: of their arrays.
    """

    layers: list[Layer]
    backend: Backend
    dtype: np.dtype

    @property
    def inputs(self) -> int:
        """Features of x."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Features of the last layer."""
        return len(self.layers[-1].weight)

    @property
    def widths(self) -> int:
        """Features of x, and of the t and z of every layer."""
        return self.inputs + 2 * sum(len(layer.weight) for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of the layers' matrix products, there and back; nothing goes back to x."""
        return 3 * sum(layer.weight.size for layer in self.layers) - self.layers[0].weight.size

    def tiles(self, samples: int, rules: Rules) -> list[slice]:
        """The samples in order, as many at once as the caches hold."""
        return tiles(samples, rules, max(self.inputs, *(len(layer.weight) for layer in self.layers)))

    def check(self) -> None:
        """Layers are functions of single samples."""

    def push(self, z: Array, rules: Rules, first: int = 0) -> tuple[Array, Any]:
        return push_forward(self.layers, z, rules)

    def pull(self, kept: Any, grad_u: Array, rules: Rules) -> tuple[list[Array], Array]:
        return pull_back(self.layers, kept, grad_u, rules)

    def pullback(self, x: Array, first: int = 0) -> tuple[Array, Callable[[Array], Array]]:
        signals = forward_pass(self.layers, x)

        def pull(grad: Array) -> Array:
            found = backward_pass(self.layers, x, signals, grad, input_grad=True).x
            assert found is not None
            return found

        return signals.nonlinear[-1], pull


def push_forward(layers: Sequence[Layer], z: Array, rules: Rules) -> tuple[Array, list[tuple[Array, Array]]]:
    """The stack of the outputs, and for each layer the stacks z below it and t.

    Args:
        z: (signals, samples, features), the stack of x as ``rules`` orders it.
    """
    kept = []
    for weight, bias, activation in layers:
        t = z @ weight.T
        if bias is not None:
            t[0] += bias
        kept.append((z, t))
        z = through(derivatives(activation, t[0], rules.order), t, rules)
    return z, kept


def pull_back(
    layers: Sequence[Layer], kept: Sequence[tuple[Array, Array]], grad_z: Array, rules: Rules
) -> tuple[list[Array], Array]:
    """Layer by layer the gradients of the weight and of the bias, if there is one; and the gradient in the stack of x.

    Args:
        grad_z: the gradient of a loss in the stack of the outputs.
    """
    gradients: list[Array] = []
    for (weight, bias, activation), (z, t) in zip(reversed(layers), reversed(kept)):
        grad_t = through_below(derivatives(activation, t[0], rules.order + 1), t, grad_z, rules)
        rows = grad_t.reshape(-1, grad_t.shape[-1])
        grad_w = rows.T @ z.reshape(-1, z.shape[-1])
        gradients = [grad_w, *([] if bias is None else [grad_t[0].sum(axis=0)]), *gradients]
        grad_z = grad_t @ weight
    return gradients, grad_z


def stack_of_x(x: Array, directions: Any, rules: Rules) -> Array:
    """The stack of x (samples, features), with the vectors ``directions`` as its first derivatives and no higher ones.

    Args:
        directions: for each direction a vector (features,), or (samples, features).
    """
    z = module_of(x).zeros((len(rules.stack), *x.shape), x.dtype)
    z[0] = x
    for k, along in enumerate(rules.stack):
        if isinstance(along, tuple) and len(along) == 1:
            z[k] = directions[along[0]]
    return z


def tiles(samples: int, rules: Rules, widest: int) -> list[slice]:
    """The samples in order, as many at once as leave no stack of a signal of this width larger than AT_ONCE."""
    rows = max(1, AT_ONCE // (len(rules.stack) * widest))
    return [slice(first, first + rows) for first in range(0, max(1, samples), rows)]
