"""A net's buffers, which are not trained, in a run: beside the parameters in what is kept and put back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..backend import Array
from ..tensor import Tensor
from .flat import Flat


class Buffers:
    """All buffers of a net as one array, none for a net without."""

    def __init__(self, net: Any, flat: Flat) -> None:
        """``flat`` holds the net's parameters."""
        self.tensors: list[Tensor] = list(dict.fromkeys(getattr(net, "buffers", {}).values()))
        self.flat = flat

    def content(self) -> Array | None:
        """A copy of them, one after another."""
        if not self.tensors:
            return None
        with self.flat.device:
            return self.flat.xp.concatenate([tensor.data for tensor in self.tensors], axis=None)

    def restore(self, content: Array) -> None:
        """Put these numbers into all buffers, in arrays of their own."""
        at = 0
        for tensor in self.tensors:
            shape = tensor.data.shape
            size = math.prod(shape)
            with self.flat.device:
                tensor.data = content[at : at + size].reshape(shape).copy()
            at += size

    def with_parameters(self) -> Array:
        """Parameters and buffers in one array, which may be the parameters' own."""
        content = self.content()
        if content is None:
            return self.flat.data
        with self.flat.device:
            return self.flat.xp.concatenate([self.flat.data, content])

    def restore_with_parameters(self, content: Array) -> None:
        """Put back what :meth:`with_parameters` gave."""
        parameters = self.flat.data.size
        self.flat.restore(content[:parameters])
        self.restore(content[parameters:])


def undo(net: Any) -> Callable[[], None]:
    """A function that puts back the buffers which the net has now."""
    before = [(tensor, tensor.data) for tensor in getattr(net, "buffers", {}).values()]

    def put_back() -> None:
        for tensor, data in before:
            tensor.data = data

    return put_back
