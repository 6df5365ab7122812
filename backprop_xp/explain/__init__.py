"""What a net computes, told step by step: formulas, numbers, and a page on which gradients flow."""

from .explanation import Explanation, explain
from .steps import Step

__all__ = ["Explanation", "Step", "explain"]
