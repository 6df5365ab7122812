"""What an activation is, and what a layer does with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import later
from ..arrays import column_sums, in_launches
from ..backend import Array
from ..formulas import is_formula

if TYPE_CHECKING:
    from ..programs import device_layers
else:
    device_layers = later.Module("backprop_xp.programs.device_layers")


class Activation:
    """An element-wise function and its derivative. Subclass it with plain array code, as in the article.

    With ``scope = "sample"`` a subclass says that its code gives the same for a sample whatever others are in the
    batch. Without it, its code always gets the whole batch, and engines that cut batches leave it to the layered one.
    """

    def __call__(self, x: Array) -> Array:
        """f(x), of the shape of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, x)")

    def grad(self, x: Array) -> Array:
        """f'(x), of the shape of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define grad(self, x)")

    def backprop(self, t: Array, grad_z: Array) -> Array:
        """The gradient with respect to ``t`` of what has the gradient ``grad_z`` with respect to f(t)."""
        return grad_z * self.grad(t)


def activate(activation: Any, t: Array, bias: Array | None = None) -> Array:
    """f(t), of the shape and dtype of ``t`` even where a user's code is careless about dtypes.

    A bias is first added to ``t``, in place; on CuPy that is one launch with a formula.
    """
    if in_launches(t) and is_formula(activation):
        return device_layers.forward(activation, t, bias)
    if bias is not None:
        t += bias
    return _checked(activation, "returned", activation(t), t)


def backpropagate(activation: Any, t: Array, grad_z: Array) -> Array:
    """grad_t = grad_z * f'(t), by the activation's own :meth:`Activation.backprop` where it has one."""
    if isinstance(activation, Activation):
        return _checked(activation, "has a gradient of", activation.backprop(t, grad_z), t)
    return _checked(activation, "has a gradient of", grad_z * activation.grad(t), t)


def layer_gradients(activation: Any, t: Array, grad_z: Array, bias: Array | None) -> tuple[Array, Array | None]:
    """grad_t, and the bias's gradient: the sum of grad_t over the samples, None without a bias."""
    if in_launches(t) and is_formula(activation):
        return device_layers.backward(activation, t, grad_z, bias is not None)
    grad_t = backpropagate(activation, t, grad_z)
    return grad_t, None if bias is None else column_sums(grad_t)


def _checked(activation: Any, does: str, result: Array, t: Array) -> Array:
    if getattr(result, "shape", None) != t.shape:
        shape = getattr(result, "shape", type(result).__name__)
        raise ValueError(f"{type(activation).__name__} {does} shape {shape} for input of shape {t.shape}")
    return result if result.dtype == t.dtype else result.astype(t.dtype)
