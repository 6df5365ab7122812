"""Loss functions: each one class with its value, its gradient and how it averages.

An element-wise loss is a formula of the output ``z`` and the target ``y``, like an activation; softmax
cross-entropy needs whole rows and is written out.

A net's reduction "sum" is PyTorch's. So is "mean": the sum divided by the number of elements (``mean_over``) where
PyTorch's loss does that, else by the number of samples; with weights of samples, or of the classes that targets are, by
the sum of these. Weights of outputs don't change what is divided by.
"""

from __future__ import annotations

from typing import Any

from ..formulas import is_formula
from ..messages import unknown
from .base import Array, Loss, averaged, check_outputs, product, resolved, terms, weighted
from .built_in import MAE, MSE, BCEWithLogits, HalfSquaredError, HalfSumSq, Huber
from .cross_entropy import SoftmaxCrossEntropy
from .elementwise import BuiltInLoss, ElementwiseLoss, KernelLoss

__all__ = [
    "LOSSES", "MAE", "MSE", "BCEWithLogits", "ElementwiseLoss", "HalfSquaredError", "HalfSumSq", "Huber", "KernelLoss",
    "Loss", "SoftmaxCrossEntropy", "averaged", "check_outputs", "compiles", "get_loss", "kernel_of", "product",
    "resolved", "terms", "weighted",
]  # fmt: skip

_BUILT_IN: list[type[Loss]] = [*BuiltInLoss.__subclasses__(), SoftmaxCrossEntropy]

#: Every built-in loss by name.
LOSSES: dict[str, type[Loss]] = {cls.name: cls for cls in _BUILT_IN}


def compiles(loss: Any) -> bool:
    """Whether kernels can hold this loss, as :func:`resolved` gives it."""
    return is_formula(loss) or type(loss) is SoftmaxCrossEntropy


def kernel_of(loss: Any, y: Array | None) -> KernelLoss | str:
    """What a kernel of a loss that compiles is compiled for; softmax cross-entropy is "classes" or "probabilities".

    Without a target, as in a plan, it is "classes".
    """
    if type(loss) is not SoftmaxCrossEntropy:
        return loss.kernel
    return "classes" if y is None or y.ndim == 1 else "probabilities"


def get_loss(loss: str | Any) -> Any:
    """The loss of this name with its default parameters, or the object itself.

    Raises:
        ValueError: unknown name. TypeError: neither a name nor an object with ``__call__`` and ``grad``.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(unknown("loss", loss, LOSSES))
        return LOSSES[loss]()
    if isinstance(loss, type) or not (callable(loss) and callable(getattr(loss, "grad", None))):
        shown = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        raise TypeError(f"a loss is a name or an object with __call__ and grad, got {shown}")
    return loss
