"""All parameters of a net in one array, so that one pass updates them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import is_
from typing import Any

import numpy as np

from ..backend import NOTHING, Array, module_of, owner_of
from ..dtypes import DTYPES
from ..tensor import Tensor


class Flat:
    """One array of all parameters, and one of all gradients.

    ``data`` of every tensor becomes a view into the first. A user may edit it in place or put another array there:
    :meth:`gather` sees both. Matrices come first, in the first ``matrices`` elements: penalties are for them alone.

    Args:
        tensors: a net's parameters, in any order; a tensor that occurs twice counts once.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.given = list(tensors)
        self.tensors = sorted(dict.fromkeys(self.given), key=lambda tensor: np.ndim(tensor.data) < 2)
        if not self.tensors:
            raise ValueError("there are no parameters to train")
        arrays = [tensor.data for tensor in self.tensors]
        self.xp, self.dtype = module_of(arrays[0]), arrays[0].dtype
        #: a context in which the parameters' device is the current one
        self.device: Any = arrays[0].device if owner_of(arrays[0]) == "cupy" else NOTHING
        for tensor, array in zip(self.tensors, arrays):
            if owner_of(array) != owner_of(arrays[0]) or array.dtype != self.dtype or self.dtype.name not in DTYPES:
                raise TypeError(
                    f"all parameters must be float32 or all float64, on one device; {_name(tensor)} holds "
                    f"{array.dtype} of {owner_of(array)}, and the first {self.dtype} of {owner_of(arrays[0])}"
                )
        self._refuse_overlap(arrays)
        self.matrices = sum(array.size for array in arrays if array.ndim >= 2)
        with self.device:
            self.data = self.xp.concatenate(arrays, axis=None)
            self.grad = self.xp.zeros_like(self.data)
        self._shapes = [array.shape for array in arrays]
        self.views = self.split(self.data)
        for tensor, view in zip(self.tensors, self.views):
            tensor.data = view

    @property
    def layout(self) -> list[list[Any]]:
        """The name and the shape of each tensor, in order."""
        return [[tensor.name, list(view.shape)] for tensor, view in zip(self.tensors, self.views)]

    def split(self, flat: Array) -> list[Array]:
        """Views into such an array with the tensors' shapes."""
        views, at = [], 0
        for shape in self._shapes:
            size = math.prod(shape)
            views.append(flat[at : at + size].reshape(shape))
            at += size
        return views

    def move(self, data: Array) -> None:
        """Have all parameters in this array, of as many elements, from now on."""
        self.adopt()
        data[...] = self.data
        self.data, self.views = data, self.split(data)
        for tensor, view in zip(self.tensors, self.views):
            tensor.data = view

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether it was made of these very tensors."""
        return len(tensors) == len(self.given) and all(map(is_, tensors, self.given))

    def gather(self) -> None:
        """Take over the arrays that were put into tensors since, and collect the gradients."""
        self.adopt()
        try:
            self.xp.concatenate([tensor.grad for tensor in self.tensors], axis=None, out=self.grad)
        except (TypeError, ValueError):
            self._explain()
            raise

    def adopt(self) -> None:
        """Take over the arrays that were put into tensors since."""
        for tensor, view, shape in zip(self.tensors, self.views, self._shapes):
            data = tensor.data
            if data is view and data.shape == shape and data.dtype == self.dtype:
                continue
            if data is view or owner_of(data) != owner_of(view) or np.shape(data) != shape:
                now = f"{getattr(data, 'dtype', '')}{list(np.shape(data))} of {owner_of(data)}"
                raise ValueError(
                    f"{_name(tensor)} was {self.dtype}{list(shape)} of {owner_of(view)} at the optimiser's first step "
                    f"and is now {now}: make a new optimiser"
                )
            for other, memory in zip(self.tensors, self.views):
                if other is not tensor and self.xp.may_share_memory(data, memory):
                    raise _overlap(other, tensor)
            view[...] = data
            tensor.data = view

    def _refuse_overlap(self, arrays: list[Array]) -> None:
        """Two tensors over the same memory would be trained apart, each in memory of its own."""
        reached, last = 0, 0
        for i in sorted(range(len(arrays)), key=lambda i: _span(arrays[i])):
            start, end = _span(arrays[i])
            if start < reached and self.xp.shares_memory(arrays[last], arrays[i]):
                raise _overlap(*(self.tensors[k] for k in sorted((last, i))))
            if end > reached:
                reached, last = end, i

    def restore(self, content: Array) -> None:
        """Put these numbers into all tensors, whatever arrays they hold now."""
        with self.device:
            self.data[...] = content
        for tensor, view in zip(self.tensors, self.views):
            tensor.data = view

    def _explain(self) -> None:
        for tensor, view in zip(self.tensors, self.views):
            if tensor.grad is None:
                raise ValueError(f"{_name(tensor)} has no gradient: call loss_and_grad before a step")
            if np.shape(tensor.grad) != view.shape:
                raise ValueError(
                    f"the gradient of {_name(tensor)} must have shape {view.shape}, got {tensor.grad.shape}"
                )


def _overlap(a: Tensor, b: Tensor) -> ValueError:
    return ValueError(
        f"{_name(a)} and {_name(b)} are two tensors over the same memory: put one Tensor into both places, or copy the "
        "array"
    )


def _span(array: Array) -> tuple[int, int]:
    """The addresses between which an array's numbers lie."""
    start = array.data.ptr if owner_of(array) == "cupy" else array.__array_interface__["data"][0]
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides)]
    return start + sum(s for s in steps if s < 0), start + sum(s for s in steps if s > 0) + array.itemsize


def _name(tensor: Tensor) -> str:
    return tensor.name or "a parameter"
