"""Equations written as plain array code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..backend import Array, module_of
from .chain_rule import rules
from .equation import Equation, Reads, find
from .names import Named


class ArrayEquation(Equation):
    """An equation whose residual is a function of arrays, with its derivative: for what no formula says.

        ArrayEquation(
            lambda u_t, u_xx, x: u_t - conductivity(x) * u_xx,
            grad=lambda u_t, u_xx, x: {"u_t": 1.0, "u_xx": -conductivity(x), "x": -slope(x) * u_xx},
            inputs="x t",
        )

    It stands wherever an :class:`Equation` does, and runs layer by layer.

    Args:
        residual: takes outputs, their derivatives, inputs and targets by the names of its own parameters, (n,) each,
            and returns the residual (n,), or a tuple of several.
        grad: takes the same, and returns by name the residual's derivative in every one of them but the targets, each
            (n,) or a number; of several residuals a tuple of such dictionaries.
        inputs, outputs, targets: as in :class:`Equation`.

    Raises:
        ValueError: a parameter of ``residual`` is the name of nothing that the net has.
    """

    def __init__(
        self,
        residual: Callable[..., Any],
        grad: Callable[..., Any],
        *,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str] = "u",
        targets: str | Sequence[str] = "",
    ) -> None:
        self._name_all(inputs, outputs, targets, ())
        self.residual, self.grad = residual, grad
        variables = _parameters(residual, "residual")
        if set(variables) != set(_parameters(grad, "grad")):
            raise ValueError(f"grad must take what residual takes, {', '.join(variables)}")
        named: dict[str, Named] = {}
        for name in variables:
            if name not in self.names.inputs and name not in self.targets:
                named[name] = find(name, self.names, self.targets, "the parameters of residual")
        if not named:
            raise ValueError(f"the residual takes no output of the net ({' '.join(self.names.outputs)})")
        self._reads = Reads(variables, named, rules([at.along for at in named.values()]))

    @property
    def reads(self) -> Reads:
        return self._reads

    def __repr__(self) -> str:
        return f"ArrayEquation({getattr(self.residual, '__name__', self.residual)!r})"

    def _residuals(self, known: dict[str, Array]) -> list[Array]:
        found = self.residual(**known)
        like = next(iter(known.values()))
        return [_checked("the residual", each, like, (like.shape,)) for each in _several(found)]

    def _squares(self, known: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        residuals, slopes = self._residuals(known), self._slopes(known)
        if len(residuals) != len(slopes):
            raise ValueError(
                f"there are {len(residuals)} residuals, and grad has returned derivatives of {len(slopes)}"
            )
        names = slopes[0]
        return sum(r * r for r in residuals), {
            name: sum(r * slope[name] for r, slope in zip(residuals, slopes)) for name in names
        }

    def _slopes(self, known: dict[str, Array]) -> list[dict[str, Array]]:
        """Of every residual by name its derivatives, each (samples,) or ()."""
        like, expected = next(iter(known.values())), known.keys() - set(self.targets)
        slopes = []
        for found in _several(self.grad(**known)):
            if not isinstance(found, Mapping) or found.keys() != expected:
                got = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
                wanted = ", ".join(name for name in known if name in expected)
                raise ValueError(f"grad must return a dictionary of a derivative in each of {wanted}; got {got}")
            shapes = (like.shape, ())
            slopes.append({name: _checked(f"grad in {name}", each, like, shapes) for name, each in found.items()})
        return slopes


def _parameters(function: Any, what: str) -> tuple[str, ...]:
    """The names of a function's parameters; one that has a default is a constant of its own."""
    if not callable(function):
        raise TypeError(f"{what} must be a function of named arrays, got {type(function).__name__}")
    parameters = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    if any(each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) for each in parameters):
        raise TypeError(f"{what} must name its parameters one by one, as in lambda u_t, u_xx: ...")
    return tuple(each.name for each in parameters)


def _several(found: Any) -> Sequence[Any]:
    return found if isinstance(found, (tuple, list)) else (found,)


def _checked(what: str, given: Any, like: Array, shapes: tuple[tuple[int, ...], ...]) -> Array:
    """An array of the dtype of ``like``, which is (n,)."""
    array = module_of(like).asarray(given, dtype=like.dtype)
    if array.shape not in shapes:
        raise ValueError(f"{what} must be {like.shape}, a number for each point, got {array.shape}")
    return array
