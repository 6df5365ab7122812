"""Element-wise formulas: written once as text, run by NumPy, by CuPy and inside compiled kernels."""

from typing import Any

from .derivative import differentiate
from .language import FUNCTIONS, Formula, FormulaError

__all__ = ["FUNCTIONS", "Formula", "FormulaError", "differentiate", "is_formula"]


def is_formula(function: Any) -> bool:
    """Whether an activation or a loss, which may be any object of the user's, is a formula and nothing else."""
    return getattr(function, "is_formula", False)
