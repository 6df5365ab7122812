"""What ready calls of batches know of a net that is a chain: its Tensors and functions, as they are at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formulas import is_formula
from ..losses import SoftmaxCrossEntropy, compiles
from ..operations import Operation
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
    """

    sizes: tuple[int, ...]
    bias: tuple[bool, ...]
    activations: list[Any]
    tensors: list[tuple[Tensor, np.ndarray]]

    @classmethod
    def of(cls, net: AnyNet) -> Chain:
        """The layers of a net whose plan is a chain."""
        plan, own = net._plan(), net._tensors()
        assert plan.chain is not None
        names = [linear.name for linear, _ in plan.chain]
        tensors = [own[name][kind] for kind in ("weight", "bias") for name in names if kind in own[name]]
        return cls(
            sizes=plan.sizes,
            bias=plan.bias,
            activations=plan.activations,
            tensors=[(tensor, tensor.data) for tensor in tensors],
        )


def why_not_functions(functions: Sequence[Any]) -> str:
    """Why there are no ready calls with these activations, other operations and, as the last one, loss."""
    activations = [f for f in functions[:-1] if not isinstance(f, Operation)]
    if not all(map(is_formula, activations)) or not compiles(functions[-1]):
        return "an activation or the loss is no formula"
    if any(type(value) not in FIXED for f in functions for name, value in vars(f).items() if name != "text"):
        return "a parameter of a function is no plain number, and may change in place"
    return ""


def why_not_loss(net: AnyNet) -> str:
    """Why the loss needs more than its outputs and targets, or a check; "" if it doesn't."""
    if getattr(net.loss, "outputs", None) not in (None, net._plan().output.width):
        return "the loss has parameters for another number of outputs"
    return "the loss changes its targets" if isinstance(net.loss, SoftmaxCrossEntropy) and net.loss.settings else ""
