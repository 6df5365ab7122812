"""Gradients sample by sample, as methods of nets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .backend import Array
from .derivatives.equation import Equation
from .losses import Loss, get_loss
from .passes import per_sample
from .tensor import Tensor


def per_sample_grads(
    self: Any, x: Any, y: Any = None, *, training: bool = True, loss: str | Loss | None = None
) -> Array:
    """The gradients that :meth:`loss_and_grad` gives of every sample alone, (n, numbers of all parameters).

    The columns are the parameters in the order of ``net.parameters``, each flattened; ``.grad`` stays as it is.
    For private training, clip each to a norm C without storing them, with reduction="sum"::

        clipped = np.minimum(1, C / net.per_sample_norms(x, y))
        net.loss_and_grad(x, y, sample_weight=clipped)

    Args:
        x, y, training, loss: as in :meth:`loss_and_grad`; of one sample (features,) the result has no n.

    Raises:
        ValueError: something in the net or the loss looks at other samples of the batch. TypeError: an operation
            has parameters and no ``per_sample``.
    """
    return _of_samples(self, per_sample.gradients, x, y, training, loss)


def per_sample_norms(
    self: Any, x: Any, y: Any = None, *, training: bool = True, loss: str | Loss | None = None
) -> Array:
    """The Euclidean norms (n,) of :meth:`per_sample_grads`, without storing these."""
    return _of_samples(self, per_sample.norms, x, y, training, loss)


def _of_samples(net: Any, compute: Callable[..., Array], x: Any, y: Any, training: bool, loss: Any) -> Array:
    """A function of passes/per_sample.py, of a call in which every sample is a batch of its own."""
    if isinstance(loss, Equation):
        raise TypeError("gradients of single samples are those of a loss of the outputs, not of an equation")
    call = net._call(x, False, training, get_loss(net.loss if loss is None else loss), whole=True)
    net._aim(call, None if y is None else net.backend.asarray(y, None, "y"), None, alone=True)
    net._draw(call)
    if call.single and len(call.output_shape) == 1:
        inputs = {name: array[None] for name, array in call.inputs.items()}
        y, weight = (None if a is None else a[None] for a in (call.y, call.weight))
        call = replace(call, inputs=inputs, y=y, weight=weight)
    places: dict[Tensor, list[tuple[str, str]]] = {tensor: [] for tensor in net.parameters}
    for node, own in net._tensors().items():
        for name, tensor in own.items():
            places[tensor].append((node, name))
    with net.backend.activate():
        found = compute(call, list(places.values()))
    return found[0] if call.single else found
