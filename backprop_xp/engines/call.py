"""What an engine is asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .. import scope
from ..backend import Array, Backend
from ..passes.article import Layer


@dataclass
class Call:
    """One batch for one net. All arrays are checked, of the net's dtype and on its backend; large ones that a net on a
    GPU is given may still be on the host, and of their own dtype (engines/streamed.py).

    ``x`` is (n, features), or (features,) for one sample. The loss is ``scale`` times the sum of the samples'
    losses times ``weight``.
    """

    backend: Backend
    dtype: np.dtype
    layers: list[Layer]
    x: Array
    loss: Any = None
    y: Array | None = None
    weight: Array | None = None
    scale: float = 1.0
    input_grad: bool = False
    keep_signals: bool = False
    threads: int | None = None

    is_graph: ClassVar[bool] = False

    @property
    def single(self) -> bool:
        """Whether it is one sample."""
        return self.x.ndim == 1

    @property
    def multiply_adds(self) -> int:
        """Of one sample's matrix products."""
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:])]
        return 3 * sum(products) - (0 if self.input_grad else products[0])

    @property
    def samples(self) -> int:
        return len(self.x) if self.x.ndim == 2 else 1

    @property
    def whole(self) -> bool:
        """Whether it can't be computed in pieces."""
        return self.keep_signals or self.single or bool(self.backend.on_gpu and self.needs_whole_batch)

    @property
    def needs_whole_batch(self) -> str:
        """A clause about what needs the whole batch at once, "" if nothing does; see :mod:`backprop_xp.scope`."""
        return scope.of_chain([layer.activation for layer in self.layers], self.loss)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The widths of the layers, input first."""
        return (self.x.shape[-1], *[len(layer.weight) for layer in self.layers])

    @cached_property
    def parameters(self) -> int:
        """How many numbers the weights and biases hold."""
        return sum([layer.weight.size + (0 if layer.bias is None else layer.bias.size) for layer in self.layers])
