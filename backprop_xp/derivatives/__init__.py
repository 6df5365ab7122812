"""Derivatives of a net's outputs in its inputs, of any order, and losses that contain them."""

from .equation import Equation

__all__ = ["Equation"]
