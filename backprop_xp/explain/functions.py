"""Activations and losses as people write them, from the formulas that compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import Elementwise
from ..formulas import Formula, is_formula
from ..formulas.notation import Written, written
from ..losses import ElementwiseLoss


@dataclass(frozen=True)
class Function:
    """A formula's value and derivative in text and in LaTeX.

    Attributes:
        name: what it is called.
        formula: with the outputs "value" and "grad", as it is computed.
        value, grad: in text, of t (of a loss: z and y) and, for derivatives that textbooks write so, z = f(t).
        latex_value, latex_grad: the same in LaTeX.
        parameters: numbers by name, of a loss also one for each output.
    """

    name: str
    formula: Formula
    value: Written
    grad: Written
    latex_value: Written
    latex_grad: Written
    parameters: dict[str, float | tuple[float, ...]]

    def at(self, output: int) -> dict[str, str | float]:
        """The parameters of one output."""
        return {name: v[output] if isinstance(v, tuple) else v for name, v in self.parameters.items()}


def of_activation(activation: Any) -> Function | None:
    """An activation's function; None where it is Python code, which says no formula."""
    if not (is_formula(activation) and isinstance(activation, Elementwise)):
        return None
    parameters = dict(zip(activation.text[3], activation.parameters))
    return _function(activation, activation.formula, ("t", "z"), parameters)


def of_loss(loss: Any) -> Function | None:
    """The function of one output and its target; None where a loss is no such sum, or is Python code."""
    if not (is_formula(loss) and isinstance(loss, ElementwiseLoss)):
        return None
    return _function(loss, loss.kernel.formula, ("z", "y"), loss.settings)


def _function(owner: Any, formula: Formula, variables: tuple[str, ...], parameters: dict[str, Any]) -> Function:
    shown, textbook = formula, getattr(owner, "textbook", None)
    if textbook is not None:
        shown = Formula(variables, tuple(parameters), {}, dict(zip(("value", "grad"), textbook)))
    value, grad = (written(shown, output) for output in ("value", "grad"))
    latex_value, latex_grad = (written(shown, output, latex=True) for output in ("value", "grad"))
    return Function(owner.name, formula, value, grad, latex_value, latex_grad, parameters)


def terms_of_softmax(z: np.ndarray) -> tuple[np.ndarray, float]:
    """softmax(z) of one sample, and log(sum(exp(z)))."""
    shifted = z - z.max()
    total = np.exp(shifted).sum()
    return np.exp(shifted) / total, float(np.log(total) + z.max())
