"""What derivatives and equations ask of a net: that signals can be pushed through it, and gradients pulled back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..backend import Array, Backend
from .chain_rule import Rules


class Differentiable(Protocol):
    """A net as it is now, as a function of one x (n, features); the features of several inputs stand side by side.

    Attributes:
        backend, dtype: of all its arrays.
        inputs, outputs: features of x and of the outputs.
        widths: features of all its signals together.
        multiply_adds: of one signal of one sample, for its value and all gradients of parameters.
    """

    @property
    def backend(self) -> Backend: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def widths(self) -> int: ...
    @property
    def multiply_adds(self) -> int: ...

    def tiles(self, samples: int, rules: Rules) -> list[slice]:
        """The samples in order, as many at once as the caches hold."""
        ...

    def check(self) -> None:
        """That every sample has derivatives of its own. Raises ValueError or TypeError, naming what has none."""
        ...

    def push(self, z: Array, rules: Rules, first: int = 0) -> tuple[Array, Any]:
        """The stack of the outputs from that of x, (signals, samples, features), and what :meth:`pull` needs.

        Args:
            first: the number of the first of these samples in the whole batch.
        """
        ...

    def pull(self, kept: Any, grad_u: Array, rules: Rules) -> tuple[list[Array], Array]:
        """The parameters' gradients, in the order of ``Call.parameters``, and the gradient in the stack of x.

        Args:
            grad_u: the gradient of a loss in the stack of the outputs.
        """
        ...

    def pullback(self, x: Array, first: int = 0) -> tuple[Array, Callable[[Array], Array]]:
        """The outputs (n, outputs) at x, and what gives from a gradient in them that in x: the plain passes.

        Args:
            first: as in :meth:`push`.
        """
        ...
