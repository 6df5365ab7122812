"""Loss functions: each one class with its value, its gradient and how it averages.

An element-wise loss is a formula of the output ``z`` and the target ``y``, like an activation; softmax
cross-entropy needs whole rows and is written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from . import backend
from .formulas import Formula
from .messages import unknown

Array = Any


class Loss:
    """A function of the net's outputs to one number. Subclass it with ``__call__`` and ``grad`` in array code.

    Both take the output ``z`` (n, features) or (features,), and the target where ``needs_target``;
    ``__call__`` returns the sum over everything, ``grad`` an array like ``z``.
    """

    name: str = ""
    needs_target: bool = True
    mean_over: str = "samples"  #: what reduction="mean" divides by: "samples" or "elements"

    def __call__(self, z: Array, y: Array | None = None) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def grad(self, z: Array, y: Array | None = None) -> Array:
        raise NotImplementedError(f"{type(self).__name__} must define grad")

    def weighted(self, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
        """``scale`` times the sum over samples of ``weight`` times the loss, and its gradient in ``z``.

        ``weight`` is (n,), or () for one sample, or None. A loss written in plain array code takes no weights.
        """
        if weight is not None:
            raise TypeError(f"{type(self).__name__} takes no sample_weight; write the loss as formulas")
        target = () if y is None else (y,)
        dtype = z.dtype.type
        return self(z, *target) * dtype(scale), self.grad(z, *target) * dtype(scale)


class ElementwiseLoss(Loss):
    """A loss that is a sum of formulas of one output ``z`` and its target ``y``."""

    value: str
    derivative: str
    let: Mapping[str, str] = {}
    params: Mapping[str, float] = {}

    def __init__(self, **params: float) -> None:
        for name in params.keys() - self.params.keys():
            raise TypeError(
                f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self.params) or 'none'}"
            )
        for name, default in self.params.items():
            setattr(self, name, float(params.get(name, default)))

    @property
    def formula(self) -> Formula:
        """The formula with "value" and "grad", "value_weighted", "grad_scaled", and "grad_weighted" (by both)."""
        return _formula(type(self))  # type: ignore[arg-type]  # a class is hashable

    @property
    def kernel_formula(self) -> Formula:
        """The outputs "value" and "grad" as functions of ``z`` and ``y`` alone, for kernels that weight and scale."""
        return _kernel_formula(type(self))  # type: ignore[arg-type]

    @property
    def parameters(self) -> tuple[float, ...]:
        return tuple(float(getattr(self, name)) for name in self.params)

    @property
    def is_formula(self) -> bool:
        """Whether the formula says all there is: false where a subclass or an instance overrides a method."""
        return type(self) in FORMULA_LOSSES and not {"__call__", "grad", "weighted"} & vars(self).keys()

    def __call__(self, z: Array, y: Array | None = None) -> Array:
        return backend.sum_elementwise(self.formula, "value", self._arrays(z, y), (*self.parameters, 1.0))

    def grad(self, z: Array, y: Array | None = None) -> Array:
        return backend.elementwise(self.formula, ("grad",), self._arrays(z, y), (*self.parameters, 1.0))[0]

    def weighted(self, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
        if not self.is_formula:
            return super().weighted(z, y, weight, scale)
        if fused := backend.fused_launches(z):
            return fused.loss_alone(self, z, y, weight, scale)
        arrays = self._arrays(z, y)
        outputs = ("value", "grad" if isinstance(scale, float) and scale == 1.0 else "grad_scaled")
        if weight is not None:
            column = weight[:, None] if z.ndim == 2 else backend.module_of(z).broadcast_to(weight, z.shape)
            arrays["weight"], outputs = column, ("value_weighted", "grad_weighted")
        parameters = (*self.parameters, scale)
        value = backend.sum_elementwise(self.formula, outputs[0], arrays, parameters)
        return value * z.dtype.type(scale), backend.elementwise(self.formula, outputs[1:], arrays, parameters)[0]

    def _arrays(self, z: Array, y: Array | None) -> dict[str, Array]:
        return {"z": z, "y": y} if self.needs_target else {"z": z}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.params)})"


class HalfSumSq(ElementwiseLoss):
    """Half the sum of squares, sum z^2 / 2, the article's loss; it takes no target."""

    name = "half_sum_sq"
    needs_target = False
    value = "0.5 * z * z"
    derivative = "z"


class HalfSquaredError(ElementwiseLoss):
    """sum (z - y)^2 / 2; "mean" is over the samples."""

    name = "half_squared_error"
    let = {"d": "z - y"}
    value = "0.5 * d * d"
    derivative = "d"


class MSE(ElementwiseLoss):
    """(z - y)^2; "mean" is over all elements, as in PyTorch."""

    name = "mse"
    mean_over = "elements"
    let = {"d": "z - y"}
    value = "d * d"
    derivative = "2 * d"


class MAE(ElementwiseLoss):
    """|z - y|, with derivative 0 at z = y; "mean" is over all elements, as in PyTorch's L1Loss."""

    name = "mae"
    mean_over = "elements"
    let = {"d": "z - y"}
    value = "abs(d)"
    derivative = "sign(d)"


class Huber(ElementwiseLoss):
    """(z - y)^2 / 2 within delta, delta (|z - y| - delta / 2) beyond (Huber, 1964); "mean" over all elements."""

    name = "huber"
    mean_over = "elements"
    params = {"delta": 1.0}
    let = {"d": "z - y", "size": "abs(d)"}
    value = "where(size <= delta, 0.5 * d * d, delta * (size - 0.5 * delta))"
    derivative = "clip(d, -delta, delta)"


class BCEWithLogits(ElementwiseLoss):
    """Binary cross-entropy of sigmoid(z) and the probability y, stable for any logit; "mean" over all elements."""

    name = "bce_with_logits"
    mean_over = "elements"
    let = {"e": "exp(-abs(z))"}
    value = "maximum(z, 0) - z * y + log1p(e)"
    derivative = "where(z < 0, e, 1) / (1 + e) - y"


class SoftmaxCrossEntropy(Loss):
    """-sum_k p_k log softmax(z)_k, by a stable log-sum-exp.

    The target is class indices, (n,) integers (or one integer for one sample), or probabilities like ``z``.
    "mean" is over the samples, as in PyTorch.
    """

    name = "softmax_cross_entropy"
    takes_indices = True
    params: Mapping[str, float] = {}
    is_formula = False

    def __call__(self, z: Array, y: Array | None = None) -> Array:
        return self.weighted(z, y, None, 1.0)[0]

    def grad(self, z: Array, y: Array | None = None) -> Array:
        return self.weighted(z, y, None, 1.0)[1]

    def weighted(self, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
        assert y is not None
        if fused := backend.fused_launches(z):
            return fused.loss_alone(self, z, y, weight, scale)
        xp = backend.module_of(z)
        if z.ndim == 1:
            value, grad = self.weighted(z[None], y[None], None if weight is None else weight[None], scale)
            return value, grad[0]
        with np.errstate(all="ignore"):
            shifted = z - z.max(axis=1, keepdims=True)
            grad = xp.exp(shifted)
            total = grad.sum(axis=1, keepdims=True)
            log_total = xp.log(total)
            grad /= total
            if y.ndim == 1:
                rows = xp.arange(len(y))
                losses = log_total[:, 0] - shifted[rows, y]
                grad[rows, y] -= 1
            else:
                # a class of probability 0 adds nothing, even where its log-probability is -inf
                losses = xp.where(y != 0, y * (log_total - shifted), z.dtype.type(0)).sum(axis=1)
                grad *= y.sum(axis=1, keepdims=True)
                grad -= y
            if weight is not None:
                losses = losses * weight
                grad *= weight[:, None]
            grad *= z.dtype.type(scale)
            return losses.sum() * z.dtype.type(scale), grad

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_BUILT_IN: list[type[Loss]] = [*ElementwiseLoss.__subclasses__(), SoftmaxCrossEntropy]

#: Every built-in loss by name.
LOSSES: dict[str, type[Loss]] = {cls.name: cls for cls in _BUILT_IN}

FORMULA_LOSSES = frozenset(ElementwiseLoss.__subclasses__())


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


def weighted(loss: Any, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
    """:meth:`Loss.weighted`, also of an object that is no Loss and has just ``__call__`` and ``grad``."""
    if isinstance(loss, Loss):
        return loss.weighted(z, y, weight, scale)
    return Loss.weighted(loss, z, y, weight, scale)


def averaged(loss: Any, output_shape: tuple[int, ...], weight: Array | None) -> tuple[float, Array | None]:
    """What reduction="mean" takes as (scale, weight): the weighted mean.

    0 for weights that are all 0, as with "sum", and NaN for no samples, as in PyTorch.
    """
    scale = 1.0 / output_shape[-1] if getattr(loss, "mean_over", "samples") == "elements" else 1.0
    if weight is not None:
        total = weight.sum()
        # on a device too, nothing waits for it
        total = backend.module_of(weight).where(weight.any(), total, total.dtype.type(1))
        with np.errstate(all="ignore"):  # weights that cancel each other give no number
            return (scale if weight.size else float("nan")), weight / total
    samples = output_shape[0] if len(output_shape) == 2 else 1
    return (scale / samples if samples else float("nan")), None


@lru_cache(maxsize=64)
def _formula(loss: type[ElementwiseLoss]) -> Formula:
    variables = ("z", "y", "weight") if loss.needs_target else ("z", "weight")
    formula = Formula(variables, (*loss.params, "scale"), loss.let, {"value": loss.value, "grad": loss.derivative})
    node, weight, scale = formula.node, formula.parse("weight"), formula.parse("scale")
    # the value is scaled once, after it is summed
    formula.outputs["value_weighted"] = node("multiply", formula.outputs["value"], weight)
    formula.outputs["grad_scaled"] = node("multiply", formula.outputs["grad"], scale)
    formula.outputs["grad_weighted"] = node("multiply", formula.outputs["grad_scaled"], weight)
    return formula


@lru_cache(maxsize=64)
def _kernel_formula(loss: type[ElementwiseLoss]) -> Formula:
    return Formula(("z", "y"), tuple(loss.params), loss.let, {"value": loss.value, "grad": loss.derivative})
