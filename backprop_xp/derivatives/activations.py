"""Derivatives of activations, of every order that their formula has."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .. import arrays
from ..backend import Array
from ..formulas import Formula, differentiate, is_formula


def derivatives(activation: Any, t: Array, order: int) -> list[Array]:
    """f(t), f'(t), ... up to f^(order)(t), each of the shape and dtype of ``t``.

    The first derivative is the activation's own; those of higher order are its derivatives from the right, where f has
    a kink.

    Raises:
        TypeError: the activation is written in Python; only formulas can be derived.
    """
    names = tuple(f"f{k}" for k in range(order + 1))
    return arrays.elementwise(formula_of(activation, order), names, {"t": t}, activation.parameters)


def formula_of(activation: Any, order: int) -> Formula:
    """The formula with the outputs "f0", "f1", ... up to this order of :func:`derivatives`; its TypeError."""
    if not is_formula(activation):
        shown = getattr(activation, "name", type(activation).__name__)
        raise TypeError(f"{shown} is written in Python: an Elementwise formula has derivatives of every order")
    return _formula(activation.text, order)


@lru_cache(maxsize=512)
def _formula(text: Any, order: int) -> Formula:
    return up_to(text, order)


def up_to(text: Any, order: int) -> Formula:
    """A new formula of t with the outputs f0, f1, ... up to the derivative of this order, of an activation's text."""
    value, grad, let, parameters = text
    formula = Formula(("t",), parameters, dict(let), {"f0": value} | ({} if grad is None else {"f1": grad}))
    if grad is None:
        formula.outputs["f1"] = differentiate(formula, "f0", "t")
    # a value whose first derivative isn't given is derived from the right all the way
    last, known = ("f0", 0) if grad is None else ("f1", 1)
    for k in range(known + 1, order + 1):
        formula.outputs[f"right{k}"] = differentiate(formula, last, "t", from_the_right=True)
        last = f"right{k}"
        if k >= 2:
            formula.outputs[f"f{k}"] = formula.outputs[last]
    return formula
