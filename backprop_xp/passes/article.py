"""Forward and backward through the layers of a chain, as the article does it.

Layer i takes z_{i-1}, the outputs of the layer before it (z_{-1} is the input x):

    t_i = W_i z_{i-1} + b_i        z_i = f_i(t_i)        l = loss(z_last)

:func:`forward_pass` and :func:`backward_pass` are that, in plain array code; every faster engine is checked against
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..arrays import matmul, outer
from ..backend import Array
from ..operations.activate import activate, layer_gradients


class Layer(NamedTuple):
    """t = W z + b, then z = f(t)."""

    weight: Array  # (out, in)
    bias: Array | None  # (out,)
    activation: Any


@dataclass(slots=True)
class Signals:
    """Every t_i and z_i of a call (z_{-1} = x not among them), and their gradients after a backward pass."""

    linear: list[Array]
    nonlinear: list[Array]
    grad_linear: list[Array] = field(default_factory=list)
    grad_nonlinear: list[Array] = field(default_factory=list)


@dataclass(slots=True)
class Gradients:
    """The gradients of every layer, and of x where it is wanted; ``biases`` holds None for layers without one."""

    weights: list[Array]
    biases: list[Array | None]
    x: Array | None = None

    @property
    def parameters(self) -> list[Array]:
        """Gradients layer by layer: the weight's, then the bias's where there is one."""
        return [array for layer in zip(self.weights, self.biases) for array in layer if array is not None]


def forward_pass(layers: Sequence[Layer], x: Array) -> Signals:
    """Every t_i and z_i for one sample (features,) or a batch (n, features), a sample a row."""
    signals = Signals(linear=[], nonlinear=[])
    z = x
    for weight, bias, activation in layers:
        t = matmul(z, weight.T)
        z = activate(activation, t, bias)  # t += b, z = f(t)
        signals.linear.append(t)
        signals.nonlinear.append(z)
    return signals


def backward_pass(
    layers: Sequence[Layer], x: Array, signals: Signals, grad_output: Array, input_grad: bool = False
) -> Gradients:
    """The gradients of everything, from the gradient of the loss in the outputs z_last down.

    For a batch the parameters' gradients are sums over the samples. The signals' gradients are added to
    ``signals``; the gradient in x is computed only if ``input_grad``.
    """
    weights: list[Array] = []
    biases: list[Array | None] = []
    grad_z = grad_output
    for i in reversed(range(len(layers))):
        weight, bias, activation = layers[i]
        previous = signals.nonlinear[i - 1] if i > 0 else x

        grad_t, grad_b = layer_gradients(activation, signals.linear[i], grad_z, bias)  # grad_z * f'(t), and its sum
        weights.append(outer(grad_t, previous))
        biases.append(grad_b)
        signals.grad_nonlinear.append(grad_z)
        signals.grad_linear.append(grad_t)
        grad_z = matmul(grad_t, weight) if i > 0 or input_grad else None

    for gradients in (weights, biases, signals.grad_nonlinear, signals.grad_linear):
        gradients.reverse()
    return Gradients(weights, biases, x=grad_z)
