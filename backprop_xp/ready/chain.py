"""What ready calls know of a net: the Tensors and functions of a chain, as they are at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..losses import SoftmaxCrossEntropy
from ..plan.net import AnyNet
from ..tensor import Tensor

#: Types of attributes that change only by becoming another object; a formula's text is one too.
FIXED = (float, int, bool, str, tuple, type(None), np.float64, np.float32, np.int64, np.int32)


@dataclass(frozen=True)
class Chain:
    """The layers of a net.

    Attributes:
        sizes: their widths, input first.
        bias: whether each has one.
        tensors: the weights, then the biases that there are, and what the data of each is.
        input: the Tensor for x, None where the net has none.
        linear, nonlinear: the Tensors for t and z of each layer; None where a layer has no activation, and z is t.
    """

    sizes: tuple[int, ...]
    bias: tuple[bool, ...]
    activations: list[Any]
    tensors: list[tuple[Tensor, np.ndarray]]
    input: Tensor | None
    linear: list[Tensor]
    nonlinear: list[Tensor | None]

    @classmethod
    def of(cls, net: AnyNet) -> Chain:
        """The layers of a net whose plan is a chain."""
        plan, own, signals = net._plan(), net._tensors(), net._signals()
        assert plan.chain is not None
        names = [linear.name for linear, _ in plan.chain]
        tensors = [own[name][kind] for kind in ("weight", "bias") for name in names if kind in own[name]]
        return cls(
            sizes=plan.sizes,
            bias=plan.bias,
            activations=plan.activations,
            tensors=[(tensor, tensor.data) for tensor in tensors],
            input=signals.get(next(iter(plan.inputs))),
            linear=[signals[name] for name in names],
            nonlinear=[None if f is None else signals[f.name] for _, f in plan.chain],
        )

    def drop_signals(self, net: AnyNet) -> None:
        """Forget the signals that an earlier call of the net kept."""
        if net._kept is not None or self.linear[0].data is not None:
            net._keep(None, None)


def why_not_loss(net: AnyNet) -> str:
    """Why the loss needs more than its outputs and targets, or a check; "" if it doesn't."""
    if getattr(net.loss, "outputs", None) not in (None, net._plan().output.width):
        return "the loss has parameters for another number of outputs"
    return "the loss changes its targets" if isinstance(net.loss, SoftmaxCrossEntropy) and net.loss.settings else ""
