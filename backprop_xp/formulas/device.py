"""Formulas on CuPy: one kernel launch each, built from kernels/elementwise.h."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .language import Formula


def run(
    formula: Formula, outputs: tuple[str, ...], arrays: Mapping[str, Any], parameters: Sequence[float]
) -> list[Any]:
    """The outputs of a formula as new CuPy arrays, computed in one launch on the current stream."""
    raise NotImplementedError("formulas on CuPy arrays are not built yet")
