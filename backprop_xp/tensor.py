"""A value and the gradient of the loss with respect to it."""

from __future__ import annotations

from typing import Any

from . import later


class Tensor:
    """What the article calls a tensor: an array, room for its gradient, and a name.

    One Tensor may stand in several places of a net: its gradient is then the sum of those in all of them, and
    ``net.parameters`` lists it once. Two Tensors over the same memory are two parameters, each with its own partial
    derivative; no optimiser takes them.

    Another thread may read both attributes at any time: each is that of a call that was the last one meanwhile.

    Attributes:
        data: the array (or None where a batch's signals were not kept).
        grad: the gradient of the loss with respect to ``data``, of the same shape; None before a backward pass.
        name: for people.
    """

    __slots__ = ("_data", "_grad", "_later", "_made", "name")

    def __init__(self, arr: Any, name: str | None = None) -> None:
        self._data: Any = arr
        self._grad: Any = None
        #: what the last call left: its buffer, where data (None if it is ``_data``) and grad (None if there is none)
        #: lie in it, their shape
        self._later: tuple[Any, slice | None, slice | None, tuple[int, ...]] | None = None
        self._made: tuple[Any, Any, Any] | None = None  # of which ``_later``, and the two arrays made of it
        self.name = name

    @property
    def data(self) -> Any:
        later = self._later
        return self._data if later is None or later[1] is None else self._arrays(later)[1]

    @data.setter
    def data(self, array: Any) -> None:
        later = self._later
        if later is None or later[1] is None:
            self._data = array
            return
        self._grad = self._arrays(later)[2]
        self._data = array
        self._later = None  # last: until then, readers see what was there before

    @property
    def grad(self) -> Any:
        later = self._later
        return self._grad if later is None else self._arrays(later)[2]

    @grad.setter
    def grad(self, array: Any) -> None:
        later = self._later
        if later is not None and later[1] is not None:
            self._data = self._arrays(later)[1]
        self._grad = array
        self._later = self._made = None

    def _arrays(self, later: tuple[Any, slice | None, slice | None, tuple[int, ...]]) -> tuple[Any, Any, Any]:
        """What a call left in its buffer, as arrays: most are never asked for. Only writers touch ``_later``."""
        made = self._made
        if made is None or made[0] is not later:
            buffer, data, grad, shape = later
            value, gradient = (None if at is None else buffer[at].reshape(shape) for at in (data, grad))
            self._made = made = (later, value, gradient)
        return made

    def __repr__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        dtype = getattr(self.data, "dtype", type(self.data).__name__)
        shape = getattr(self.data, "shape", ())
        return f"Tensor({name}{dtype}{list(shape)}, grad={'None' if self.grad is None else 'set'})"

    _repr_html_ = later.Method("backprop_xp.notebook", "of_tensor")


def tensors_of(net: Any) -> list[Tensor]:
    """A net's parameters, then its buffers if it may have any: what training changes, each tensor once."""
    return list(dict.fromkeys((*net.parameters, *getattr(net, "buffers", {}).values())))
