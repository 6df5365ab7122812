"""Activations that are formulas: the built-in ones' and the users'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import ranges
from ..arrays import elementwise
from ..backend import Array
from ..formulas import Formula
from ..formulas.of_activation import of_activation
from .base import Activation

METHODS = {"__call__", "grad", "backprop"}
#: Classes whose formula says all there is; built_in.py adds its own.
FORMULA_CLASSES: set[type] = set()


class Elementwise(Activation):
    """An activation given by formulas, see :mod:`backprop_xp.formulas.language`.

    Args:
        name: what to call it in messages.
        value: f as a formula of ``t``.
        grad: f' as a formula of ``t``; derived from ``value`` if left out.
        let: names for subexpressions that both use.
        params: names and values of scalar parameters; they become attributes, which may be changed.
    """

    scope = "sample"
    name: str
    text: tuple[str, str | None, tuple[tuple[str, str], ...], tuple[str, ...]]  # value, grad, let, parameters' names
    requires: tuple[str, ...] = ()  # what the parameters must fulfil, see backprop_xp.ranges

    def __init__(
        self,
        name: str,
        value: str,
        grad: str | None = None,
        *,
        let: Mapping[str, str] | None = None,
        params: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.text = (value, grad, tuple((let or {}).items()), tuple(params or {}))
        for parameter, number in (params or {}).items():
            if parameter in ("name", "text") or hasattr(Elementwise, parameter):
                raise ValueError(f"a parameter can't be called {parameter!r}: an activation has that attribute")
            setattr(self, parameter, ranges.real(parameter, number))
        self.formula, self.parameters  # noqa: B018  a mistake is reported here, not at the first call

    @property
    def formula(self) -> Formula:
        """The formula with the outputs "value", "grad" and "grad_t", the last being ``grad_z`` * f'(t)."""
        return of_activation(*self.text)

    @property
    def parameters(self) -> tuple[float, ...]:
        """The values of the parameters, in the formula's order; a ValueError where they are out of range."""
        values = {name: ranges.real(name, getattr(self, name)) for name in self.text[3]}
        ranges.check(self, values, self.requires)
        return tuple(values.values())

    @property
    def is_formula(self) -> bool:
        """Whether the formula says all there is: false where a subclass or an instance overrides a method."""
        return type(self) in FORMULA_CLASSES and not METHODS & vars(self).keys()

    def __call__(self, x: Array) -> Array:
        return elementwise(self.formula, ("value",), {"t": x}, self.parameters)[0]

    def grad(self, x: Array) -> Array:
        return elementwise(self.formula, ("grad",), {"t": x}, self.parameters)[0]

    def backprop(self, t: Array, grad_z: Array) -> Array:
        if not self.is_formula:
            return super().backprop(t, grad_z)
        return elementwise(self.formula, ("grad_t",), {"t": t, "grad_z": grad_z}, self.parameters)[0]

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.text[3])
        return f"{type(self).__name__}({params})"


FORMULA_CLASSES.add(Elementwise)


class BuiltIn(Elementwise):
    """A built-in activation: the class's attributes are its formula.

    ``kernel`` and ``cuda_kernel`` name structs of kernels/activations.h that compute the formula in less time, on the
    CPU and on the GPU, where there are such. ``second`` is the second derivative as a formula of ``value`` and
    ``derivative``, where there is a short one that loses no digits: compiled derivatives of higher order start from it.
    Where ``value`` and ``derivative`` are written so that nothing overflows, ``textbook`` has both as people know them,
    the derivative of t and z = f(t).
    """

    kernel: str = ""
    cuda_kernel: str = ""
    textbook: tuple[str, str] | None = None
    second: str = ""
    value: str
    derivative: str
    let: Mapping[str, str] = {}
    params: Mapping[str, float] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.text = (cls.value, cls.derivative, tuple(cls.let.items()), tuple(cls.params))
        cls.textbook = vars(cls).get("textbook")  # a subclass may be another function

    def __init__(self, **params: float) -> None:
        for name in params.keys() - self.params.keys():
            known = ", ".join(self.params) or "none"
            raise TypeError(f"{type(self).__name__} has no parameter {name!r}; it has {known}")
        for name, default in self.params.items():
            setattr(self, name, ranges.real(name, params.get(name, default)))
        self.parameters  # noqa: B018  it checks their ranges
