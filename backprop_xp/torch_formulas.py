"""Activations on tensors, by PyTorch's own operations, with derivatives of every order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .derivatives.activations import formula_of
from .formulas import Formula, is_formula


def activate(activation: Any, t: torch.Tensor) -> torch.Tensor:
    """f(t), which PyTorch may differentiate as often as it likes.

    The first derivative is the activation's own, and at kinks the others are those from the right, as everywhere here.

    Raises:
        TypeError: the activation is written in Python.
    """
    formula_of(activation, 0)
    return _Derivative.apply(t, Term(activation, activation.parameters, 0))


def traced(activation: Any, t: torch.Tensor) -> torch.Tensor:
    """f(t) for those who trace operations. TypeError: the activation is written in Python."""
    if not is_formula(activation):
        shown = getattr(activation, "name", type(activation).__name__)
        raise TypeError(
            f"{shown} is written in Python, of which an export has no form: write it as a formula, "
            "Elementwise(name, value=...)"
        )
    return Term(activation, activation.parameters, 0)(t)


@dataclass(frozen=True)
class Term:
    """The derivative of this order of an activation, with these values of its parameters."""

    activation: Any
    parameters: tuple[float, ...]
    order: int

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """f^(order)(t), of the shape of ``t``, by operations that PyTorch can trace."""
        formula = formula_of(self.activation, self.order)
        return _evaluated(formula, f"f{self.order}", t, self.parameters)

    @property
    def next(self) -> Term:
        """The derivative of this one."""
        return Term(self.activation, self.parameters, self.order + 1)


class _Derivative(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(t: torch.Tensor, term: Term) -> torch.Tensor:
        return term(t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        t, ctx.term = inputs
        ctx.save_for_backward(t)
        ctx.save_for_forward(t)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (t,) = ctx.saved_tensors
        return grad * _Derivative.apply(t, ctx.term.next), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        (t,) = ctx.saved_tensors
        return tangent * _Derivative.apply(t, ctx.term.next)


def _sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x != x, x, torch.sign(x))  # NaN for NaN


def _normal_pdf(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def _expm1(x: torch.Tensor) -> torch.Tensor:
    if torch.onnx.is_in_onnx_export():  # which has no expm1
        return torch.tanh(0.5 * x) * (torch.exp(x) + 1)
    return torch.expm1(x)


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    if torch.onnx.is_in_onnx_export():  # nor erfc
        return 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
    return 0.5 * torch.erfc(x * -math.sqrt(0.5))  # torch.special.ndtr cancels within transforms


#: What computes the language's operations and functions.
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div, "negative": torch.neg,
    "less": torch.lt, "less_equal": torch.le, "greater": torch.gt, "greater_equal": torch.ge, "equal": torch.eq,
    "not_equal": torch.ne, "where": torch.where, "minimum": torch.minimum, "maximum": torch.maximum,
    "abs": torch.abs, "sign": _sign, "sqrt": torch.sqrt, "exp": torch.exp, "expm1": _expm1, "log": torch.log,
    "log1p": torch.log1p, "sin": torch.sin, "cos": torch.cos, "tanh": torch.tanh, "erf": torch.erf,
    "normal_cdf": _normal_cdf, "normal_pdf": _normal_pdf,
}  # fmt: skip


def _evaluated(formula: Formula, output: str, t: torch.Tensor, parameters: Sequence[float]) -> torch.Tensor:
    """An output of a formula of ``t``."""
    wanted = formula.outputs[output]
    needed, stack = set[int](), [wanted]
    while stack:
        i = stack.pop()
        if i not in needed:
            needed.add(i)
            stack.extend(formula.nodes[i].args)
    values: dict[int, torch.Tensor] = {}
    for i in sorted(needed):
        node = formula.nodes[i]
        match node.op:
            case "variable":
                values[i] = t
            case "parameter":
                number = parameters[formula.parameters.index(node.name)]
                values[i] = torch.tensor(number, dtype=t.dtype, device=t.device)
            case "constant":
                values[i] = torch.tensor(node.number, dtype=t.dtype, device=t.device)
            case _:
                values[i] = FUNCTIONS[node.op](*(values[a] for a in node.args))
    value = values[wanted]
    # a constant, or the argument itself, is no new tensor of its shape yet
    return value + torch.zeros_like(t) if value.ndim != t.ndim else value.clone() if value is t else value
