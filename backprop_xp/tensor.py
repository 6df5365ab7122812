"""A value and the gradient of the loss with respect to it."""

from __future__ import annotations

from typing import Any


class Tensor:
    """What the article calls a tensor: an array, room for its gradient, and a name.

    Attributes:
        data: the array (or None where a batch's signals were not kept).
        grad: the gradient of the loss with respect to ``data``, of the same shape; None before a backward pass.
        name: for people.
    """

    __slots__ = ("data", "grad", "name")

    def __init__(self, arr: Any, name: str | None = None) -> None:
        self.data: Any = arr
        self.grad: Any = None
        self.name = name

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        dtype = getattr(self.data, "dtype", type(self.data).__name__)
        shape = getattr(self.data, "shape", ())
        return f"Tensor({name}{dtype}{list(shape)}, grad={'None' if self.grad is None else 'set'})"
