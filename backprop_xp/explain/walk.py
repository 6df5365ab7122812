"""A walk through one call: its steps, the proof that they are right, and a step of gradient descent."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from typing import Any

import numpy as np

from .. import check
from ..numbers import real
from ..tensor import Tensor
from . import case as cases
from .case import Case
from .steps import Step, steps

#: Numbers in parameters and inputs up to which central differences are taken without being asked for.
MOST_CHECKED = 20_000


class Walk:
    """The steps of one call of ``loss_and_grad``, and the proof that they are right.

    Attributes:
        steps: forward, loss and backward in the article's order, see :class:`backprop_xp.explain.Step`.
        loss: the loss of the call, in float64.
        lr: the learning rate of the gradient step.
        net: the net that was explained, as it was given.
        case: what was computed, a copy of the net among it.
    """

    def __init__(self, net: Any, x: Any, y: Any, sample_weight: Any, lr: float, training: bool) -> None:
        self.lr = real("lr", lr, 0)
        self.net, self._training = net, training
        self._given = (cases.on_host(x), cases.on_host(y), cases.on_host(sample_weight))
        self.case: Case = cases.computed(net, *self._given, training)
        if self.case.samples == 0:
            raise ValueError("a batch without samples has nothing to explain")
        self.steps: list[Step] = steps(self.case)
        self.loss = self.case.loss

    @property
    def numbers(self) -> int:
        """How many numbers the parameters and the inputs hold."""
        arrays = [*self.case.call.inputs.values(), *(tensor.data for tensor in self.case.tensors)]
        return sum(array.size for array in arrays)

    def gradient(self, tensor: Tensor) -> np.ndarray:
        """The gradient in a parameter of the copy: those of all places where it stands."""
        return np.sum([self.case.gradients[place] for place in self.case.tensors[tensor]], axis=0)

    @cached_property
    def after(self) -> float:
        """The loss after one step of gradient descent: every parameter less lr times its gradient."""
        moved = check.in_double(self.net)
        twins = moved._tensors()
        for tensor, places in self.case.tensors.items():
            node, name = places[0]
            twins[node][name].data = tensor.data - self.lr * self.gradient(tensor)
        return cases.computed(moved, *self._given, self._training).loss

    @property
    def slope(self) -> float:
        """The sum of all squares of the parameters' gradients: what a small lr takes off the loss, divided by lr."""
        return float(sum(np.square(self.gradient(tensor)).sum() for tensor in self.case.tensors))

    @cached_property
    def differences(self) -> check.Report | None:
        """The net's gradients against central differences; None for a net too large to do so unasked."""
        if self.numbers > MOST_CHECKED:
            return None
        return check.check_gradients(check.in_double(self.net), *self._given, training=self._training)

    @cached_property
    def pytorch(self) -> check.Report | str:
        """The net's loss and gradients against PyTorch's, or why there is no such comparison."""
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed, so it can't be asked"
        try:
            return check.check_against_torch(check.in_double(self.net), *self._given)
        except TypeError as error:
            return str(error)

    @property
    def ok(self) -> bool:
        """Whether nothing that was compared differs."""
        return all(report.ok for report in (self.differences, self.pytorch) if isinstance(report, check.Report))
