"""Softmax cross-entropy, which needs whole rows and is written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import later, ranges
from ..arrays import in_launches
from ..backend import module_of
from ..keywords import known_options
from .base import METHODS, Array, Loss, Resolved, check_outputs, is_vector, product

if TYPE_CHECKING:
    from ..programs import device_layers
else:
    device_layers = later.Module("backprop_xp.programs.device_layers")

NO_SMOOTHING = ("label_smoothing", 0.0)


class SoftmaxCrossEntropy(Loss):
    """-sum_k p_k log softmax(z)_k, by a stable log-sum-exp.

    The target is class indices, (n,) integers (or one integer for one sample), or probabilities like ``z``. "mean" is
    over the samples, as in PyTorch: a class index counts for the weight of its class, and for nothing if it is ignored.

    Args:
        weight: a number for each class, which its term is multiplied by.
        ignore_index: samples of this class index add nothing; it need not be a class.
        label_smoothing: from 0 to 1, the share of the target that is spread evenly over all classes.
    """

    name = "softmax_cross_entropy"
    scope = "sample"
    takes_indices = True
    is_formula = False
    weight: tuple[float, ...] | None = None
    ignore_index: int | None = None
    label_smoothing = ranges.Ranged("0 <= label_smoothing <= 1")

    @known_options
    def __init__(self, weight: Any = None, ignore_index: int | None = None, label_smoothing: float = 0.0) -> None:
        self.weight, self.ignore_index, self.label_smoothing = weight, ignore_index, label_smoothing

    def __setattr__(self, name: str, value: Any) -> None:
        # a copy: an array could be changed in place, which a prepared call wouldn't see
        if name == "weight" and value is not None:
            if not is_vector(value):
                raise TypeError(f"weight must be a vector of a number for each class, got {value!r}")
            value = tuple(ranges.real("weight", number) for number in value)
            for number in value:
                ranges.check(self, {"weight": number}, ())
        elif name == "ignore_index" and value is not None:
            if isinstance(value, bool) or ranges.real("ignore_index", value) % 1:
                raise ValueError(f"ignore_index must be an integer, got {value!r}")
            value = int(value)
        super().__setattr__(name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that are not the defaults."""
        given = {"weight": self.weight, "ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing}
        return {name: value for name, value in given.items() if value is not None and (name, value) != NO_SMOOTHING}

    @property
    def outputs(self) -> int | None:
        """How many outputs a net with this loss must have; None for any number."""
        return None if self.weight is None else len(self.weight)

    def __call__(self, z: Array, y: Array | None = None) -> Array:
        return self.weighted(z, y, None, 1.0)[0]

    def grad(self, z: Array, y: Array | None = None) -> Array:
        return self.weighted(z, y, None, 1.0)[1]

    def weighted(self, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
        assert y is not None
        if self.settings:
            plain = self._plain(y, z.shape, z.dtype)
            return plain.loss.weighted(z, plain.y, product(weight, plain.factor), scale)
        if in_launches(z):
            return device_layers.loss_alone(self, z, y, weight, scale)
        xp = module_of(z)
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

    def resolved(self, y: Array | None, output_shape: tuple[int, ...], dtype: np.dtype) -> Resolved:
        if not self.settings:
            return Resolved(self, y)
        if type(self) is not SoftmaxCrossEntropy or METHODS & vars(self).keys():  # which may mean something else
            return Resolved(self, y, counts=None if y is None else self._plain(y, output_shape, dtype).counts)
        return Resolved(SoftmaxCrossEntropy(), None) if y is None else self._plain(y, output_shape, dtype)

    def _plain(self, y: Array, output_shape: tuple[int, ...], dtype: np.dtype) -> Resolved:
        check_outputs(self, output_shape[-1])
        xp, plain = module_of(y), SoftmaxCrossEntropy()
        weight = None if self.weight is None else xp.asarray(self.weight, dtype)
        if y.ndim == len(output_shape):
            if self.ignore_index is not None:
                raise ValueError("ignore_index needs class indices as targets, got probabilities")
            return Resolved(plain, self._smoothed(y, weight, dtype))
        known, inside = self._known(y, dtype)
        counts = self.counts(y, dtype)
        if not self.label_smoothing:
            return Resolved(plain, inside, counts, counts)
        hit = inside[..., None] == xp.arange(output_shape[-1])
        # a class that there isn't is known at once on the host; here it gives NaN, as in kernels
        there = xp.where(hit.any(axis=-1, keepdims=True), dtype.type(1), dtype.type(np.nan))
        return Resolved(plain, self._smoothed(hit * there, weight, dtype), known, counts)

    def counts(self, y: Array, dtype: np.dtype) -> Array | None:
        if y.dtype.kind not in "biu":  # probabilities
            return None
        known, inside = self._known(y, dtype)
        if self.weight is None:
            return known
        return known * module_of(y).asarray(self.weight, dtype)[inside.clip(0, len(self.weight) - 1)]

    def _known(self, y: Array, dtype: np.dtype) -> tuple[Array, Array]:
        """1 for class indices that aren't ignored and 0 for others, and the indices, with 0 in the place of others."""
        xp = module_of(y)
        if self.ignore_index is None:
            return xp.ones(y.shape, dtype), y
        return (y != self.ignore_index).astype(dtype), xp.where(y == self.ignore_index, 0, y)

    def _smoothed(self, y: Array, weight: Array | None, dtype: np.dtype) -> Array:
        """Probabilities, (n, classes), with what is spread over all classes, times the classes' weights."""
        spread = dtype.type(self.label_smoothing)
        y = y.astype(dtype, copy=False) * (1 - spread) + spread / y.shape[-1]
        return y if weight is None else y * weight

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"
