"""What an operation's value was computed from, as far as rounding is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import Array


@dataclass(frozen=True)
class Computed:
    """What the value of a layer, or of a node, was computed from in a call.

    Attributes:
        largest: the largest sum of absolute values among those that its numbers are sums of.
        steepness: by how much it multiplies small differences, where it normalises; 1 elsewhere.
    """

    largest: float
    steepness: float = 1.0


def most(array: Array) -> float:
    """The largest absolute value, 0 of an empty array."""
    return float(np.max(np.abs(array), initial=0))


def normalised(z: Any, axis: int, eps: float) -> Computed:
    """Of z on NumPy, divided by the root of its variance along this axis, plus ``eps``."""
    scale = 1 / np.sqrt(z.var(axis=axis, keepdims=True) + eps)
    return Computed(most(scale * z), max(1.0, most(scale)))
