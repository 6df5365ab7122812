"""Element-wise formulas: written once as text, run by NumPy, by CuPy and inside compiled kernels."""

from .derivative import differentiate
from .language import FUNCTIONS, Formula, FormulaError

__all__ = ["FUNCTIONS", "Formula", "FormulaError", "differentiate"]
