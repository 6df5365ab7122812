"""Formulas as they are written for people, computed by Python."""

from __future__ import annotations

import re
from math import cos, erf, exp, log, pi, sin, sqrt, tanh

import numpy as np

NAMES = {
    "exp": exp, "sin": sin, "cos": cos, "log": log, "tanh": tanh, "sqrt": sqrt, "erf": erf, "sign": np.sign, "min": min, "max": max,
    "Phi": lambda t: 0.5 * (1 + erf(t / sqrt(2))), "phi": lambda t: exp(-t * t / 2) / sqrt(2 * pi),
}  # fmt: skip


def evaluated(text: str, names: dict) -> float:
    """A formula as it is written, by Python."""
    code = text.replace("^", "**")
    code = re.sub(r"\|([^|]*)\|", r"abs(\1)", code)
    code = re.sub(r"(?<![<>!=])=", "==", code)
    return eval(code, {"__builtins__": {}, "abs": abs}, {**NAMES, **names})
