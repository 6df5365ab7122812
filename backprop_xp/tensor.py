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

    __slots__ = ("_data", "_grad", "_later", "name")

    def __init__(self, arr: Any, name: str | None = None) -> None:
        self._data: Any = arr
        self._grad: Any = None
        self._later: tuple[Any, slice | None, slice, tuple[int, ...]] | None = None
        self.name = name

    @property
    def data(self) -> Any:
        if self._later is not None:
            self._settle()
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        if self._later is not None:
            self._settle()
        self._data = array

    @property
    def grad(self) -> Any:
        if self._later is not None:
            self._settle()
        return self._grad

    @grad.setter
    def grad(self, array: Any) -> None:
        if self._later is not None:
            self._settle()
        self._grad = array

    def _settle(self) -> None:
        """Make the arrays that a call left in its buffer: most of them are never asked for."""
        assert self._later is not None
        buffer, data, grad, shape = self._later
        self._later = None
        if data is not None:
            self._data = buffer[data].reshape(shape)
        self._grad = buffer[grad].reshape(shape)

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        dtype = getattr(self.data, "dtype", type(self.data).__name__)
        shape = getattr(self.data, "shape", ())
        return f"Tensor({name}{dtype}{list(shape)}, grad={'None' if self.grad is None else 'set'})"
