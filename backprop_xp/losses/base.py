"""What every loss has in common, and what reduction="mean" divides by."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import module_of

Array = Any

MEAN_OVER = ("samples", "elements")
METHODS = frozenset(["__call__", "grad", "weighted"])


class Resolved(NamedTuple):
    """A loss as engines compute it: everything that says how much a sample or a class counts is in the arrays.

    Attributes:
        loss: without such settings.
        y: its target.
        factor: (n,), or () for one sample, what the samples' losses are multiplied by; None: 1.
        counts: (n,), or () for one sample, what each sample counts for in a mean; None: 1.
    """

    loss: Any
    y: Array | None
    factor: Array | None = None
    counts: Array | None = None


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
            how = "write the loss as formulas, see ElementwiseLoss"
            raise TypeError(f"{type(self).__name__} takes no sample_weight; {how}")
        target = () if y is None else (y,)
        dtype = z.dtype.type
        return self(z, *target) * dtype(scale), self.grad(z, *target) * dtype(scale)

    def resolved(self, y: Array | None, output_shape: tuple[int, ...], dtype: np.dtype) -> Resolved:
        """The loss and its target for outputs of this shape as engines compute them."""
        return Resolved(self, y)

    def counts(self, y: Array, dtype: np.dtype) -> Array | None:
        """What each sample of these targets counts for in a mean, (n,), or () for one sample; None: 1."""
        return None


def weighted(loss: Any, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
    """:meth:`Loss.weighted`, also of an object that is no Loss and has just ``__call__`` and ``grad``."""
    if isinstance(loss, Loss):
        return loss.weighted(z, y, weight, scale)
    return Loss.weighted(loss, z, y, weight, scale)


def resolved(loss: Any, y: Array | None, output_shape: tuple[int, ...], dtype: np.dtype) -> Resolved:
    """:meth:`Loss.resolved`, also of an object that is no Loss."""
    return loss.resolved(y, output_shape, dtype) if isinstance(loss, Loss) else Resolved(loss, y)


def terms(loss: Any, outputs: int) -> int:
    """How many numbers a mean counts for each sample: its outputs where it is over elements, else 1."""
    return outputs if getattr(loss, "mean_over", "samples") == "elements" else 1


def averaged(
    loss: Any,
    output_shape: tuple[int, ...],
    weight: Array | None,
    counts: Array | None = None,
    alone: bool = False,
    share: Any = None,
) -> tuple[float, Array | None]:
    """What reduction="mean" takes as (scale, weight): the weighted mean; NaN for no samples, as in PyTorch.

    The sum of the samples' losses times ``weight`` is divided by that of ``counts``, which is ``weight`` unless it is
    given. A sample of weight 0 contributes nothing, even where all of them are. With ``alone`` each sample is a batch
    of its own; with ``share``, of :mod:`backprop_xp.distributed`, the samples are some of its batch.
    """
    scale = 1.0 / terms(loss, output_shape[-1])
    counts = weight if counts is None else counts
    if counts is not None:
        weight = module_of(counts).ones_like(counts) if weight is None else weight
        everywhere = counts if share is None else share.everywhere(counts)
        with np.errstate(all="ignore"):  # counts that add up to 0
            parts = module_of(counts).where(weight == 0, weight, weight / (counts if alone else everywhere.sum()))
        return (scale if everywhere.size else float("nan")), parts
    samples = output_shape[0] if len(output_shape) == 2 and not alone else 1
    samples = samples if share is None else share.samples
    return (scale / samples if samples else float("nan")), None


def product(a: Array | None, b: Array | None) -> Array | None:
    """a * b, where None is 1."""
    return b if a is None else a if b is None else a * b


def check_outputs(loss: Any, width: int) -> None:
    """That vectors of a loss have a number for each of ``width`` outputs; a ValueError otherwise."""
    wanted = getattr(loss, "outputs", None)
    if wanted not in (None, width):
        raise ValueError(f"the vectors of {loss!r} hold {wanted} numbers, and the net has {width} outputs")


def is_vector(value: Any) -> bool:
    """Whether a parameter is an array or a sequence."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0
