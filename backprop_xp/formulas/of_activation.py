"""The formula of an activation, with its derivative and what backpropagation computes with it."""

from __future__ import annotations

from functools import lru_cache

from .derivative import differentiate
from .language import Formula


@lru_cache(maxsize=512)
def of_activation(
    value: str, grad: str | None, let: tuple[tuple[str, str], ...] = (), parameters: tuple[str, ...] = ()
) -> Formula:
    """Outputs "value", "grad" and "grad_t", which is ``grad_z`` * f'(t), of t; ``grad`` is derived if it is None."""
    given = {"value": value} if grad is None else {"value": value, "grad": grad}
    formula = Formula(("t",), parameters, dict(let), given)
    if grad is None:
        formula.outputs["grad"] = differentiate(formula, "value", "t")
    product = formula.node("multiply", formula.add_variable("grad_z"), formula.outputs["grad"])
    formula.outputs["grad_t"] = product
    return formula
