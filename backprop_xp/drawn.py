"""``net.draw()``: a net as text and as a picture, with the numbers of a call where one is given."""

from __future__ import annotations

from typing import Any

from .backend import NUMPY
from .engines import layered
from .operations.base import called
from .plan.drawing import Drawing, Numbers
from .plan.drawing import draw as draw_plan
from .tensor import Tensor


def draw(
    self: Any,
    x: Any = None,
    y: Any = None,
    *,
    sample_weight: Any = None,
    training: bool = True,
    direction: str = "down",
) -> Drawing:
    """The net as text, for ``print``, and as a picture, ``.svg``, which a notebook shows and ``save`` writes.

    Args:
        x, y, sample_weight, training: as for ``loss_and_grad``. With x every node shows its value and its gradient, and
            the loss its number; the net stays as it is.
        direction: where the picture goes, "down" or "right".
    """
    counts, drawn = {}, set[Tensor]()
    for node, own in self._tensors().items():
        tensors = set(own.values()) - drawn  # a shared one counts where it comes first
        counts[node] = sum(tensor.data.size for tensor in tensors)
        drawn |= tensors
    numbers = None if x is None else computed(self, x, y, sample_weight, training)
    return draw_plan(self._plan(), counts, called(self.loss), numbers, direction, repr(self))


def computed(net: Any, x: Any, y: Any, sample_weight: Any, training: bool) -> Numbers:
    """What ``loss_and_grad`` would compute next, without a change of the net."""
    draws = net.draws
    call = net._loss_call(x, y, sample_weight, True, training)
    call.input_grad = True
    with net.backend.activate():
        result = layered.loss_and_grad(call)
    net.draws = draws  # the numbers that dropout drops are those of the next call, too
    assert result.values is not None
    values, grads = (
        {name: NUMPY.take(array) for name, array in arrays.items()}
        for arrays in (result.values.data, result.values.grads)
    )
    return Numbers(values, grads, float(result.loss))
